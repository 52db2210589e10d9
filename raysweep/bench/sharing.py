"""R23: eight small trials that share batches, against the same eight one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
from raysweep.bench.finding import Finding, How
from raysweep.bench.stubs import Kernel, StubPlan, stub_worker
from raysweep.engine.pools import Pool, RayPool, trial_worker
from raysweep.engine.record import TrialTask
from raysweep.engine.session import start_ray
from raysweep.faces import cores_and_gpus
from raysweep.schema import IntArray

__all__ = ["rates", "sharing"]

TRIALS, FACES, BATCH = 8, 16, 128
KERNEL_S = 0.05
"""What a batch takes, however full: so does a GPU up to some hundred small pictures."""


def sharing(how: How) -> list[Finding]:
    """On kernels that sleep and, where there is a GPU, on the networks for drawn faces."""
    rounds = 10 if how.quick else 30
    note = f"{TRIALS} trials of {FACES} faces"
    with own_cache(how.folder), start_ray():
        _, gpus = cores_and_gpus("ray")
        how.tell(f"R23: {note}, kernels that sleep {1000 * KERNEL_S:g} ms")
        worker_of = stub_worker(Kernel(measure_s=KERNEL_S))
        stub = _ratio(RayPool(StubPlan(), 1, 0.0, worker_of=worker_of, together=BATCH), "stub", rounds, how.repeats)
        found = [Finding("R23 sleeps", stub, f"{note}, a batch of {1000 * KERNEL_S:g} ms however full")]
        if not gpus:
            return [*found, Finding("R23 models", missing="no GPU")]
        how.tell(f"R23: {note}, networks for drawn faces")
        plan, _ = worker_plan(drawn_faces(30, 7), 1)
        real = _ratio(RayPool(plan, 1, 1.0, worker_of=trial_worker, together=BATCH), "blur", rounds, how.repeats)
        return [*found, Finding("R23 models", real, note)]


def _ratio(pool: RayPool, anonymizer: str, rounds: int, repeats: int) -> tuple[float, ...]:
    """Rate of trials that share over that of trials one after the other; closes the pool."""
    setting = {"kernel_size": 31} if anonymizer == "blur" else {}
    tasks = [
        TrialTask(f"trial-{number}", number, anonymizer, setting, number, trains=False) for number in range(TRIALS)
    ]
    try:
        pool.wait_ready(lambda ready: None)
        rates(pool, tasks, 2)
        found = [rates(pool, tasks, rounds) for _ in range(repeats)]
    finally:
        pool.close()
    return tuple(shared / apart for apart, shared in found)


def rates(pool: Pool, tasks: Sequence[TrialTask], rounds: int) -> tuple[float, float]:
    """Faces a second of trials that measure a few faces again and again: one trial at a time, and all at once."""
    fitted = [pool.call("fit", task) for task in tasks]
    pool.wait(fitted)
    rows = np.arange(FACES, dtype=np.int64)
    started = time.perf_counter()
    for task, state in zip(tasks, fitted, strict=True):
        _measure(pool, task, state, rows, rounds // 2)
    apart = FACES * len(tasks) * (rounds // 2) / (time.perf_counter() - started)
    threads = [
        threading.Thread(target=_measure, args=(pool, task, state, rows, rounds))
        for task, state in zip(tasks, fitted, strict=True)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return apart, FACES * len(tasks) * rounds / (time.perf_counter() - started)


def _measure(pool: Pool, task: TrialTask, fitted: Any, rows: IntArray, rounds: int) -> None:
    """The same faces of one trial, each time when the time before is done."""
    for _ in range(rounds):
        pool.wait([pool.call("measure", task, fitted, rows)])
