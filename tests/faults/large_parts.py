"""A sweep whose workers hand on more than Ray's object store holds: python large_parts.py RUNS ENGINE TRIALS.

Started by test_object_store_full.py. Real in all but what the workers compute: each part carries 45 MB beside its rows, several trials are under
way at once, and the judge refuses a part that is not what was measured. Ends as the command line does: 1 and one message, or 0.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.bench.stubs import Kernel, StubWorker
from raysweep.engine.record import Outcome, TrialTask
from raysweep.errors import RaysweepError, TrialError
from raysweep.schema import IntArray

PART_BYTES = 45_000_000
KERNEL = Kernel(measure_s=0.05)


class LargeParts(StubWorker):
    def measure(self, task: TrialTask, fitted: object, rows: IntArray) -> Any:
        part = super().measure(task, fitted, rows)
        return {**part, "ended": 0.0, "ballast": np.full(PART_BYTES, task.number % 251, np.uint8)}

    def judge(self, task: TrialTask, fitted: object, parts: Any, extras: Any = ()) -> Outcome:
        for part in parts:
            if len(part["ballast"]) != PART_BYTES or not (part["ballast"] == task.number % 251).all():
                raise TrialError("a part is not what was measured")
        return super().judge(task, fitted, parts, extras)


def main() -> int:
    import large_parts

    from raysweep.bench.sweeps import NoTracker, stub_sweep

    runs, engine, trials = sys.argv[1:]
    worker = partial(large_parts.LargeParts, kernel=KERNEL)
    words = ["workers=2"] if engine == "ray" else []
    try:
        stub_sweep(
            Path(runs),
            int(trials),
            KERNEL,
            "sampler=qmc",
            *words,
            engine=engine,
            sink_of=NoTracker,
            worker_of=worker,
        )
    except RaysweepError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
