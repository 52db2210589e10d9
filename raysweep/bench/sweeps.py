"""Real sweeps with kernels that sleep: real proposals, ledger, evidence, tracker and report, with a worker that computes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raysweep import sweep
from raysweep.bench.drawn import silent_view
from raysweep.bench.overhead import SEARCHED
from raysweep.bench.stubs import Kernel, stub_worker
from raysweep.config import resolve_sweep
from raysweep.engine.pools import WorkerOf
from raysweep.sweep import Parts, SweepResult
from raysweep.tracking.mlflow_sink import Delivery, MlflowSink

__all__ = ["FACES", "NoTracker", "Run", "stub_sweep"]

FACES = "synthetic:identities=24,images_per_identity=7,seed=5"


class NoTracker(MlflowSink):
    """Takes everything, sends nothing and writes no report."""

    def start(self) -> None:
        """No thread."""

    def finish(self, records: object, status: object = "FINISHED", *, unchanged: bool = False) -> Delivery:
        """Nothing to wait for."""
        return Delivery()


@dataclass(frozen=True)
class Run:
    """A sweep and how long it took.

    Attributes:
        result: of the sweep.
        seconds: from the call to its end.
        trials_s: from the call to the record of the last trial.
    """

    result: SweepResult
    seconds: float
    trials_s: float


def stub_sweep(
    runs: Path,
    trials: int,
    kernel: Kernel,
    *words: str,
    engine: str = "local",
    sink_of: Callable[..., MlflowSink] = MlflowSink,
    tracking_uri: str | None = None,
    patience_s: float | None = None,
    worker_of: WorkerOf | None = None,
) -> Run:
    """Run a sweep of trials that only sleep.

    Args:
        runs: folder of runs.
        trials: how many.
        kernel: how long a trial sleeps.
        words: further `key=value` settings.
        engine: as on the command line.
        sink_of: makes the tracker.
        tracking_uri: of MLflow.
        patience_s: how long a tracker that makes no progress is waited for at the end; None for its default.
        worker_of: makes another worker than the one that only sleeps.
    """
    config = resolve_sweep(SEARCHED, [f"trials={trials}", f"engine={engine}", "steps=0", *words], data=FACES)
    started, stamp = time.perf_counter(), time.time()
    result = sweep.tune(
        config,
        runs=runs,
        view_of=silent_view,
        tracking_uri=tracking_uri,
        parts=Parts(
            worker_of or stub_worker(kernel), sink_of if patience_s is None else partial(sink_of, patience_s=patience_s)
        ),
    )
    seconds = time.perf_counter() - started
    return Run(result, seconds, max(record.ended_at for record in result.records) - stamp)
