"""R4 and R5: what a trial costs beside its kernels, on the standing pool alone, through Ray Tune, and in a plain Tune run.

The cost of *one trial more*: the time of a long run less that of a short one, so that start-up falls out (it is among the facts).
Kernels sleep; records, proposals, the queue and the arrays that travel are real.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from raysweep.bench.finding import Finding, How
from raysweep.bench.stubs import Kernel, StubPlan, items, stub_worker
from raysweep.engine.pools import RayPool, RayPoolClient
from raysweep.engine.record import TrialRecord, TrialTask
from raysweep.engine.session import start_ray
from raysweep.engine.trial import run_trial
from raysweep.search.sampler import Proposal, Proposer
from raysweep.search.space import canonical_hash, find_space, load_space

__all__ = ["make_proposer", "overhead", "run_on_pool"]

ITEMS = 4
KERNEL = Kernel(fit_s=0.1, measure_s=0.2, judge_s=0.1)
"""A trial of one second."""
SEARCHED = "ganonymization"
"""Any space of several real parameters: only its proposals are used."""


def overhead(how: How) -> list[Finding]:
    """R4 on the pool and through Tune, R5."""
    workers = max(2, os.cpu_count() or 1)
    few, many = (workers, 3 * workers) if how.quick else (2 * workers, 10 * workers)
    kernel_s = KERNEL.trial_s(ITEMS)
    ideal = (many - few) * kernel_s / workers
    pooled: list[float] = []
    tuned: list[float] = []
    plain: list[float] = []
    starts: list[float] = []
    # Room for the plain Tune's trials beside the pool, which idles meanwhile.
    with start_ray(cpus=2 * workers):
        pool = RayPool(StubPlan(), workers, 0.0, worker_of=stub_worker(KERNEL))
        try:
            pool.wait_ready(lambda ready: None)
            ways: list[tuple[list[float], Callable[[int], float]]] = [
                (pooled, lambda trials: _seconds(lambda: run_on_pool(pool.client(), trials, ITEMS))),
                (tuned, lambda trials: _seconds(lambda: _through_tune(pool.client(), trials))),
                (plain, lambda trials: _seconds(lambda: _plain_tune(trials, workers, kernel_s))),
            ]
            for turn in range(min(3, how.repeats)):
                for name, (found, run) in zip(("pool", "Tune", "plain Tune"), ways, strict=True):
                    how.tell(f"R4: {name}, {few} and {many} trials, round {turn + 1}")
                    short = run(few)
                    found.append(run(many) - short)
                    if name == "Tune":
                        starts.append(short - few * kernel_s / workers)
        finally:
            pool.close()
    extra_s = [max(0.0, seconds - ideal) / (many - few) for seconds in tuned]
    plain_s = [max(1e-9, (seconds - ideal) / (many - few)) for seconds in plain]
    facts = {
        "kernel_s": kernel_s,
        "trials": [few, many],
        "tune_start_s": starts,
        "extra_s_per_trial": extra_s,
        "plain_tune_extra_s_per_trial": plain_s,
    }
    note = f"{workers} workers, trials of {kernel_s:g} s"
    return [
        Finding("R4 pool", tuple(seconds / ideal for seconds in pooled), note),
        Finding(
            "R4 Tune",
            tuple(seconds / ideal for seconds in tuned),
            f"{note}; start of Tune {statistics.median(starts):.1f} s once",
            facts=facts,
        ),
        Finding(
            "R5",
            tuple(ours / theirs for ours, theirs in zip(extra_s, plain_s, strict=True)),
            f"{1000 * statistics.median(extra_s):.0f} ms and {1000 * statistics.median(plain_s):.0f} ms a trial",
        ),
    ]


def run_on_pool(client: RayPoolClient, trials: int, count: int) -> list[TrialRecord]:
    """Trials on the pool with nobody above it, one more at a time than there are workers."""
    numbers = iter(range(trials))
    lock = threading.Lock()
    records: list[TrialRecord] = []

    def run() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            record = run_trial(TrialTask(f"trial-{number}", number, "stub", {}, 0), client, items(count), {})
            with lock:
                records.append(record)

    threads = [threading.Thread(target=run) for _ in range(client.size + 1)]
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


def _through_tune(client: RayPoolClient, trials: int) -> None:
    from raysweep.search.tuner import tune_trials

    def task(proposal: Proposal) -> TrialTask:
        return TrialTask(f"trial-{proposal.number}", proposal.number, proposal.anonymizer, proposal.setting, 0)

    records: list[TrialRecord] = []
    with tempfile.TemporaryDirectory() as folder:
        tune_trials(
            make_proposer(trials),
            task,
            client,
            items(ITEMS),
            {},
            folder=Path(folder),
            rungs=(),
            climbs=lambda record: True,
            on_record=records.append,
            on_start=lambda task: None,
            deadline=None,
        )
    if len(records) != trials:
        raise RuntimeError(f"{len(records)} of {trials} trials came back")


def _plain_tune(trials: int, workers: int, seconds: float) -> None:
    """The same number of trials of the same length as one writes them without a pool: one CPU each, actors used again."""
    from ray import tune

    class Plain(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, float]) -> None:
            pass

        def step(self) -> dict[str, float | bool]:
            time.sleep(seconds)
            return {"privacy": self.config["x"], "utility": 1 - self.config["x"], "done": True}

        def reset_config(self, new_config: dict[str, float]) -> bool:
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

        def load_checkpoint(self, checkpoint: object) -> None:
            pass

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(Plain, {"cpu": 1}),
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True, max_concurrent_trials=workers),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
