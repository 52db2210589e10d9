"""R1: how much of the bare loop's rate is left when the same kernels run as work items of a standing pool.

Both sides run in the same worker processes, one worker per core or GPU at a time or all of them, on batches of the same size. The bare
loop holds its batches on the device; the pool slices them, hands items out, takes measurements back through shared memory.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
from raysweep.bench.finding import Finding, How
from raysweep.bench.resident import resident_worker
from raysweep.bench.stubs import Kernel, StubPlan, items, stub_worker
from raysweep.engine.pools import RayPool, default_workers
from raysweep.engine.record import TrialTask
from raysweep.engine.session import start_ray
from raysweep.faces import cores_and_gpus

__all__ = ["steady", "steady_rate"]

SLEEP_S = 0.25
"""A work item of 256 faces at 1,000 faces a second."""


def steady(how: How) -> list[Finding]:
    """R1 with the networks for drawn faces, and with kernels that sleep."""
    with own_cache(how.folder), start_ray(cpus=os.cpu_count() or 1):
        cores, gpus = cores_and_gpus("ray")
        workers = default_workers(cores, gpus)
        how.tell(f"R1: {workers} workers, networks for drawn faces")
        real = _models(how, workers, gpus, cores)
        how.tell(f"R1: {workers} workers, kernels that sleep {1000 * SLEEP_S:g} ms")
        return [real, _sleeps(how, workers)]


def steady_rate(ended: Sequence[float], faces: Sequence[int], workers: int) -> float:
    """Faces a second while every worker has something to do: the slope of the faces done over time.

    Args:
        ended: wall clock at the end of each item, ascending.
        faces: of each item.
        workers: so many items at the end, when some have nothing left to do, are left out.
    """
    kept = len(ended) - workers
    since = np.asarray(ended[:kept]) - ended[0]
    return float(np.polyfit(since, np.cumsum(faces[:kept]), 1)[0])


def _models(how: How, workers: int, gpus: int, cores: int) -> Finding:
    # Short rounds, many of them: on a machine that does other things as well, the two sides of a round still see the same.
    seconds, rounds = 4.0, 3 if how.quick else 8
    plan, (chunks,) = worker_plan(drawn_faces(*((30, 7) if how.quick else (60, 14))), max(1, cores // workers))
    task = TrialTask("bench", 0, "blur", {"kernel_size": 31}, 0)
    # All of them on both sides: a face of role T is measured less than one of role E, and chunks hold more of one or of the other.
    rows = np.concatenate(chunks)
    pool = RayPool(plan, workers, float(min(gpus, workers)), worker_of=resident_worker)
    values, bares, pooled, busy = [], [], [], []
    try:
        pool.wait_ready(lambda ready: None)
        fitted = pool.call("fit", task)
        pool.wait([fitted])
        for turn in range(rounds + 1):
            # One long item per worker: all bare loops run side by side, as the items do.
            loops = [pool.result(item) for item in _on_each(pool, workers, "bare", task, fitted, rows, seconds)]
            bare = sum(faces / spent for faces, spent in loops)
            count = len(chunks) * max(workers, round(bare * seconds / len(rows)))
            parts = [pool.call("measure", task, fitted, chunks[number % len(chunks)]) for number in range(count)]
            done = sorted((pool.result(part) for part in parts), key=lambda part: part.notes["ended"])
            rate = steady_rate([part.notes["ended"] for part in done], [len(part.rows) for part in done], workers)
            if turn:  # the first one warms up
                values.append(rate / bare)
                bares.append(bare)
                pooled.append(rate)
                busy.append(_busy(done, workers))
    finally:
        pool.close()
    facts = {"bare_faces_per_s": bares, "pool_faces_per_s": pooled, "busy": busy, "workers": workers}
    note = f"{workers} workers, {statistics.median(bares):,.0f} faces/s bare; in the pool, networks run {100 * statistics.median(busy):.0f} % of the time"
    return Finding("R1 models", tuple(values), note, facts=facts)


def _busy(done: Sequence[Any], workers: int) -> float:
    """Share of the workers' time, from the end of the first items to that of the last, in which their kernels ran."""
    kernels = sum(sum(part.seconds.values()) for part in done[workers:])
    return float(kernels / (workers * (done[-1].notes["ended"] - done[workers - 1].notes["ended"])))


def _sleeps(how: How, workers: int) -> Finding:
    count = (16 if how.quick else 48) * workers
    pool = RayPool(StubPlan(), workers, 0.0, worker_of=stub_worker(Kernel(measure_s=SLEEP_S)))
    task, rows = TrialTask("bench", 0, "stub", {}, 0), items(1)[0]
    values = []
    try:
        pool.wait_ready(lambda ready: None)
        for turn in range(min(3, how.repeats) + 1):
            each = count // workers if turn else 2
            bare = sum(each * len(rows) / spent for spent in map(pool.result, _on_each(pool, workers, "bare", each)))
            parts = [pool.call("measure", task, None, rows) for _ in range(count if turn else 4 * workers)]
            done = sorted((pool.result(part) for part in parts), key=lambda part: float(part["ended"]))
            rate = steady_rate([part["ended"] for part in done], [len(rows)] * len(done), workers)
            if turn:
                values.append(rate / bare)
    finally:
        pool.close()
    return Finding(
        "R1 sleeps", tuple(values), f"{workers} workers, items of {len(rows)} faces and {1000 * SLEEP_S:g} ms"
    )


def _on_each(pool: RayPool, workers: int, method: str, *arguments: Any) -> list[Any]:
    """The same item for every worker: each takes the one that nobody works on."""
    return [pool.call(method, *arguments) for _ in range(workers)]
