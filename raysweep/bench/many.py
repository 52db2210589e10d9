"""Hundreds and thousands of trials: does the last one cost what the first one did, in time and in memory?

The sweep is real (proposals, ledger with fsync and lease, evidence, live view, tracker); trials take milliseconds. The tracker is the one of
the user's default, MLflow on SQLite, unless it is left out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raysweep.bench.drawn import own_cache
from raysweep.bench.finding import Finding, How
from raysweep.bench.stubs import Kernel
from raysweep.bench.sweeps import NoTracker, stub_sweep

__all__ = ["growth", "many", "resident_bytes"]

KERNEL = Kernel(measure_s=0.005)


def many(how: How) -> list[Finding]:
    """Sweeps of 200 and of 2,000 trials."""
    found = []
    with own_cache(how.folder):
        stub_sweep(how.folder / "warm", 2, Kernel(), sink_of=NoTracker)
        for trials in (50, 200) if how.quick else (200, 2000):
            how.tell(f"many: {trials} trials of {1000 * KERNEL.measure_s:g} ms")
            before, started = resident_bytes(), time.perf_counter()
            run = stub_sweep(how.folder / f"runs-{trials}", trials, KERNEL, sink_of=NoTracker)
            seconds, grown = time.perf_counter() - started, resident_bytes() - before
            ended = [record.ended_at for record in run.result.records if not record.control]
            found.append((trials, growth(ended), seconds, grown))
    (few, ratio_few, seconds_few, _), (lots, ratio_lots, seconds_lots, grown) = found
    each = 1000 * (seconds_lots - seconds_few) / (lots - few)
    facts = {"trials": [few, lots], "seconds": [seconds_few, seconds_lots], "grown_bytes": [item[3] for item in found]}
    return [
        Finding(
            "many time",
            (ratio_lots,),
            f"{lots:,} trials, {each:.0f} ms each; {ratio_few:.2f} within {few}",
            facts=facts,
        ),
        Finding(
            "many memory",
            (grown / lots / 1e6,),
            f"{grown / 1e6:.0f} MB more after {lots:,} trials: all records stay in memory, for the report",
        ),
    ]


def growth(ended: Sequence[float]) -> float:
    """Time of a trial in the last tenth of a sweep over that in its second tenth (medians).

    Args:
        ended: wall clock at the end of each trial.
    """
    steps = np.diff(np.sort(np.asarray(ended)))
    tenth = max(1, len(steps) // 10)
    return float(np.median(steps[-tenth:]) / np.median(steps[tenth : 2 * tenth]))


def resident_bytes() -> int:
    """Memory of this process that cannot be given back."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
