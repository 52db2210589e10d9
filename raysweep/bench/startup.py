"""R25: the help of the command line against a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
import time

from raysweep.bench.finding import Finding, How

__all__ = ["startup"]


def startup(how: How) -> list[Finding]:
    """`python -m raysweep --help` and `python -c pass`, in turn."""
    bare, helped = [], []
    for turn in range(2 * how.repeats + 1):
        first, second = _seconds("-c", "pass"), _seconds("-m", "raysweep", "--help")
        if turn:  # the first one fills the file system's cache
            bare.append(first)
            helped.append(second)
    ratios = tuple(ours / theirs for ours, theirs in zip(helped, bare, strict=True))
    return [
        Finding(
            "R25",
            ratios,
            f"{1000 * min(helped):.0f} ms and {1000 * min(bare):.0f} ms at best",
            facts={"help_s": helped, "bare_s": bare},
        )
    ]


def _seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)  # noqa: S603 - our own interpreter, fixed words
    return time.perf_counter() - started
