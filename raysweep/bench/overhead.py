"""R4 and R5: what a trial costs beside its kernels, on the standing pool alone, through Ray Tune, and in a plain Tune run.

The cost of *one trial more*: how fast trials end while the pool is full, so that start-up falls out (it is among the facts).
Kernels sleep; records, proposals, the queue and the arrays that travel are real.
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

from raysweep.bench.finding import Finding, How
from raysweep.bench.steady import steady_rate
from raysweep.bench.stubs import Kernel, StubPlan, items, stub_worker
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
SEARCHED = "ganonymization"
"""Any space of several real parameters: only its proposals are used."""


def overhead(how: How) -> list[Finding]:
    """R4 on the pool and through Tune, R5."""
    workers = max(2, os.cpu_count() or 1)
    trials = (8 if how.quick else 15) * workers
    kernel_s = KERNEL.trial_s(ITEMS)
    spent: dict[str, list[float]] = {"pool": [], "Tune": [], "plain Tune": []}
    starts: list[float] = []
    # Room for the plain Tune's trials beside the pool, which idles meanwhile.
    with start_ray(cpus=2 * workers):
        pool = RayPool(StubPlan(), workers, 0.0, worker_of=stub_worker(KERNEL))
        ways: dict[str, Callable[[], list[float]]] = {
            "pool": lambda: _ended(run_on_pool(pool.client(), trials, ITEMS)),
            "Tune": lambda: _ended(_through_tune(pool.client(), trials)),
            "plain Tune": lambda: _plain_tune(trials, workers, kernel_s),
        }
        try:
            pool.wait_ready(lambda ready: None)
            for turn in range(min(3, how.repeats)):
                for name, run in ways.items():
                    how.tell(f"R4: {name}, {trials} trials, round {turn + 1}")
                    began = time.time()
                    ended = run()
                    # Seconds of wall a trial takes when the pool is full, times workers: what a trial takes of one worker.
                    spent[name].append(workers / steady_rate(ended, [1] * len(ended), workers + 1))
                    if name == "Tune":
                        starts.append(ended[0] - began - kernel_s)
        finally:
            pool.close()
    extra = {name: [max(0.0, seconds - kernel_s) for seconds in found] for name, found in spent.items()}
    facts = {"kernel_s": kernel_s, "trials": trials, "tune_start_s": starts, "extra_s_per_trial": extra}
    note = f"{workers} workers, trials of {kernel_s:g} s"
    ours, theirs = (1000 * statistics.median(extra[name]) for name in ("Tune", "plain Tune"))
    return [
        Finding("R4 pool", tuple(seconds / kernel_s for seconds in spent["pool"]), note),
        Finding(
            "R4 Tune",
            tuple(seconds / kernel_s for seconds in spent["Tune"]),
            f"{note}; the first one begins after {statistics.median(starts):.1f} s",
            facts=facts,
        ),
        Finding(
            "R5",
            tuple(one / max(other, 1e-3) for one, other in zip(extra["Tune"], extra["plain Tune"], strict=True)),
            f"{ours:.0f} ms and {theirs:.0f} ms a trial",
        ),
    ]


def _ended(records: Sequence[TrialRecord]) -> list[float]:
    return sorted(record.ended_at for record in records)


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
            record = run_trial(TrialTask(f"trial-{number}", number, "stub", {}, 0), client, Work(items(count)))
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


def _through_tune(client: RayPoolClient, trials: int) -> list[TrialRecord]:
    from raysweep.search.tuner import tune_trials

    def task(proposal: Proposal) -> TrialTask:
        return TrialTask(f"trial-{proposal.number}", proposal.number, proposal.anonymizer, proposal.setting, 0)

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


def _plain_tune(trials: int, workers: int, seconds: float) -> list[float]:
    """The same number of trials of the same length as one writes them without a pool: one CPU each, actors used again.

    Returns:
        Wall clock at the end of each.
    """
    from ray import tune

    class Plain(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, float]) -> None:
            pass

        def step(self) -> dict[str, float | bool]:
            time.sleep(seconds)
            return {"privacy": self.config["x"], "ended": time.time(), "done": True}

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
    return sorted(float(result.metrics["ended"]) for result in results)
