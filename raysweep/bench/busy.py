"""R3: the share of the time in which a GPU runs kernels while the pool measures, as the driver counts it."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
from raysweep.bench.finding import Finding, How
from raysweep.engine.pools import RayPool, default_workers, trial_worker
from raysweep.engine.record import TrialTask
from raysweep.engine.session import start_ray
from raysweep.faces import cores_and_gpus

__all__ = ["busy", "shares_of_gpus"]

EVERY_MS = 200
"""Between two answers of nvidia-smi; each is about the time since the one before, as far as the driver keeps it."""


def busy(how: How) -> list[Finding]:
    """On all GPUs at once, a worker on each; the least busy one counts."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [Finding("R3", missing="nvidia-smi is not there to ask")]
    seconds = 10.0 if how.quick else 30.0
    with own_cache(how.folder), start_ray(cpus=os.cpu_count() or 1):
        cores, gpus = cores_and_gpus("ray")
        workers = default_workers(cores, gpus)
        plan, (chunks,) = worker_plan(drawn_faces(60, 14), max(1, cores // workers))
        task = TrialTask("bench", 0, "blur", {"kernel_size": 31}, 0)
        pool = RayPool(plan, workers, float(min(gpus, workers)), worker_of=trial_worker)
        values = []
        try:
            pool.wait_ready(lambda ready: None)
            fitted = pool.call("fit", task)
            for turn in range(min(3, how.repeats) + 1):
                how.tell(f"R3: {gpus} GPUs, round {turn + 1}")
                with _asking(tool) as lines:
                    _measure(pool, workers, task, fitted, chunks, seconds if turn else 3.0)
                if turn:  # the first one warms up
                    values.append(min(shares_of_gpus(lines[4:])))
        finally:
            pool.close()
    return [Finding("R3", tuple(values), f"{gpus} GPUs, {workers} workers, networks for drawn faces")]


def shares_of_gpus(lines: Sequence[str]) -> list[float]:
    """Mean share of the time that each GPU was busy, of lines `index, percent`.

    >>> shares_of_gpus(["0, 90", "1, 50", "0, 100", "1, 70"])
    [0.95, 0.6]

    Raises:
        ValueError: no line, or one that says something else.
    """
    found: dict[int, list[float]] = {}
    for line in lines:
        index, percent = line.split(",")
        found.setdefault(int(index), []).append(float(percent) / 100)
    if not found:
        raise ValueError("nvidia-smi said nothing")
    return [statistics.fmean(found[index]) for index in sorted(found)]


@contextmanager
def _asking(tool: str) -> Iterator[list[str]]:
    """Lines of nvidia-smi while the block runs; filled at its end."""
    query = ["--query-gpu=index,utilization.gpu", "--format=csv,noheader,nounits", f"--loop-ms={EVERY_MS}"]
    lines: list[str] = []
    with subprocess.Popen([tool, *query], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - found on the path, fixed words
        try:
            yield lines
        finally:
            process.terminate()
            told, _ = process.communicate()
            whole = told[: told.rfind("\n") + 1]  # the last line may be cut off
            lines += whole.splitlines()


def _measure(pool: RayPool, workers: int, task: TrialTask, fitted: Any, chunks: Sequence[Any], seconds: float) -> None:
    waiting: deque[Any] = deque()
    number, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        while len(waiting) < 6 * workers:
            waiting.append(pool.call("measure", task, fitted, chunks[number % len(chunks)]))
            number += 1
        pool.result(waiting.popleft())
    pool.wait(list(waiting))
