"""Workers of the Ray pool are killed, hang, or go with their node (F3, F4, F5): the pool and the trials are real, the work is a stand-in."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raysweep.engine import pools
from raysweep.engine.pools import RayPool
from raysweep.engine.record import TrialRecord, TrialTask, Work
from raysweep.engine.session import start_ray
from raysweep.engine.trial import run_trial

CHUNKS = [np.arange(start, start + 10, dtype=np.int64) for start in range(0, 60, 10)]


class Actor:
    """In place of a worker: the sum of the rows, after a while; a row of the poison trial aborts the process, another trial never ends."""

    def __init__(self, plan: Any, worker_of: Any = None) -> None:
        self.plan = plan

    def pid(self) -> int:
        return os.getpid()

    def run(self, method: str, layout: Any, *values: Any) -> tuple[None, Any]:
        return None, self._run(method, values)

    def _run(self, method: str, given: Any) -> Any:
        from raysweep.engine.record import Outcome
        from raysweep.metrics.value import MetricValue

        if method == "ready":
            return {}
        task = given[0]
        if method == "fit":
            return np.full(50_000, task.number, dtype=np.float64)  # large enough to lie on the worker's node
        if method == "measure":
            time.sleep(0.15)
            if task.anonymizer == "poison" and 33 in given[2]:
                os.abort()
            if task.anonymizer == "hangs" and 33 in given[2]:
                time.sleep(3600)
            return float(given[1][0]) + float(given[2].sum())
        value = MetricValue(sum(given[2:]) / 1e5)
        return Outcome({"privacy": value, "utility": value}, (), {}, {}, {})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool starts stand-ins; Ray's processes can import this package."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(pools, "_WorkerActor", Actor)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def session(stand_in: None) -> Iterator[None]:
    """A local Ray as a sweep starts it."""
    with start_ray(cpus=2, gpus=0):
        yield


@pytest.fixture
def cluster(stand_in: None) -> Iterator[Any]:
    """Two nodes on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()


def open_pool(**options: Any) -> RayPool:
    pool = RayPool(SimpleNamespace(threads=1), 2, 0.0, **options)  # type: ignore[arg-type]
    pool.wait_ready(lambda ready: None)
    return pool


def play(pool: RayPool, *names: str) -> list[TrialRecord]:
    """All trials at once, as Tune runs them."""
    records: list[Any] = [None] * len(names)

    def run(number: int, name: str) -> None:
        task = TrialTask(f"key-{name}-{number}", number, name, {}, 0)
        records[number] = run_trial(task, pool.client(), Work(CHUNKS))

    threads = [threading.Thread(target=run, args=item) for item in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return records


def expected(record: TrialRecord) -> float:
    return (6 * record.number + sum(range(60))) / 1e5


def assert_right(records: list[TrialRecord]) -> None:
    for record in records:
        assert record.state == "complete", record.reason
        assert record.metrics["privacy"].value == pytest.approx(expected(record), abs=1e-12)


@pytest.mark.slow
def test_workers_that_die_and_trials_that_kill_them_or_hang(session: None) -> None:
    """F3, F4 and F19 on one Ray."""
    worker_killed_in_a_batch()
    trial_that_kills_its_workers()
    trial_that_hangs()


def worker_killed_in_a_batch() -> None:
    """F3: its items are done elsewhere or again, each counts once, and the pool is back to its size."""
    pool = open_pool()
    before = pool.pids()
    timer = threading.Timer(0.4, os.kill, (before[0], signal.SIGKILL))
    timer.start()
    assert_right(play(pool, "a", "b", "c"))
    after = pool.pids()
    assert len(set(after)) == 2
    assert before[0] not in after
    pool.close()


def trial_that_kills_its_workers() -> None:
    """F4: it is run again, then alone, and then given up; the others end well, and so does the pool."""
    pool = open_pool()
    records = play(pool, "a", "poison", "b", "c")
    assert records[1].state == "failed"
    assert "died at this trial, also when it ran alone" in records[1].reason
    assert_right([record for record in records if record.anonymizer != "poison"])
    assert len(set(pool.pids())) == 2
    pool.close()


def trial_that_hangs() -> None:
    """F19 on Ray: the process is ended, not asked."""
    pool = open_pool(trial_timeout_s=6.0)
    before = pool.pids()
    records = play(pool, "a", "hangs", "b")
    assert records[1].state == "failed"
    assert records[1].reason == "given up after 6 s of work (trial_timeout)"
    assert_right([records[0], records[2]])
    after = pool.pids()
    assert len(set(before) & set(after)) == 1
    assert_right(play(pool, "d"))
    pool.close()


@pytest.mark.slow
def test_a_node_goes_and_another_comes(cluster: Any) -> None:
    """F5: the node that is left does all the work, what lived on the lost one is made again, and the one that replaces it is used."""
    pool = open_pool()
    timer = threading.Timer(0.4, cluster.remove_node, (cluster.worker_nodes.copy().pop(),), {"allow_graceful": False})
    timer.start()
    assert_right(play(pool, "a", "b", "c"))
    timer.join()
    assert pool.serving() == 1
    cluster.add_node(num_cpus=1)
    assert len(set(pool.pids())) == 2
    assert_right(play(pool, "d"))
    pool.close()
