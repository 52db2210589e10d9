"""R4 and R5: what a trial costs beside its kernels, on the standing pool alone, through Ray Tune, and in a plain Tune run.

The cost of *one trial more*: time that workers spend without a kernel while there is work for all, so that start-up falls out (it is among
the facts). Kernels sleep; records, proposals, the queue and the arrays that travel are real.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raysweep.bench.finding import Finding, How
from raysweep.bench.stubs import ITEM_ROWS, Kernel, StubPlan, StubWorker, items, stub_worker
from raysweep.engine.pools import RayPool, RayPoolClient
from raysweep.engine.record import TrialRecord, TrialTask, Work
from raysweep.engine.session import start_ray
from raysweep.engine.trial import run_trial
from raysweep.search.sampler import Proposal, Proposer
from raysweep.search.space import canonical_hash, find_space, load_space

__all__ = ["make_proposer", "overhead", "run_on_pool"]

ITEMS = 4
KERNEL = Kernel(fit_s=0.1, measure_s=0.2, judge_s=0.1)
"""A trial of one second."""
Span = tuple[float, float]
SEARCHED = "ganonymization"
"""Any space of several real parameters: only its proposals are used."""


def overhead(how: How) -> list[Finding]:
    """R4 on the pool and through Tune, R5."""
    workers = max(2, os.cpu_count() or 1)
    trials = (8 if how.quick else 15) * workers
    extra: dict[str, list[float]] = {"pool": [], "Tune": [], "plain Tune": []}
    kernels: list[float] = []
    starts: list[float] = []
    # Room for the plain Tune's trials beside the pool, which idles meanwhile.
    with start_ray(cpus=2 * workers):
        pool = RayPool(StubPlan(), workers, 0.0, worker_of=stub_worker(KERNEL))
        ways: dict[str, Callable[[], list[list[Span]]]] = {
            "pool": lambda: _spans(pool, lambda: run_on_pool(pool.client(), trials, ITEMS)),
            "Tune": lambda: _spans(pool, lambda: _through_tune(pool.client(), trials)),
            "plain Tune": lambda: _plain_tune(trials, workers),
        }
        try:
            pool.wait_ready(lambda ready: None)
            for turn in range(min(3, how.repeats)):
                for name, run in ways.items():
                    how.tell(f"R4: {name}, {trials} trials, round {turn + 1}")
                    began = time.monotonic()
                    spans = run()
                    kernel_s = sum(end - begin for worker in spans for begin, end in worker) / trials
                    extra[name].append(idle_share(spans) * kernel_s)
                    kernels.append(kernel_s)
                    if name == "Tune":
                        starts.append(min(worker[0][0] for worker in spans) - began)
        finally:
            pool.close()
    kernel_s = statistics.median(kernels)
    facts = {"kernel_s": kernels, "trials": trials, "tune_start_s": starts, "extra_s_per_trial": extra}
    note = f"{workers} workers, trials of {kernel_s:.2f} s"
    ours, theirs = (1000 * statistics.median(extra[name]) for name in ("Tune", "plain Tune"))
    return [
        Finding("R4 pool", tuple(1 + seconds / kernel_s for seconds in extra["pool"]), note),
        Finding(
            "R4 Tune",
            tuple(1 + seconds / kernel_s for seconds in extra["Tune"]),
            f"{note}; the first one begins after {statistics.median(starts):.1f} s",
            facts=facts,
        ),
        Finding(
            "R5",
            tuple(one / max(other, 1e-3) for one, other in zip(extra["Tune"], extra["plain Tune"], strict=True)),
            f"{ours:.1f} ms and {theirs:.1f} ms a trial",
        ),
    ]


def idle_share(spans: Sequence[Sequence[Span]]) -> float:
    """Time without a kernel over time with one, while there is work for all workers.

    Args:
        spans: begin and end of the kernels of each worker, in seconds on one clock.

    >>> round(idle_share([[(0.0, 1.0), (1.5, 2.5), (2.5, 9.0)], [(0.5, 4.5)]]), 3)
    0.067
    """
    since, until = max(worker[0][0] for worker in spans), min(worker[-1][1] for worker in spans)
    busy = sum(max(0.0, min(end, until) - max(begin, since)) for worker in spans for begin, end in worker)
    return len(spans) * (until - since) / busy - 1


def _spans(pool: RayPool, run: Callable[[], object]) -> list[list[Span]]:
    """When each worker had a kernel to run."""

    def asked() -> list[list[Span]]:
        return [pool.result(each) for each in [pool.call("spans") for _ in range(pool.size)]]

    asked()
    run()
    return asked()


def run_on_pool(client: RayPoolClient, trials: int, count: int) -> list[TrialRecord]:
    """Trials on the pool with nobody above it, as many at a time as Ray Tune has."""
    numbers = iter(range(trials))
    lock = threading.Lock()
    records: list[TrialRecord] = []

    def run() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            record = run_trial(
                TrialTask(f"trial-{number}", number, "stub", {}, 0, trains=False), client, Work(items(count))
            )
            with lock:
                records.append(record)

    threads = [threading.Thread(target=run) for _ in range(client.trials_at_once(ITEM_ROWS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return records


def make_proposer(trials: int, sampler: str = "tpe", known: tuple[TrialRecord, ...] = ()) -> Proposer:
    """The searcher of a sweep of so many trials."""
    return Proposer(
        load_space(find_space(SEARCHED)),
        sampler=sampler,
        seed=0,
        trials=trials,
        key_of=lambda name, setting, repeat: canonical_hash([name, dict(setting), repeat], 16),
        known=known,
    )


def _through_tune(client: RayPoolClient, trials: int) -> list[TrialRecord]:
    from raysweep.search.tuner import tune_trials

    def task(proposal: Proposal) -> TrialTask:
        return TrialTask(
            f"trial-{proposal.number}", proposal.number, proposal.anonymizer, proposal.setting, 0, trains=False
        )

    records: list[TrialRecord] = []
    with tempfile.TemporaryDirectory() as folder:
        tune_trials(
            make_proposer(trials),
            task,
            client,
            Work(items(ITEMS)),
            folder=Path(folder),
            climbs=lambda record: True,
            on_record=records.append,
            on_start=lambda task: None,
            deadline=None,
        )
    if len(records) != trials:
        raise RuntimeError(f"{len(records)} of {trials} trials came back")
    return records


def _plain_tune(trials: int, workers: int) -> list[list[Span]]:
    """The same number of trials with the same kernels as one writes them without a pool: one CPU each, actors used again.

    Returns:
        When the kernels of each actor ran.
    """
    from ray import tune

    class Plain(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, float]) -> None:
            self.kernels = StubWorker(None, KERNEL)

        def step(self) -> dict[str, Any]:
            task = TrialTask("plain", 0, "stub", {}, 0)
            fitted = self.kernels.fit(task)
            self.kernels.judge(task, fitted, [self.kernels.measure(task, fitted, rows) for rows in items(ITEMS)])
            spans = self.kernels.spans()
            return {"privacy": self.config["x"], "began": spans[0][0], "ended": spans[-1][1], "done": True}

        def reset_config(self, new_config: dict[str, float]) -> bool:
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: object) -> None:
            pass

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            tune.with_resources(Plain, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True, max_concurrent_trials=workers),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    return _lanes(sorted((result.metrics["began"], result.metrics["ended"]) for result in results), workers)


def _lanes(spans: Sequence[Span], workers: int) -> list[list[Span]]:
    """Spans of so many workers, each given to the one that has been free for longest."""
    lanes: list[list[Span]] = [[] for _ in range(workers)]
    for span in spans:
        min(lanes, key=lambda lane: lane[-1][1] if lane else 0.0).append(span)
    return lanes
