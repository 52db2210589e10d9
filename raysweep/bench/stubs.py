"""A worker whose kernels sleep: it leaves the processor free, as a GPU does, and hands on arrays as large as the real one's.

Only ratios that are about the engine use it: what it answers says nothing about faces.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from raysweep.engine.record import Outcome, TrialTask
from raysweep.metrics.value import MetricValue
from raysweep.schema import IntArray

__all__ = ["DIMS", "ITEM_ROWS", "Kernel", "StubPlan", "StubWorker", "items", "stub_worker"]

DIMS = 640
"""Numbers per face that a worker hands on: a 512- and a 128-dimensional embedding."""
ITEM_ROWS = 256
METRICS, ATTACKERS, PROBES = 30, 18, 200
"""About what a record of a sweep on synthetic faces holds."""


@dataclass(frozen=True)
class Kernel:
    """Seconds that the kernels of a trial take.

    Attributes:
        fit_s, judge_s: once per trial.
        measure_s: per work item.
    """

    fit_s: float = 0.0
    measure_s: float = 0.0
    judge_s: float = 0.0

    def trial_s(self, count: int) -> float:
        """Of a trial with so many work items."""
        return self.fit_s + count * self.measure_s + self.judge_s


@dataclass(frozen=True)
class StubPlan:
    """All that a pool asks of a plan."""

    threads: int = 1


class StubWorker:
    """Answers as `engine.worker.TrialWorker` does; its numbers follow from the trial's key.

    Args:
        plan: not looked at.
        kernel: how long it sleeps.
    """

    def __init__(self, plan: Any, kernel: Kernel) -> None:
        self._kernel = kernel
        self._spans: list[tuple[float, float]] = []

    def ready(self) -> dict[str, Any]:
        """Proof that it has started."""
        return {}

    def tuned(self) -> dict[str, str]:
        """There is nothing to tune."""
        return {}

    def clear_summary(self) -> dict[str, Any]:
        """Nothing is known of clear faces."""
        return {}

    def common_evidence(self) -> dict[str, Any]:
        """Labels, as of real trials."""
        return {"rank/E/class": np.arange(PROBES, dtype=np.int32)}

    def spans(self) -> list[tuple[float, float]]:
        """When it worked since this was last asked: begin and end of each kernel on the clock that all processes of a machine share."""
        spans, self._spans = self._spans, []
        return spans

    @contextmanager
    def _working(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._spans.append((began, time.monotonic()))

    def fit(self, task: TrialTask) -> dict[str, float]:
        """Sleep."""
        with self._working():
            time.sleep(self._kernel.fit_s)
            return {"fit": self._kernel.fit_s}

    def measure(self, task: TrialTask, fitted: object, rows: IntArray) -> Any:
        """Sleep; embeddings of some rows and when they were there (wall clock)."""
        with self._working():
            time.sleep(self._kernel.measure_s)
            return {"rows": rows, "embeddings": np.zeros((len(rows), DIMS), np.float32), "ended": time.time()}

    def measure_together(
        self, tasks: Sequence[TrialTask], fitted: Sequence[object], rows: Sequence[IntArray]
    ) -> list[dict[str, Any]]:
        """Sleep once, as long as for one of them: a GPU that is far from full."""
        with self._working():
            time.sleep(self._kernel.measure_s)
            return [
                {"rows": own, "embeddings": np.zeros((len(own), DIMS), np.float32), "ended": time.time()}
                for own in rows
            ]

    def bare(self, count: int) -> float:
        """Seconds of so many measuring kernels in a loop, with nothing around them."""
        started = time.perf_counter()
        for _ in range(count):
            time.sleep(self._kernel.measure_s)
        return time.perf_counter() - started

    def judge(self, task: TrialTask, fitted: object, parts: Sequence[Any], extras: Sequence[Any] = ()) -> Outcome:
        """Sleep; an outcome of the usual size."""
        with self._working():
            time.sleep(self._kernel.judge_s)
            digest = hashlib.sha256(task.key.encode()).digest()
            random = np.random.default_rng(list(digest[:8]))
            privacy, utility = random.random(2)
            metrics = {
                "privacy": MetricValue(privacy, privacy, privacy),
                "utility": MetricValue(utility, utility, utility),
            }
            metrics |= {f"stub/{number}": MetricValue(float(number)) for number in range(METRICS)}
            ranks = {f"rank/E/A{number}/stub/above": random.integers(0, 9, PROBES) for number in range(ATTACKERS)}
            return Outcome(
                metrics=metrics,
                attackers=tuple(
                    {
                        "attacker": f"A{number}",
                        "name": "stub",
                        "embedder": "stub",
                        "rank1_E": privacy,
                        "advantage_S": privacy,
                    }
                    for number in range(ATTACKERS)
                ),
                curves={},
                seconds={"fit": self._kernel.fit_s, "judge": self._kernel.judge_s},
                notes={},
                evidence={"draws/privacy": random.random(1000), "draws/utility": random.random(1000), **ranks},
            )


def stub_worker(kernel: Kernel) -> Any:
    """What `worker_of` of a pool takes."""
    return partial(StubWorker, kernel=kernel)


def items(count: int) -> list[IntArray]:
    """Row numbers of so many work items."""
    return list(np.arange(count * ITEM_ROWS, dtype=np.int64).reshape(count, ITEM_ROWS))
