"""R8: the same command again when the sweep is finished, against its first run."""

from __future__ import annotations

import statistics
import time

from raysweep.bench.drawn import own_cache
from raysweep.bench.finding import Finding, How
from raysweep.bench.stubs import Kernel
from raysweep.bench.sweeps import stub_sweep

__all__ = ["rerun"]


def rerun(how: How) -> list[Finding]:
    """A sweep of trials of one second with Ray, MLflow and the report; then again, in the same process."""
    trials = 10 if how.quick else 60
    with own_cache(how.folder):
        stub_sweep(how.folder / "warm", 1, Kernel(), engine="local")  # imports, drawn faces
        how.tell(f"R8: {trials} trials of a second each")
        first = stub_sweep(how.folder / "runs", trials, Kernel(measure_s=1.0), engine="ray")
        again = []
        for turn in range(how.repeats):
            how.tell(f"R8: the finished sweep again, {turn + 1}")
            again.append(stub_sweep(how.folder / "runs", trials, Kernel(measure_s=1.0), engine="ray"))
    seconds = [run.seconds for run in again]
    note = f"{trials} trials of 1 s: {first.seconds:.1f} s, then {statistics.median(seconds):.2f} s"
    facts = {"first_s": first.seconds, "again_s": seconds, "at": time.time()}
    return [Finding("R8", tuple(value / first.seconds for value in seconds), note, facts=facts)]
