"""R6: throughput with n workers against n times that of one, simulated: kernels sleep, the pool and its dispatcher are real.

It says up to how many GPUs one dispatcher keeps up, on the machine it runs on: all actors share its cores here.
"""

from __future__ import annotations

import statistics
from typing import Any

from raysweep.bench.finding import Finding, How
from raysweep.bench.steady import steady_rate
from raysweep.bench.stubs import Kernel, StubPlan, items, stub_worker
from raysweep.engine.pools import RayPool
from raysweep.engine.record import TrialTask
from raysweep.engine.session import start_ray

__all__ = ["SIZES", "scale"]

SIZES = (2, 4, 8, 16, 32, 64)
SLEEP_S = 0.5
"""A work item of 256 faces at 500 faces a second: a generator and three networks on one GPU."""
EACH = 12


def scale(how: How) -> list[Finding]:
    """Pools of 1 to 64 workers, one after the other in one session."""
    sizes = SIZES[:2] if how.quick else SIZES
    rates: dict[int, list[float]] = {}
    with start_ray(cpus=max(sizes) + 2):
        for size in (1, *sizes):
            how.tell(f"R6: {size} workers")
            rates[size] = _rates(size, 1 if how.quick else 2)
    alone = statistics.median(rates[1])
    facts = {"items_per_s": {str(size): found for size, found in rates.items()}, "item_s": SLEEP_S}
    return [
        Finding(
            f"R6 {size}",
            tuple(rate / (size * alone) for rate in rates[size]) if size in rates else (),
            f"{statistics.median(rates[size]):.0f} items/s of {SLEEP_S:g} s" if size in rates else "",
            "" if size in rates else "left out by --quick",
            facts if size == sizes[-1] else {},
        )
        for size in SIZES
    ]


def _rates(size: int, rounds: int) -> list[float]:
    """Items a second of a pool of so many workers."""
    pool = RayPool(StubPlan(), size, 0.0, worker_of=stub_worker(Kernel(measure_s=SLEEP_S)))
    task, rows = TrialTask("bench", 0, "stub", {}, 0), items(1)[0]

    def ended(count: int) -> list[float]:
        parts: list[Any] = [pool.call("measure", task, None, rows) for _ in range(count)]
        return sorted(float(pool.result(part)["ended"]) for part in parts)

    try:
        pool.wait_ready(lambda ready: None)
        ended(2 * size)
        return [steady_rate(found, [1] * len(found), size) for found in (ended(EACH * size) for _ in range(rounds))]
    finally:
        pool.close()
