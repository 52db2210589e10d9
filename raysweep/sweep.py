"""READ SECOND: a sweep from top to bottom. Space -> Optuna -> Tune -> pool -> ledger -> MLflow.

1. `faces.open_faces`: source -> shards -> prepared reference store (`pipeline.py`), all content-addressed: done once per data set.
2. `tune`: run folder, ledger, standing workers, controls, then trials until the budget is used up; each finished trial goes
   to the ledger first and from there to the live view and the tracker.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from raysweep.anonymizers.registry import get_anonymizer, trains_in_stages
from raysweep.config import RunSettings, SweepConfig
from raysweep.engine.evidence import COMMON, DIGEST_NOTE, EvidenceStore
from raysweep.engine.faults import fault_point
from raysweep.engine.forecast import Timekeeper, forecast_key, read_forecast
from raysweep.engine.interrupts import Interrupts, StopNow, SweepInterruptedError, SweepStoppedError
from raysweep.engine.items import work_items
from raysweep.engine.lease import LeaseLostError
from raysweep.engine.ledger import Ledger
from raysweep.engine.pools import LocalPool, Pool, RayPool, WorkerOf, default_workers, trial_worker
from raysweep.engine.record import TrialRecord, TrialTask, Work
from raysweep.engine.runs import choose_run, folder_name, sweep_file, write_settings
from raysweep.engine.session import cpu_share
from raysweep.engine.states import StateStore
from raysweep.engine.trial import run_trial
from raysweep.errors import ConfigError, StoreError
from raysweep.faces import Faces, check_needs, cores_and_gpus, find_faces, open_faces, session, shares_of
from raysweep.models.inputs import CHUNK
from raysweep.models.zoo import Found, Zoo
from raysweep.preprocess.tools import tool_names
from raysweep.provenance import basis_of, identity_of, protocol_of, sampler_of, versions
from raysweep.redaction import redacted, redacted_all
from raysweep.schema import EXPRESSIONS, ROLES, IntArray
from raysweep.search.fidelity import Ladder
from raysweep.search.parameters import Value
from raysweep.search.sampler import Proposal, Proposer
from raysweep.search.scheduler import Halving
from raysweep.search.space import Arm, Space, canonical_hash
from raysweep.storage.place import run_copy
from raysweep.tracking.info import ModelInfo, SweepInfo
from raysweep.tracking.mlflow_sink import Delivery, MlflowSink, default_tracking_uri
from raysweep.tracking.running import RunningFront
from raysweep.tracking.terminal import LiveView
from raysweep.tracking.text import plain

__all__ = ["Parts", "SweepResult", "tune"]

NO_GPU = "measure_precision = 'float16' is for workers with a GPU, and there is none: leave it out"


@dataclass(frozen=True)
class Parts:
    """What a sweep is put together from; benches and drills put others in their place.

    Attributes:
        worker_of: makes a worker of its plan.
        sink_of: makes the tracker.
    """

    worker_of: WorkerOf = trial_worker
    sink_of: Callable[[str, SweepInfo], MlflowSink] = MlflowSink


@dataclass(frozen=True)
class SweepResult:
    """What a sweep leaves.

    Attributes:
        info: what it was.
        records: of all trials, the controls included.
        delivery: what reached MLflow, the links, and the files of the report.
    """

    info: SweepInfo
    records: tuple[TrialRecord, ...]
    delivery: Delivery


def tune(
    config: SweepConfig,
    *,
    runs: Path,
    view_of: Callable[[SweepInfo], AbstractContextManager[LiveView]],
    tracking_uri: str | None = None,
    address: str | None = None,
    command: str = "",
    need_privacy: bool = True,
    fresh: bool = False,
    resume: str | None = None,
    parts: Parts = Parts(),
) -> SweepResult:
    """Run a sweep, or go on with it where it stopped.

    Args:
        config: what and how.
        runs: folder in which the run folder `<space>-<key>` is made.
        view_of: makes the live view.
        tracking_uri: of MLflow; None: `MLFLOW_TRACKING_URI`, else SQLite in `runs`.
        address: of a running Ray cluster; None starts a local one.
        command: the command line, for the record.
        need_privacy: False lets a data set without identities pass; its trials have no privacy and no front.
        fresh: start a new run, even where one could go on.
        resume: go on with this run (a folder, its name or the start of it) or refuse.
        parts: what it is put together from.

    Raises:
        RaysweepError: before any trial, when data, models or settings cannot do, or when code, weights or libraries are not those of
            the run that would go on.
    """
    began = time.monotonic()
    run, space = config.run, config.space
    if run.gpus is not None and (run.engine != "ray" or address is None):
        raise ConfigError(f"gpus={run.gpus} waits for machines of a cluster: give its --address, or leave it out")
    if run.measure_precision != "float32" and address is None and not _gpu_here():
        raise ConfigError(NO_GPU)
    protocol_of(run).make_attackers()
    name = config.data or "synthetic"
    info = SweepInfo(
        name=space.name,
        key="",
        dataset=Path(name).name,
        synthetic=config.data is None,
        anonymizer=", ".join(redacted(arm.anonymizer) for arm in space.arms),
        run_folder=runs,
        space=redacted_all(space.canonical()),
        parameters=tuple(dict.fromkeys(key for arm in space.arms for key in arm.ranges)),
        sampler=sampler_of(config),
        seed=run.seed,
        trials=planned_trials(space, run),
        command=redacted(command),
        versions=versions(),
    )
    with view_of(info) as view:
        found = find_faces(config.data, config.kind, config.models)
        identity = identity_of(config, *found)
        timekeeper = Timekeeper(
            info.trials, read_forecast(runs, forecast_key(identity, run)), guess=run.budget is None, began_at=began
        )
        choice = choose_run(runs, space.name, identity, fresh=fresh, resume=resume)
        if choice.note:
            view.note(choice.note)
        with _Workplace(config, address, view) as place:
            faces = open_faces(
                run,
                view,
                data=config.data,
                kind=config.kind,
                models=config.models,
                workers=place.workers,
                need_privacy=need_privacy,
                found=found,
            )
            check_needs(space, faces)
            basis = basis_of(config, faces)
            content = {"space": space.canonical(), "sampler": info.sampler, **basis}
            key = canonical_hash({**content, "fresh": choice.fresh} if choice.fresh else content)
            folder = runs / folder_name(space.name, key)
            _make_folder(folder)
            info = replace(info, key=key, run_folder=folder, **_about(faces))
            view.update(info)
            with Ledger(folder / "ledger.jsonl", tell=view.note, copy=run_copy(folder)) as ledger:
                settings = {"identity": identity.to_dict(), "fresh": choice.fresh, **_settings(config, basis)}
                sink = parts.sink_of(default_tracking_uri(runs, tracking_uri), info)
                driver = _Driver(
                    config, faces, basis, settings, ledger, sink, view, info, need_privacy, parts, timekeeper
                )
                unchanged = driver.serve_finished()
                if unchanged:
                    view.note("finished before: nothing is run again")
                else:
                    driver.write_settings()
                    try:
                        driver.run(folder, place.workers())
                    except (LeaseLostError, StopNow):
                        raise  # whoever took over reports as well; and at once is at once
                    except BaseException as error:
                        if ledger.records:
                            view.note("stopping: sending what is finished to MLflow")
                            sink.finish(
                                tuple(ledger.records.values()),
                                "FAILED" if isinstance(error, SweepStoppedError) else "KILLED",
                            )
                        raise
                fault_point("sweep.before_finish")
                records = tuple(ledger.records.values())
                if not unchanged:
                    view.note("writing the report")
                delivery = sink.finish(records, "FINISHED", unchanged=unchanged)
                fault_point("sweep.after_finish")
                driver.write_settings(state="finished")
    return SweepResult(driver.info, records, delivery)


class _Workplace:
    """The Ray session of a sweep, started when somebody first asks how many workers there are: a finished sweep needs none."""

    def __init__(self, config: SweepConfig, address: str | None, view: LiveView) -> None:
        self._config, self._run, self._address, self._view = config, config.run, address, view
        self._stack = ExitStack()
        self._workers = 0

    def __enter__(self) -> _Workplace:
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def workers(self) -> int:
        """How many workers the sweep has."""
        if not self._workers:
            self._view.note("starting Ray" if self._run.engine == "ray" else "working in this process")
            needed = [] if self._address is None else _needed(self._config)
            self._stack.enter_context(session(self._run, self._address, self._view.note, needed))
            self._workers = self._run.workers or default_workers(*cores_and_gpus(self._run.engine))
        return self._workers


def _needed(config: SweepConfig) -> list[Path]:
    """What is read on every machine beside the faces: anonymizers that are not ours, and the folder of weights that was named."""
    needed = [] if config.models is None else [Path(config.models).expanduser()]
    for name in dict.fromkeys(arm.anonymizer for arm in config.space.arms):
        if name.startswith("file:"):
            needed.append(Path(name.removeprefix("file:").rpartition(":")[0]))
            continue
        module = get_anonymizer(name).__module__
        if not module.startswith("raysweep."):
            needed.append(Path(str(sys.modules[module].__file__)))
    return needed


class _Driver:
    """The part of a sweep between the open ledger and its end."""

    def __init__(
        self,
        config: SweepConfig,
        faces: Faces,
        basis: Mapping[str, Any],
        settings: Mapping[str, Any],
        ledger: Ledger,
        sink: MlflowSink,
        view: LiveView,
        info: SweepInfo,
        need_privacy: bool,
        parts: Parts,
        timekeeper: Timekeeper,
    ) -> None:
        self._need_privacy, self._parts, self._timekeeper = need_privacy, parts, timekeeper
        self._config, self._faces, self._basis = config, faces, basis
        self._ledger, self._sink, self._view = ledger, sink, view
        self.info = info
        self._settings, self._common_evidence = settings, ""
        self._proposer: Proposer | None = None
        self._too_many_failed = False
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._stopping = threading.Event()
        self._evidence = EvidenceStore(info.run_folder)
        self._states = StateStore(info.run_folder)
        self._evidence_failed = False
        self._front = RunningFront(info)

    def key_of(self, anonymizer: str, setting: Mapping[str, Value], repeat: int = 0) -> str:
        content = {**self._basis, "anonymizer": anonymizer, "setting": dict(setting)}
        return canonical_hash({**content, "repeat": repeat} if repeat else content, 16)

    def write_settings(self, state: str = "running") -> None:
        """Bring `sweep.json` up to date; `state` is `finished` when nothing is left to do."""
        self._ledger.check()
        content = {
            **self._settings,
            "info": self.info.to_dict(),
            "common_evidence": self._common_evidence,
            "state": state,
        }
        (self.info.run_folder / "space.yaml").write_text(redacted(self._config.space.text), encoding="utf-8")
        write_settings(self.info.run_folder, content)

    def serve_finished(self) -> bool:
        """Show and send what is recorded, when there is nothing left to run; False when there is, or when something of it is damaged."""
        records = list(self._ledger.records.values())
        finished = sum(not record.control for record in records) >= self.info.trials
        controls = {key for key, *_ in self._wanted_controls()}
        if not finished or not controls <= set(self._ledger.records):
            return False
        try:
            stored = json.loads(sweep_file(self.info.run_folder).read_text(encoding="utf-8"))
            before = SweepInfo.from_dict(stored["info"], self.info.run_folder)
            common = str(stored["common_evidence"])
            self._evidence.read(COMMON, common)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StoreError):
            return False
        if stored.get("state") != "finished":
            return False
        self.info, self._common_evidence = replace(self.info, clear=before.clear, timing=before.timing), common
        self._view.update(self.info)
        self._sink.info = self.info
        self._serve(records)
        return True

    def _serve(self, records: Sequence[TrialRecord]) -> None:
        self._sink.start()
        for record in records:
            self._view.trial(record, served=True)
            self._sink.trial(record)

    def run(self, folder: Path, workers: int) -> None:
        run, space = self._config.run, self._config.space
        plan = self._plan(workers)
        with self._pool(plan, workers) as pool:
            tuned = pool.result(pool.call("tuned"))
            if run.measure_precision != "float32" and not tuned:
                raise ConfigError(NO_GPU)
            for name, how in tuned.items():
                self._view.note(f"{name}: {how}")
            self.info = replace(self.info, clear=pool.result(pool.call("clear_summary")))
            self._view.update(self.info)
            self._sink.info = self.info
            self._common_evidence = self._keep_common(pool)
            self.write_settings()
            known = list(self._ledger.records.values())
            self._serve(known)
            for record in known:
                self._front.add(record)
            proposer = Proposer(
                space,
                sampler=run.sampler,
                seed=run.seed,
                trials=self.info.trials,
                key_of=self.key_of,
                known=[record for record in known if not record.control],
                repeats=run.repeats,
            )
            self._proposer = proposer
            ladder = Ladder(run.rungs, run.eta)
            *rungs, chunks = work_items(self._faces.references.faces, protocol_of(run), ladder, run.seed)
            work = Work(chunks, rungs)
            work = replace(work, fidelity=self._fidelity(work.whole.chunks))
            halving = Halving(ladder)
            for record in known:
                halving.restore(record)
            deadline = None if run.budget is None else time.monotonic() + run.budget
            with self._watch(pool), Interrupts(self._view.note, self._drain) as interrupts:
                if isinstance(pool, RayPool):
                    from raysweep.search.tuner import tune_trials

                    with self._beside(lambda: self._controls(pool.client(), work.whole)):
                        tune_trials(
                            proposer,
                            self._task,
                            pool.client(),
                            work,
                            folder=folder,
                            climbs=halving.decide,
                            on_record=self._finish,
                            on_start=self._start,
                            deadline=deadline,
                        )
                else:
                    self._controls(pool, work.whole)
                    while (deadline is None or time.monotonic() < deadline) and (
                        proposal := proposer.ask()
                    ) is not None:
                        task = self._task(proposal)
                        self._start(task)
                        record = run_trial(task, pool, work, climbs=halving.decide)
                        self._finish(record)
                        fault_point("sampler.before_tell")
                        proposer.tell(record)
                        fault_point("sampler.after_tell")
            if self._too_many_failed:
                raise SweepStoppedError(self._failures())
            if interrupts.signum is not None:
                raise SweepInterruptedError(interrupts.signum, len(self._ledger.records))
            if not known:  # what is left of an interrupted sweep is not what was foretold
                self.info = replace(self.info, timing=self._timekeeper.timing())
                self._view.update(self.info)
                self._sink.info = self.info

    def _drain(self) -> None:
        """Start nothing more."""
        self._stopping.set()
        if self._proposer is not None:
            self._proposer.close()

    def _failures(self) -> str:
        """How many trials failed, and the commonest reasons."""
        trials = [record for record in self._ledger.records.values() if not record.control]
        reasons = Counter(record.reason for record in trials if record.state == "failed")
        lines = [f"{count} x {plain(reason, 160)}" for reason, count in reasons.most_common(5)]
        share = self._config.run.max_failures
        return "\n".join(
            [
                f"stopped: {sum(reasons.values())} of {len(trials)} trials failed, more than max_failures={share:g} of the "
                f"{self.info.trials} planned:",
                *lines,
                "failed trials stay recorded and are not run again: mend the cause and use --fresh, or go on with a higher max_failures",
            ]
        )

    # ---------------------------------------------------------------- parts
    def _plan(self, workers: int) -> Any:
        from raysweep.engine.worker import WorkerPlan

        run = self._config.run
        return WorkerPlan(
            references=str(self._faces.store.folder),
            zoo=self._faces.zoo,
            dataset=self._faces.source.name,
            seed=run.seed,
            shares=shares_of(run),
            need_privacy=self._need_privacy,
            protocol=protocol_of(run),
            batch_size=run.measure_batch,
            threads=run.threads or (cpu_share(workers) if run.engine == "ray" else os.cpu_count() or 1),
            states=str(self.info.run_folder.absolute()),
            ladder=Ladder(run.rungs, run.eta),
            precision=run.measure_precision,
        )

    @contextmanager
    def _pool(self, plan: Any, workers: int) -> Iterator[Any]:
        if self._config.run.engine == "local":
            self._view.note("loading models")
            yield LocalPool(plan, self._config.run.trial_timeout, self._parts.worker_of)
            return
        _, gpus = cores_and_gpus("ray")
        self._view.stage("starting workers", 0, workers)
        pool = RayPool(
            plan,
            workers,
            float(min(gpus, workers)),
            self._config.run.trial_timeout,
            self._parts.worker_of,
            # Networks are fed at least that many faces at a time: fewer are filled up with nothing.
            together=plan.batch_size if gpus else CHUNK["torch cpu"],
        )
        try:
            pool.wait_ready(lambda ready: self._view.stage("starting workers", ready, workers))
            yield pool
        finally:
            pool.close()

    @contextmanager
    def _beside(self, work: Callable[[], None]) -> Iterator[None]:
        """Do some work in a thread while the block runs; wait for it, and raise what it raised."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            self._stopping.set()
            if not isinstance(error, StopNow):
                thread.join()
            raise
        thread.join()
        if failures:
            raise failures[0]

    @contextmanager
    def _watch(self, pool: Any) -> Iterator[None]:
        """Tell the live view how many faces a second the pool measures, and when workers go and come back."""
        if not isinstance(pool, RayPool):
            yield
            return
        stop = threading.Event()
        client = pool.client()

        def watch() -> None:
            started, serving = time.monotonic(), client.size
            while not stop.wait(2.0):
                faces = client.faces()
                self._view.stage("measuring", faces, None, faces / (time.monotonic() - started))
                before, serving = serving, client.serving()
                if serving < before:
                    self._view.note(f"{client.size - serving} of {client.size} workers are gone; the others go on")
                elif serving > before:
                    self._view.note(f"{serving} of {client.size} workers serve again")

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _task(self, proposal: Proposal) -> TrialTask:
        run = self._config.run
        return TrialTask(
            key=self.key_of(proposal.anonymizer, proposal.setting, proposal.repeat),
            number=proposal.number,
            anonymizer=proposal.anonymizer,
            setting=proposal.setting,
            seed=run.seed + proposal.repeat,
            extras=protocol_of(run).extras,
            trains=get_anonymizer(proposal.anonymizer, allow_file=True).trains,
            staged=run.rungs > 1 and trains_in_stages(proposal.anonymizer, proposal.setting),
        )

    def _wanted_controls(self) -> Iterator[tuple[str, str, str, dict[str, Value]]]:
        """Key, what it is for, anonymizer and setting of each control."""
        wanted: list[tuple[str, str, dict[str, Value]]] = [("identity", "identity", {}), ("blackout", "blackout", {})]
        for arm in self._config.space.arms:
            anonymizer = get_anonymizer(arm.anonymizer, allow_file=True)
            if anonymizer.trains:
                wanted.append(("untrained", arm.anonymizer, untrained_setting(arm)))
        for control, name, given in wanted:
            setting = dict(get_anonymizer(name, allow_file=True)(**given).setting)
            yield "control-" + self.key_of(name, setting), control, name, setting

    def _controls(self, pool: Pool, work: Work) -> None:
        """Rows that show the ends of the scale: the clear face, nothing at all, and a generator that has learned nothing."""
        for key, control, name, setting in self._wanted_controls():
            if key not in self._ledger.records and not self._stopping.is_set():
                task = TrialTask(
                    key, -1, name, setting, self._config.run.seed, control, protocol_of(self._config.run).extras
                )
                self._finish(run_trial(task, pool, work))

    def _start(self, task: TrialTask) -> None:
        with self._lock:
            self._timekeeper.start()
            self._running.add(task.number)
            self._view.running(len(self._running))

    def _finish(self, record: TrialRecord) -> None:
        with self._lock:
            self._running.discard(record.number)
            self._view.running(len(self._running))
            if record.key not in self._ledger.records:
                # What an anonymizer raises may quote anything; the record is shown, sent and shared.
                record = replace(record, anonymizer=redacted(record.anonymizer), reason=redacted(record.reason))
                record = self._with_evidence(record)
            if self._ledger.append(record):
                self._view.trial(record)
                self._sink.trial(record)
                if not record.control:
                    self._timekeeper.end()
                    self._front.add(record)
                    self._forget_states()
                if record.state == "failed" and not record.control:
                    self._count_failures()

    def _forget_states(self) -> None:
        """What trials learned is kept for the front only; those that still run are not in the ledger, and keep theirs."""
        known = self._ledger.records
        self._states.forget(set(known) - self._front.keys)

    def _count_failures(self) -> None:
        trials = [record for record in self._ledger.records.values() if not record.control]
        failed = sum(record.state == "failed" for record in trials)
        if failed > self._config.run.max_failures * self.info.trials and len(trials) < self.info.trials:
            self._too_many_failed = True
            self._drain()

    def _keep_common(self, pool: Pool) -> str:
        """Store what the evidence of all trials shares; its digest, empty when it could not be stored."""
        try:
            return self._evidence.write(COMMON, pool.result(pool.call("common_evidence")))
        except StoreError as error:
            self._view.note(f"{error}; the sweep goes on without it")
            return ""

    def _with_evidence(self, record: TrialRecord) -> TrialRecord:
        """Store a record's arrays before the record itself; what cannot be stored is said in it and stops nothing."""
        if not record.evidence:
            return record
        try:
            note = self._evidence.write(record.key, record.evidence)
        except StoreError as error:
            note = f"not stored: {error}"
            if not self._evidence_failed:
                self._view.note(f"{error}; the sweep goes on without it")
            self._evidence_failed = True
        # The arrays are on disk now: a sweep of thousands of trials must not hold them all.
        return replace(record, notes={**record.notes, DIGEST_NOTE: note}, evidence={})

    def _fidelity(self, chunks: Sequence[IntArray]) -> dict[str, int]:
        table = self._faces.references.faces.table
        evaluated = table.identity[table.rows("E")]
        return {"identities": len(np.unique(evaluated[evaluated >= 0])), "images": sum(map(len, chunks))}


def _gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()


def untrained_setting(arm: Arm) -> dict[str, Value]:
    """The arm's network as it is before any training: as drawn at random, not one step."""
    parameters = get_anonymizer(arm.anonymizer, allow_file=True).parameters
    setting = {key: value for key, value in arm.fixed.items() if key in parameters}
    return {**setting, "steps": 0, "init": "scratch"}


def planned_trials(space: Space, run: RunSettings) -> int:
    """How many trials there will be: a study has as many as it lists, a small space no more than it holds."""
    if all(arm.settings for arm in space.arms):
        return run.repeats * sum(len(arm.settings) for arm in space.arms)
    conditional = any(arm.when for arm in space.arms)
    return run.trials if space.size is None or conditional else min(run.trials, space.size)


def _about(faces: Faces) -> dict[str, Any]:
    table = faces.references.faces.table
    return {
        "dataset": faces.source.name,
        "synthetic": faces.source.synthetic,
        "faces": len(table),
        "identities": {
            role: len(np.unique(table.identity[rows][table.identity[rows] >= 0]))
            for role in ("G", "T", "S", "E")
            if len(rows := table.rows(role))
        },
        "quarantined": faces.left_out(),
        "models": tuple(
            ModelInfo(
                item.name,
                item.entry.task,
                item.entry.licence,
                item.sha256,
                item.entry.reference,
                tuple(sorted(faces.zoo.lineage(item.name) - {item.name})),
            )
            for item in _models_used(faces.zoo)
        ),
        "card": _card(faces),
    }


def _models_used(zoo: Zoo) -> list[Found]:
    """Judges first, then what finds and reads the faces."""
    judges = [item for task in ("embedder", "expression", "perceptual") for item in zoo.judges(task)]
    at_hand = {item.name: item for item in zoo.found.values()}
    return judges + [at_hand[name] for name in tool_names(zoo).values() if name in at_hand]


def _card(faces: Faces) -> dict[str, Any]:
    """The data set in figures."""
    table, source = faces.references.faces.table, faces.source
    frame = faces.references.faces.frame
    shown = Counter(EXPRESSIONS[label] if label >= 0 else "not known" for label in table.expression.tolist())
    return {
        "kind": source.kind,
        "licence": source.licence,
        "digest": faces.store.key,
        "frame": f"{frame.size} x {frame.size} pixels, margin {frame.margin}",
        "images": {role: len(table.rows(role)) for role in ROLES},
        "expressions": {name: shown[name] for name in (*EXPRESSIONS, "not known") if shown[name]},
        "notes": [str(note) for note in getattr(source, "notes", ())],
    }


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(
            f"cannot make the run folder {folder}: {error.strerror}; name another place with --runs"
        ) from error


def _settings(config: SweepConfig, basis: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `sweep.json` that does not change while the sweep runs."""
    return {
        "run": config.run.model_dump(mode="json"),
        "basis": redacted_all(basis),
        "argv": [redacted(word) for word in sys.argv],
    }
