"""Entry points of installed packages, looked up once: reading the metadata of all packages takes a hundredth of a second each time."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib import metadata

__all__ = ["entry_points"]


def entry_points(*, group: str) -> tuple[metadata.EntryPoint, ...]:
    """As `importlib.metadata.entry_points`; looks again when the search path or one of its folders has changed."""
    return _found(group, tuple((place, _changed_at(place)) for place in sys.path))


@lru_cache(maxsize=16)
def _found(group: str, path: tuple[tuple[str, int], ...]) -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))


def _changed_at(place: str) -> int:
    """An installation adds a folder, and so changes the time of the one it is in."""
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0
