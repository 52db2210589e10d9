"""Ray Tune runs the trials: a thin trainable that asks the pool, and a searcher that asks the proposer."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.callback import Callback
from ray.tune.error import TuneError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util import get_node_ip_address

from raysweep.engine.evidence import pack, unpack
from raysweep.engine.pools import RayPoolClient
from raysweep.engine.record import TrialRecord, TrialTask, Work
from raysweep.engine.session import SessionError, our_error
from raysweep.engine.trial import failed_record, trial_records
from raysweep.search.sampler import Proposal, Proposer

__all__ = ["tune_trials"]

TRIAL_CPUS = 0.01
"""A trial only waits for the pool; the cores belong to the workers."""
HALT = "halt"
"""In what a trial reports, in place of a record: why the sweep must stop."""


def tune_trials(
    proposer: Proposer,
    make_task: Callable[[Proposal], TrialTask],
    client: RayPoolClient,
    work: Work,
    *,
    folder: Path,
    climbs: Callable[[TrialRecord], bool],
    on_record: Callable[[TrialRecord], None],
    on_start: Callable[[TrialTask], None],
    deadline: float | None,
) -> None:
    """Run proposals until the proposer has no more, or until `deadline` (monotonic seconds) for new ones.

    Args:
        proposer: asks and is told in this process.
        make_task: proposal -> task.
        client: of the worker pool.
        work: the rows of each trial.
        folder: for Tune's own state; nothing in it is needed again.
        climbs: whether a trial goes on, after each rung below full fidelity.
        on_record, on_start: called in this process as trials end and start.
    """
    # Tune's own loggers write a folder of files per trial, all of which the ledger has already.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S"] = "0"
    searcher = _ProposerSearch(proposer, make_task, on_record, on_start, work.fidelity, deadline)
    trainable = tune.with_resources(
        tune.with_parameters(_Trial, client=client, work=work),
        # On the driver's machine: a trial waits for the pool, and should not go with a machine that works.
        {"cpu": TRIAL_CPUS, f"node:{get_node_ip_address()}": 1e-4},
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=_HalvingScheduler(climbs, searcher),
            num_samples=-1,
            max_concurrent_trials=client.trials_at_once(max(map(len, work.whole.chunks))),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.resolve()),
            verbose=0,
            callbacks=[_Recorder(searcher)],
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )
    try:
        tuner.fit()
    except (
        RuntimeError
    ) as error:  # Tune's word for an actor that ended as it does not expect, for want of memory above all
        raise our_error(error) from error
    except TuneError as error:  # what was raised here, while a record was taken: Tune keeps only its text
        raise our_error(error.__context__ or error) from error
    # Tune leaves a folder per trial; all that they hold is in the ledger.
    shutil.rmtree(folder / "tune", ignore_errors=True)


class _Trial(tune.Trainable):  # type: ignore[misc]
    """The trainable: a step is a rung. It only waits for the pool, and keeps nothing between trials."""

    _records: Iterator[TrialRecord]

    def setup(
        self,
        config: Mapping[str, Any],
        client: RayPoolClient,
        work: Work,
    ) -> None:
        self._client, self._work = client, work
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Take the next trial in the same process."""
        self._records = trial_records(TrialTask(**new_config["task"]), self._client, self._work)
        return True

    def step(self) -> dict[str, Any]:
        """One rung, or all of the trial that is left."""
        try:
            record = next(self._records)
        except SessionError as error:
            return {HALT: str(error), "done": True}
        if record.state == "stopped":
            # As text: Tune flattens mappings before a scheduler sees them.
            return {"stopped": json.dumps(record.to_dict())}
        values = {name: record.metrics[name].value for name in ("privacy", "utility") if name in record.metrics}
        # In a mapping of their own, which the reader empties: Tune keeps the last report of every trial in its snapshots.
        arrays = {"packed": pack(record.evidence)} if record.evidence else {}
        return {**values, "record": record.to_dict(), "evidence": arrays, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: an interrupted trial starts again."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, see `save_checkpoint`."""


class _HalvingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Tune's view of `Halving`: a trial ends on the rung where it stands too low."""

    def __init__(self, climbs: Callable[[TrialRecord], bool], searcher: _ProposerSearch) -> None:
        super().__init__()
        self._climbs, self._searcher = climbs, searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Go on or stop, after each rung."""
        if "stopped" not in result:
            return str(self.CONTINUE)
        record = json.loads(result["stopped"])
        if self._climbs(TrialRecord.from_dict(record)):
            return str(self.CONTINUE)
        self._searcher.record(trial.trial_id, {"record": record})
        return str(self.STOP)

    def __getstate__(self) -> dict[str, Any]:
        """Empty: what the rungs hold comes from the ledger, never from Tune."""
        return {}


class _ProposerSearch(Searcher):  # type: ignore[misc]
    """Tune's view of a `Proposer`; keeps nothing on disk."""

    def __init__(
        self,
        proposer: Proposer,
        make_task: Callable[[Proposal], TrialTask],
        on_record: Callable[[TrialRecord], None],
        on_start: Callable[[TrialTask], None],
        fidelity: Mapping[str, int],
        deadline: float | None,
    ) -> None:
        super().__init__()
        self._proposer, self._make_task = proposer, make_task
        self._on_record, self._on_start = on_record, on_start
        self._fidelity, self._deadline = fidelity, deadline
        self._tasks: dict[str, TrialTask] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next task, or that there are no more."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return str(self.FINISHED)
        proposal = self._proposer.ask()
        if proposal is None:
            return str(self.FINISHED)
        task = self._make_task(proposal)
        self._tasks[trial_id] = task
        self._on_start(task)
        return {
            "task": {
                "key": task.key,
                "number": task.number,
                "anonymizer": task.anonymizer,
                "setting": dict(task.setting),
                "seed": task.seed,
                "extras": list(task.extras),
                "trains": task.trains,
                "staged": task.staged,
            }
        }

    def record(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Take the record of a trial the moment it is reported.

        Raises:
            SessionError: the trial could not go on for want of something that all trials need.
        """
        if HALT in result:
            raise SessionError(result[HALT])
        if trial_id in self._tasks and "record" in result:
            del self._tasks[trial_id]
            record = TrialRecord.from_dict(result["record"])
            packed = result.get("evidence", {}).pop("packed", None)
            self._end(record if packed is None else replace(record, evidence=unpack(packed)))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial that ended without a record has failed: tell so, else it would stay open in the study."""
        self.record(trial_id, result or {})
        task = self._tasks.pop(trial_id, None)
        if task is not None:
            self._end(failed_record(task, self._fidelity, "the trial's process ended without a result", time.time()))

    def _end(self, record: TrialRecord) -> None:
        self._on_record(record)
        self._proposer.tell(record)

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its searcher at each snapshot, but resume goes through the ledger, never through Tune."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is the record, and the study is rebuilt from it."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


class _Recorder(Callback):  # type: ignore[misc]
    """Hands each report to the searcher at once; Tune itself tells it only when the trial's actor is released."""

    def __init__(self, searcher: _ProposerSearch) -> None:
        self._searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        """Empty, see `_ProposerSearch`."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """Take the record when it is there; a rung below full fidelity has none."""
        self._searcher.record(trial.trial_id, result)
