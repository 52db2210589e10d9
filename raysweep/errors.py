"""The exception tree. Every message says what happened, where, and what to do.

`cli.py` turns a `RaysweepError` into one message on stderr and the process exit code `exit_code`;
anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

__all__ = [
    "ConfigError",
    "DataError",
    "ModelError",
    "RaysweepError",
    "StoreError",
    "TrialError",
    "nearest",
]


class RaysweepError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 1


class ConfigError(RaysweepError):
    """Settings, a search space or a command line are wrong.

    Args:
        problems: every problem found, each one line: value given, values allowed, nearest known name.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(RaysweepError):
    """A data set, shard or image set cannot be used at all (a single bad image is quarantined instead)."""

    exit_code = 2


class ModelError(RaysweepError):
    """Weights are missing, damaged, of another architecture, or not allowed."""

    exit_code = 2


class TrialError(RaysweepError):
    """One trial failed; the sweep goes on and records the reason."""


class StoreError(RaysweepError):
    """A cache, ledger, run folder or tracking store cannot be read or written."""


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint ` (did you mean 'x'?)` for a misspelt name, or an empty string.

    >>> nearest("blurr", ["blur", "pixelate"])
    " (did you mean 'blur'?)"
    """
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
