"""Hundreds and thousands of trials: does the last one cost what the first one did, in time and in memory?

The sweep is real (proposals, ledger with fsync and lease, evidence, live view) but for its tracker, which takes everything and sends nothing.
Thousands of trials are stubs of milliseconds; hundreds are real, in this process: blur and pixelate on drawn faces, judged by networks and attackers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raysweep import sweep
from raysweep.bench.against import as_space, settings_of
from raysweep.bench.drawn import own_cache, silent_view
from raysweep.bench.finding import Finding, How
from raysweep.bench.stubs import Kernel
from raysweep.bench.sweeps import FACES, NoTracker, stub_sweep
from raysweep.config import resolve_sweep
from raysweep.engine.record import TrialRecord

__all__ = ["each_leaves", "growth", "many", "resident_bytes"]

KERNEL = Kernel(measure_s=0.005)
LISTED = 20
"""Different settings of the real sweep; repeated, so that each tenth of 200 trials does the same work."""


def many(how: How) -> list[Finding]:
    """Sweeps of 200 and of 2,000 trials that are stubs, and one of 200 real ones."""
    return [*_stubs(how), *_real(how)]


def _stubs(how: How) -> list[Finding]:
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


def _real(how: How) -> list[Finding]:
    rounds = 2 if how.quick else 10
    how.tell(f"many: {LISTED * rounds} real trials")
    sizes: list[int] = []

    class Scale(NoTracker):
        """Weighs the process at each record."""

        def trial(self, record: TrialRecord) -> None:
            if not record.control:
                sizes.append(resident_bytes())
            super().trial(record)

    with own_cache(how.folder):
        space = how.folder / "settings.yaml"
        space.write_text(as_space(settings_of(LISTED)), encoding="utf-8")
        config = resolve_sweep(str(space), ["engine=local", "threads=1", f"repeats={rounds}"], data=FACES)
        result = sweep.tune(
            config, runs=how.folder / "runs-real", view_of=silent_view, parts=sweep.Parts(sink_of=Scale)
        )
    records = [record for record in result.records if not record.control]
    failed = [record.reason for record in records if record.state != "complete"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(records)} trials failed: {failed[0]}")
    ended = [record.ended_at for record in records]
    each = float(np.median(np.diff(sorted(ended))))
    facts = {"ended_at": ended, "bytes": sizes}
    what = f"{len(records)} trials of blur and pixelate on {records[0].fidelity['images']} drawn faces"
    grown = (sizes[-1] - sizes[len(sizes) // 10]) / 1e6
    return [
        Finding("many real time", (growth(ended),), f"{what}, {1000 * each:.0f} ms each", facts=facts),
        Finding(
            "many real memory", (each_leaves(sizes) / 1e6,), f"{grown:.0f} MB more after the last than after a tenth"
        ),
    ]


def each_leaves(sizes: Sequence[int]) -> float:
    """Bytes that each trial leaves behind: the slope of the memory over the trials after the first tenth, which loads and caches.

    Args:
        sizes: bytes at the end of each trial, in their order.
    """
    first = len(sizes) // 10
    return float(np.polyfit(np.arange(first, len(sizes)), np.asarray(sizes[first:], dtype=np.float64), 1)[0])


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
