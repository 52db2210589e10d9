"""A sweep whose workers hand on more than Ray's object store holds: python large_parts.py RUNS ENGINE TRIALS.

Started by test_object_store_full.py. Real in all but what the workers compute: what a trial learns and each part of it carry 45 MB, so that no trial fits
alone, and several are under way at once; the judge refuses a part that is not what was handed on. Ends as the command line does: 1 and one message, or 0.
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
from raysweep.schema import ByteArray, IntArray

PART_BYTES = 45_000_000
KERNEL = Kernel(measure_s=0.05)
WORKERS = {"local": 1, "ray": 2}


def ballast(task: TrialTask) -> ByteArray:
    return np.full(PART_BYTES, task.number % 251, np.uint8)


class LargeParts(StubWorker):
    def fit(self, task: TrialTask) -> Any:
        return {**super().fit(task), "ballast": ballast(task)}

    def measure(self, task: TrialTask, fitted: object, rows: IntArray) -> Any:
        part = super().measure(task, fitted, rows)
        return {**part, "ballast": ballast(task)}

    def judge(self, task: TrialTask, fitted: Any, parts: Any, extras: Any = ()) -> Outcome:
        for part in (fitted, *parts):
            if not np.array_equal(part["ballast"], ballast(task)):
                raise TrialError("a part is not what was handed on")
        return super().judge(task, fitted, parts, extras)


def main() -> int:
    import large_parts

    from raysweep import sweep
    from raysweep.bench.against import as_space, settings_of
    from raysweep.bench.drawn import silent_view
    from raysweep.bench.sweeps import FACES, NoTracker
    from raysweep.config import resolve_sweep

    runs, engine, trials = Path(sys.argv[1]), *sys.argv[2:]
    runs.mkdir(exist_ok=True)
    space = runs / "settings.yaml"
    space.write_text(as_space(settings_of(int(trials))), encoding="utf-8")
    config = resolve_sweep(str(space), [f"engine={engine}", f"workers={WORKERS[engine]}"], data=FACES)
    parts = sweep.Parts(partial(large_parts.LargeParts, kernel=KERNEL), NoTracker)
    try:
        sweep.tune(config, runs=runs, view_of=silent_view, parts=parts)
    except RaysweepError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
