"""R2: the rate of R1 over a whole run of ten minutes, the start of Ray and of the workers included."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

import numpy as np

from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
from raysweep.bench.finding import Finding, How
from raysweep.bench.resident import resident_worker
from raysweep.engine.pools import RayPool, default_workers
from raysweep.engine.record import TrialTask
from raysweep.engine.session import start_ray
from raysweep.faces import cores_and_gpus

__all__ = ["whole_run"]

BARE_S = 15.0
QUEUED = 6
"""Items of each worker that are asked for before the first one is done."""


def whole_run(how: How) -> list[Finding]:
    """Faces of a run from its start to its end, over what the bare loop would do in that time; the loop runs before and after, off the clock."""
    seconds = 60.0 if how.quick else 600.0
    with own_cache(how.folder):
        faces = drawn_faces(60, 14)  # the run measures; preparing is a run of its own
        started = time.perf_counter()
        with start_ray(cpus=os.cpu_count() or 1):
            cores, gpus = cores_and_gpus("ray")
            workers = default_workers(cores, gpus)
            plan, (chunks,) = worker_plan(faces, max(1, cores // workers))
            task = TrialTask("bench", 0, "blur", {"kernel_size": 31}, 0)
            how.tell(f"R2: {workers} workers, {seconds / 60:.0f} min")
            pool = RayPool(plan, workers, float(min(gpus, workers)), worker_of=resident_worker)
            try:
                pool.wait_ready(lambda ready: None)
                start_s = time.perf_counter() - started
                fitted = pool.call("fit", task)
                pool.wait([fitted])
                bare = [_bare(pool, workers, task, fitted, np.concatenate(chunks))]
                mark, done = time.perf_counter(), 0
                waiting: deque[Any] = deque()
                number = 0
                while time.perf_counter() - mark < seconds - start_s:
                    while len(waiting) < QUEUED * workers:
                        waiting.append(pool.call("measure", task, fitted, chunks[number % len(chunks)]))
                        number += 1
                    done += len(pool.result(waiting.popleft()).rows)
                done += sum(len(pool.result(handle).rows) for handle in waiting)
                run_s = start_s + time.perf_counter() - mark
                bare.append(_bare(pool, workers, task, fitted, np.concatenate(chunks)))
            finally:
                pool.close()
    rate = sum(bare) / len(bare)
    note = f"{workers} workers, {done:,} faces in {run_s:.0f} s, {start_s:.0f} s of them to start; {rate:,.0f} faces/s bare"
    return [Finding("R2", (done / run_s / rate,), note, facts={"bare_faces_per_s": bare, "run_s": run_s})]


def _bare(pool: RayPool, workers: int, task: TrialTask, fitted: Any, rows: Any) -> float:
    """Faces a second of all workers' bare loops side by side; once more for warming up."""
    for seconds in (1.0, BARE_S):
        loops = [pool.result(item) for item in [pool.call("bare", task, fitted, rows, seconds) for _ in range(workers)]]
    return float(sum(faces / spent for faces, spent in loops))
