"""What a measurement found: a ratio per repeat, or why there is none; and how it was to be measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysweep.bench.goals import GOALS

__all__ = ["Finding", "How"]


@dataclass(frozen=True)
class How:
    """How to measure.

    Attributes:
        folder: for everything that is written; its own, removed afterwards.
        quick: small sizes and few repeats, to see that it works; the numbers then jitter.
        tell: called with one line of progress.
        faces: of the smaller data set of R19.
        real: folder of real faces and models, None to use drawn ones.
    """

    folder: Path
    quick: bool = False
    tell: Callable[[str], None] = lambda line: None
    faces: int = 500
    real: Path | None = None

    @property
    def repeats(self) -> int:
        """How often product and baseline are measured in turn."""
        return 2 if self.quick else 5


@dataclass(frozen=True)
class Finding:
    """One ratio, measured.

    Attributes:
        goal: key of `GOALS`.
        values: the ratio, once per repeat; empty when it was not measured.
        note: on what it was measured, or where the rest goes when it falls short.
        missing: why it was not measured.
        facts: the figures behind it, by name with unit (`kernel_s`).
    """

    goal: str
    values: tuple[float, ...] = ()
    note: str = ""
    missing: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the repeats; NaN for none."""
        return statistics.median(self.values) if self.values else float("nan")

    @property
    def verdict(self) -> str:
        """`pass`, `falls short`, `fails` or `not measured`."""
        return GOALS[self.goal].verdict(self.median) if self.values else "not measured"

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        goal = GOALS[self.goal]
        return {
            "ratio": self.goal,
            "what": goal.what,
            "goal": goal.text,
            "worst": goal.worst,
            "median": self.median if self.values else None,
            "values": list(self.values),
            "verdict": self.verdict,
            "note": self.note,
            "missing": self.missing,
            "facts": dict(self.facts),
        }
