"""R6: throughput with n workers against n times that of one, simulated: kernels sleep, the pool and its dispatcher are real.

It says up to how many GPUs one dispatcher keeps up, on the machine it runs on: all workers share its cores here, as they would not on as many
machines. An item therefore sleeps as long as one does that a GPU works on with a large generator, and what the engine itself can hand out in a
second, with kernels that take no time, is measured beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from raysweep.bench.finding import Finding, How
from raysweep.bench.steady import steady_rate
from raysweep.bench.stubs import Kernel, StubPlan, items, stub_worker
from raysweep.engine.pools import RayPool
from raysweep.engine.record import TrialTask
from raysweep.engine.session import start_ray

__all__ = ["SIZES", "scale"]

SIZES = (2, 4, 8, 16, 32, 64)
SLEEP_S = 2.0
"""A work item of 256 faces at 128 faces a second: a generator of published size and three networks on one GPU."""
EACH = 6
"""Items of each worker in a round; the last one does not count (`steady_rate`)."""
WORKERS_WITHOUT_KERNEL, HANDED_OUT = 8, 400
"""Workers and items without a kernel, to see how many a second the engine hands out and takes back; with fewer in flight than 64 workers have."""


def scale(how: How) -> list[Finding]:
    """Pools of 1 to 64 workers, one after the other in one session."""
    sizes = SIZES[:2] if how.quick else SIZES
    rates: dict[int, list[float]] = {}
    with start_ray(cpus=max(sizes) + 2):
        for size in (1, *sizes):
            how.tell(f"R6: {size} workers")
            rates[size] = _rates(size, 1 if how.quick else 2)
        how.tell("R6: kernels that take no time")
        most = _handed_out(WORKERS_WITHOUT_KERNEL)
    alone = statistics.median(rates[1])
    facts = {
        "items_per_s": {str(size): found for size, found in rates.items()},
        "item_s": SLEEP_S,
        "items_per_s_without_kernel": most,
    }
    return [
        Finding(
            f"R6 {size}",
            tuple(rate / (size * alone) for rate in rates[size]) if size in rates else (),
            f"{statistics.median(rates[size]):.1f} items/s of {SLEEP_S:g} s" if size in rates else "",
            "" if size in rates else "left out by --quick",
            facts if size == sizes[-1] else {},
        )
        for size in SIZES
    ]


def _rates(size: int, rounds: int) -> list[float]:
    """Items a second of a pool of so many workers."""
    with _pool(size, SLEEP_S) as pool:
        _ended(pool, size)
        return [_rate(_ended(pool, EACH * size), size) for _ in range(rounds)]


def _handed_out(size: int) -> float:
    """Items a second when they take no time."""
    with _pool(size, 0.0) as pool:
        _ended(pool, 4 * size)
        return _rate(_ended(pool, HANDED_OUT), size)


@contextmanager
def _pool(size: int, sleep_s: float) -> Iterator[RayPool]:
    """The pool of a sweep, with workers that sleep, all of them ready."""
    pool = RayPool(StubPlan(), size, 0.0, worker_of=stub_worker(Kernel(measure_s=sleep_s)))
    try:
        pool.wait_ready(lambda ready: None)
        yield pool
    finally:
        pool.close()


def _ended(pool: RayPool, count: int) -> list[float]:
    """When each of so many items, queued at once, was done."""
    task, rows = TrialTask("bench", 0, "stub", {}, 0), items(1)[0]
    parts: list[Any] = [pool.call("measure", task, None, rows) for _ in range(count)]
    return sorted(float(pool.result(part)["ended"]) for part in parts)


def _rate(ended: Sequence[float], workers: int) -> float:
    return steady_rate(ended, [1] * len(ended), workers)
