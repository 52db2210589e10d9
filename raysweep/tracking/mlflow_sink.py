"""Sends a sweep to MLflow from one thread: never in the way of the sweep, never the reason why it fails, never twice.

The ledger is the truth. What MLflow did not take is said at the end, and sent by the next run of the same sweep, because
a trial is known by its key: a child run that is already there and complete is left alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from raysweep.engine.faults import fault_point
from raysweep.engine.record import TrialRecord
from raysweep.errors import StoreError
from raysweep.metrics.value import MetricValue
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.kept import kept_report
from raysweep.tracking.note import sweep_note, trial_note
from raysweep.tracking.preset import front_url, preset_views, view_url
from raysweep.tracking.report import write_report
from raysweep.tracking.standing import setting_words, standing, trace
from raysweep.tracking.text import entity_key, plain, redact, tag_value, with_interval, worst_attacker

__all__ = ["Delivery", "MlflowSink", "default_tracking_uri", "quiet_mlflow", "sqlite_path"]

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]

MAX_METRICS_PER_CALL = 900
MAX_TAGS_PER_CALL = 90
NOTE = "mlflow.note.content"
COMPARE_X, COMPARE_Y = "P", "U"
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
FRONT_REST = 9.0
"""The front is brought up to date with at most a tenth of the thread's time."""


def default_tracking_uri(runs_root: Path, given: str | None = None) -> str:
    """Where to log: the given URI, else `MLFLOW_TRACKING_URI`, else a SQLite file in the run root.

    Args:
        runs_root: folder that holds the run folders.
        given: from the command line.
    """
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(runs_root / 'mlflow.db').absolute()}"


def quiet_mlflow() -> None:
    """Before mlflow is imported: no telemetry, no chatter over the live view, no minute-long retries inside a call."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Delivery:
    """What came of the logging.

    Attributes:
        url: link to the parent run, empty when there is none.
        view_url: link to the preset view, empty when there is none.
        sent: trials sent by this process.
        already: trials that were there before.
        not_logged: what is missing in MLflow and why, one line each; empty when all is well.
        report: the files in the run folder.
    """

    url: str = ""
    view_url: str = ""
    sent: int = 0
    already: int = 0
    not_logged: tuple[str, ...] = ()
    report: tuple[Path, ...] = ()

    @property
    def message(self) -> str:
        """One line for the screen."""
        if not self.not_logged:
            return f"MLflow: {_trials(self.sent)} sent" + (
                f", {self.already} were there already" if self.already else ""
            )
        return f"not logged: {'; '.join(self.not_logged)}. Nothing is lost: the same command again sends them."


class MlflowSink:
    """The tracker of one sweep. All methods return at once, except `finish`; none raises because of MLflow.

    Args:
        tracking_uri: see `default_tracking_uri`.
        info: of the sweep.
        patience_s: how long `finish` waits without any progress before it gives up.

    Example:
        sink = MlflowSink(default_tracking_uri(runs), info)
        sink.start()
        sink.trial(record)                       # as they end, served ones included
        print(sink.finish(records, "FINISHED").message)
    """

    def __init__(self, tracking_uri: str, info: SweepInfo, patience_s: float = 120.0) -> None:
        self.tracking_uri = tracking_uri
        self.info = info
        self._patience_s = patience_s
        self._queue: queue.Queue[tuple[Sequence[TrialRecord], EndStatus | None]] = queue.Queue()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._progress_at = time.monotonic()
        # Below: written by the thread only, read by `finish` after it, or for a message.
        self._client: Any = None
        self._experiment_id = ""
        self._parent_id = ""
        self._parent_ready = False
        self._children: dict[str, _Child] | None = None
        self._records: dict[str, TrialRecord] = {}
        self._sent: set[str] = set()
        self._already: set[str] = set()
        self._pending: dict[str, str] = {}
        self._front_due = False
        self._front_at = 0.0
        self._last_step: int | None = None
        self._pause_s = FIRST_PAUSE_S
        self._report: tuple[Path, ...] = ()
        self._failing = False
        self._imported = threading.Event()

    @property
    def url(self) -> str:
        """Link to the parent run, empty until it exists."""
        return front_url(self.tracking_uri, self._experiment_id, self._parent_id) if self._parent_id else ""

    @property
    def view_url(self) -> str:
        """Link to the preset view, empty until it exists."""
        return view_url(self.tracking_uri, self._experiment_id, self.info.key) if self._parent_id else ""

    def start(self) -> None:
        """Start the thread; it imports mlflow (seconds), makes the store and the parent run."""
        if self._thread is None:
            # Plotly and others look at sys.modules["pandas"]; while another thread imports it they would find half of it.
            import_module("pandas")

            self._progress_at = time.monotonic()
            self._queue.put(((), None))  # wakes the thread to connect, before there is anything to send
            self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
            self._thread.start()

    def trial(self, record: TrialRecord) -> None:
        """Queue one finished trial or control; one that MLflow already has is not sent again. The front follows by itself."""
        self._queue.put(((record,), None))

    def finish(
        self, records: Sequence[TrialRecord], status: EndStatus = "FINISHED", *, unchanged: bool = False
    ) -> Delivery:
        """Write the report into the run folder, send what is still missing and end the parent run.

        With `unchanged` a report that is there stays as it is. Waits as long as MLflow makes progress, and `patience_s` when it does not.
        """
        problems: list[str] = []
        self.start()
        self._imported.wait(self._patience_s)
        try:
            folder = self.info.run_folder / "report"
            kept = kept_report(folder) if unchanged else []
            self._report = tuple(kept or write_report(records, self.info, folder))
        except Exception as error:  # the sweep is done: a figure that fails must not take its results along
            problems.append(f"the report ({_reason(error)})")
        self._progress_at = time.monotonic()
        self._queue.put((tuple(records), status))
        while not self._done.wait(0.1):
            if time.monotonic() - self._progress_at > self._patience_s:
                problems.append(
                    f"{self._missing(records)} ({_shown(self.tracking_uri)}: no answer within {self._patience_s:.0f} s)"
                )
                break
        else:
            pending = dict(self._pending)
            # Without the sweep's run nothing else could be sent: one reason is enough.
            problems += [f"{self._missing(records)} ({pending['sweep']})"] if "sweep" in pending else _grouped(pending)
        return Delivery(
            url=self.url,
            view_url=self.view_url,
            sent=len(self._sent),
            already=len(self._already),
            not_logged=tuple(problems),
            report=self._report,
        )

    # -------------------------------------------------------------- the thread
    def _run(self) -> None:
        status: EndStatus | None = None
        retry_at = math.inf
        try:
            while status is None:
                due = retry_at if self._failing else self._front_at if self._front_due else math.inf
                status = self._collect(due)
                if status is None and self._failing and time.monotonic() < retry_at:
                    continue
                self._failing = not self._deliver(status)
                retry_at = time.monotonic() + self._pause_s if self._failing else math.inf
                self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S) if self._failing else FIRST_PAUSE_S
        finally:
            self._done.set()

    def _collect(self, until: float) -> EndStatus | None:
        """Wait for something, at most until the next retry is due, and take all that is queued."""
        taken: list[tuple[Sequence[TrialRecord], EndStatus | None]] = []
        with contextlib.suppress(queue.Empty):
            wait_s = None if math.isinf(until) else max(0.0, until - time.monotonic())
            taken.append(self._queue.get(timeout=wait_s))
            while True:
                taken.append(self._queue.get_nowait())
        status: EndStatus | None = None
        for records, end in taken:
            status = end or status
            for record in records:
                self._front_due |= self._records.get(record.key) != record
                self._records[record.key] = record
                if record.key not in self._sent and record.key not in self._already:
                    self._pending.setdefault(record.key, "not sent yet")
        return status

    def _deliver(self, status: EndStatus | None) -> bool:
        """Send everything that is due; False when the store refused something."""
        if not self._try("sweep", self._connect):
            return False
        refused = 0
        for record in [record for key, record in self._records.items() if key in self._pending]:
            refused = 0 if self._try(record.key, partial(self._send, record)) else refused + 1
            if refused >= 2:  # one bad record must not block the others; two in a row are the store
                break
        done = not any(key in self._pending for key in self._records)
        started = time.monotonic()
        if status is not None or (self._front_due and started >= self._front_at):
            self._front_due = not self._try("front", self._send_front)
            # It looks at all trials: in a long sweep it must not come after each of them.
            self._front_at = time.monotonic() + FRONT_REST * (time.monotonic() - started)
            done &= not self._front_due
        if status is not None:
            done &= self._try("report", partial(self._send_report, status))
        return done

    def _try(self, item: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # whatever the tracker does, the sweep goes on; the reason is kept and shown
            self._pending[item] = _reason(error)
            self._children = None  # a call may have worked although its answer was lost: look again before the next
            return False
        self._progress_at = time.monotonic()
        self._pending.pop(item, None)
        return True

    # -------------------------------------------------------------- connection
    def _connect(self) -> None:
        if self._client is None:
            quiet_mlflow()
            try:
                _check_store(self.tracking_uri)
                from mlflow import MlflowClient
            finally:
                self._imported.set()
            self._progress_at = time.monotonic()
            self._client = MlflowClient(tracking_uri=self.tracking_uri)
        if not self._experiment_id:
            self._experiment_id = self._find_experiment()
            self._progress_at = time.monotonic()
        if not self._parent_ready:
            self._parent_id = self._find_parent()
            self._describe_parent()
            self._parent_ready = True
        if self._children is None:
            self._children = self._find_children()

    def _find_experiment(self) -> str:
        name = plain(f"raysweep/{plain(self.info.dataset, 200)}", 250)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(
                self._client.create_experiment(
                    name,
                    artifact_location=self._artifact_location(),
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            )
        if found.lifecycle_stage != "active":
            raise StoreError(
                f"the experiment {name!r} was deleted in MLflow: restore it there, or remove it for good with `mlflow gc`"
            )
        return str(found.experiment_id)

    def _artifact_location(self) -> str | None:
        """Beside the SQLite file, else in the run root; a server decides for itself."""
        if urlsplit(self.tracking_uri).scheme in ("http", "https", "databricks", "uc"):
            return None
        database = sqlite_path(self.tracking_uri)
        root = self.info.run_folder.parent if database is None else database.parent
        return (root.absolute() / "mlartifacts").as_uri()

    def _find_parent(self) -> str:
        query = f"tags.`raysweep.sweep_key` = '{entity_key(self.info.key)}' and tags.`raysweep.kind` = 'sweep'"
        found = self._client.search_runs([self._experiment_id], query, max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        created = self._client.create_run(
            self._experiment_id,
            run_name=plain(f"{self.info.name} {self.info.key[:8]}", 120),
            tags={"raysweep.kind": "sweep", "raysweep.sweep_key": entity_key(self.info.key), **_source()},
        )
        return str(created.info.run_id)

    def _describe_parent(self) -> None:
        info = self.info
        run = self._client.get_run(self._parent_id)
        params = {
            "sweep": info.name, "dataset": info.dataset, "anonymizer": info.anonymizer, "sampler": info.sampler, "seed": info.seed,
            **{f"fidelity.{key}": value for key, value in info.fidelity.items()},
            # As parameters: they never change, and as metrics their bars would stand above the trace of the sweep.
            **{key: with_interval(value, 3) for key, value in info.clear.items()},
        }  # fmt: skip
        tags: dict[str, object] = {
            "synthetic": str(info.synthetic).lower(),
            "raysweep.trials_planned": info.trials,
            "raysweep.faces": info.faces,
            "raysweep.command": info.command,
            **{f"raysweep.identities.{role}": count for role, count in info.identities.items()},
            **{f"raysweep.quarantined.{reason}": count for reason, count in info.quarantined.items()},
            **{f"version.{name}": version for name, version in info.versions.items()},
            **{f"model.{model.role or 'other'}.{model.name}": f"licence {model.licence or 'not known'}, sha256 {model.sha256 or 'not known'}"
               for model in info.models},
        }  # fmt: skip
        reasons = {
            f"{value.status}.{key}": value.reason or "no reason given"
            for key, value in info.clear.items()
            if not value.ok
        }
        self._log(
            self._parent_id,
            # Parameters cannot be changed: add only what is missing.
            params={key: value for key, value in params.items() if entity_key(key) not in run.data.params},
            tags={**tags, **reasons},
        )
        self._set_note(sweep_note((), info))
        self._set_views(())

    def _find_children(self) -> dict[str, _Child]:
        children: dict[str, _Child] = {}
        token: str | None = None
        while True:
            query = f"tags.`mlflow.parentRunId` = '{self._parent_id}'"
            found = self._client.search_runs([self._experiment_id], query, max_results=500, page_token=token)
            for run in found:
                tags = run.data.tags
                complete = run.info.status in ("FINISHED", "FAILED") and bool(tags.get("state"))
                child = _Child(run.info.run_id, tags.get("state", ""), complete, tags.get("pareto", ""))
                key = tags.get("raysweep.trial_key", "")
                if key and (key not in children or not children[key].complete):
                    children[key] = child
            token = found.token
            if not token:
                return children

    # -------------------------------------------------------------- trials
    def _send(self, record: TrialRecord) -> None:
        if self._children is None:
            self._children = self._find_children()
        key = entity_key(record.key)
        child = self._children.get(key)
        if child is not None and child.complete and child.state == record.state:
            self._already.add(record.key)
            return
        fault_point("mlflow.before_send")
        ended_ms = round(1000 * record.ended_at)
        # Parameters cannot be changed: of a run that a killed process has begun, only what is missing is added.
        there = {} if child is None else self._client.get_run(child.run_id).data.params
        name = f"{record.control} control" if record.control else f"#{record.number:03d} {record.anonymizer}"
        if child is None:
            created = self._client.create_run(
                self._experiment_id,
                start_time=ended_ms - round(1000 * float(record.seconds.get("wall", 0.0))),
                run_name=plain(name, 120),
                tags={
                    "mlflow.parentRunId": self._parent_id,
                    "raysweep.trial_key": key,
                    **_source(),
                    "raysweep.kind": "control" if record.control else "trial",
                },
            )
            child = self._children[key] = _Child(str(created.info.run_id), "", False, "")
        metrics, reasons = _metrics(record.metrics, ended_ms)
        taken = {metric.key for metric in metrics}
        curves, lost = _curves(record.curves, ended_ms, taken)
        seconds = {f"seconds/{stage}": MetricValue(float(value)) for stage, value in record.seconds.items()}
        params: dict[str, object] = {"anonymizer": record.anonymizer, **record.setting}
        params.update({f"fidelity.{key}": value for key, value in record.fidelity.items()})
        params, metrics = (
            {**params, **_compare_param(record.metrics)},
            [*metrics, *_compare_metric(record.metrics, ended_ms)],
        )
        tags: dict[str, object] = {
            "raysweep.sweep_key": entity_key(self.info.key),
            "raysweep.number": record.number,
            "raysweep.worst_attacker": worst_attacker(record.attackers),
            "raysweep.version": self.info.versions.get("raysweep", ""),
            "synthetic": str(self.info.synthetic).lower(),
            "pareto": child.pareto or "false",
            NOTE: trial_note(record),
            **reasons,
            **lost,
        }
        if record.control:
            tags["raysweep.control"] = record.control
        if record.reason:
            tags["reason"] = record.reason
        params = {key: value for key, value in params.items() if entity_key(key) not in there}
        self._log(child.run_id, metrics=[*metrics, *_metrics(seconds, ended_ms)[0], *curves], params=params, tags=tags)
        fault_point("mlflow.half_sent")
        # The state goes last: a run that carries it is complete.
        self._client.set_tag(child.run_id, "state", record.state)
        self._client.set_terminated(child.run_id, "FAILED" if record.state == "failed" else "FINISHED", ended_ms)
        fault_point("mlflow.after_send")
        self._children[key] = _Child(child.run_id, record.state, True, child.pareto or "false")
        self._sent.add(record.key)
        self._front_due = True

    def _log(self, run_id: str, metrics: Sequence[Any] = (), params: Mapping[str, object] | None = None,
             tags: Mapping[str, object] | None = None) -> None:  # fmt: skip
        """Any number of entities, in as few calls as MLflow allows."""
        from mlflow.entities import Param, RunTag

        given = [Param(entity_key(key), tag_value(_scalar(value)) or "-") for key, value in (params or {}).items()]
        labels = [
            RunTag(entity_key(key), str(value) if key == NOTE else tag_value(value))
            for key, value in (tags or {}).items()
            if value not in (None, "")
        ]
        first = True
        while first or metrics or given or labels:
            self._client.log_batch(
                run_id, metrics[:MAX_METRICS_PER_CALL], given[:MAX_TAGS_PER_CALL], labels[:MAX_TAGS_PER_CALL]
            )
            metrics, given, labels = (
                metrics[MAX_METRICS_PER_CALL:],
                given[MAX_TAGS_PER_CALL:],
                labels[MAX_TAGS_PER_CALL:],
            )
            first = False
            self._progress_at = time.monotonic()

    # -------------------------------------------------------------- the front
    def _send_front(self) -> None:
        from mlflow.entities import Metric

        records = tuple(self._records.values())
        state = standing(records, self.info)
        if self._children is None:
            self._children = self._find_children()
        on_front = {entity_key(key) for key in state.front_keys}
        for key, child in list(self._children.items()):
            pareto = "true" if key in on_front else "false"
            if child.complete and child.pareto != pareto:
                self._client.set_tag(child.run_id, "pareto", pareto)
                self._children[key] = _Child(child.run_id, child.state, True, pareto)
        if self._last_step is None:
            logged = self._client.get_metric_history(self._parent_id, "hypervolume")
            self._last_step = max((metric.step for metric in logged), default=0)
        points = [point for point in trace(records, self.info) if point.step > (self._last_step or 0)]
        series = [
            Metric(name, value, round(1000 * point.ended_at), point.step)
            for point in points
            for name, value in (("hypervolume", point.hypervolume), ("front_size", float(point.front_size)))
        ]
        best = state.knee
        if best is not None and points:
            series += [
                Metric(f"knee_{name}", best.metrics[name].value, round(1000 * points[-1].ended_at), points[-1].step)
                for name in ("privacy", "utility")
            ]
        self._log(self._parent_id, metrics=series, tags=_knee_tags(records, self.info))
        if points:
            self._last_step = points[-1].step
        self._set_note(sweep_note(records, self.info))

    def _send_report(self, status: EndStatus) -> None:
        for path in self._report:
            self._client.log_artifact(self._parent_id, str(path))
            self._progress_at = time.monotonic()
        self._send_timing()
        table = [{"path": "attackers.json", "type": "table"}]
        self._client.set_tag(self._parent_id, "mlflow.loggedArtifacts", json.dumps(table))
        self._set_views(tuple(self._records.values()))
        self._client.set_tag(
            self._parent_id, "state", {"FINISHED": "complete", "FAILED": "failed"}.get(status, "interrupted")
        )
        self._client.set_terminated(self._parent_id, status)

    def _send_timing(self) -> None:
        """How long the sweep took, and how long it was foretold to take; the same stamp each time, so that MLflow holds it once."""
        from mlflow.entities import Metric

        timing = dict(self.info.timing)
        if not timing:
            return
        basis = timing.pop("basis", "")
        if "predicted_s" in timing and timing["actual_s"] > 0:
            timing["predicted_over_actual"] = timing["predicted_s"] / timing["actual_s"]
        ended_ms = round(1000 * max((record.ended_at for record in self._records.values()), default=0.0))
        metrics = [Metric(f"time/{name}", float(value), ended_ms, 0) for name, value in timing.items()]
        self._log(self._parent_id, metrics=metrics, tags={"raysweep.foretold_by": basis})

    def _set_note(self, note: str) -> None:
        self._client.set_tag(self._parent_id, NOTE, note)

    def _set_views(self, records: Sequence[TrialRecord]) -> None:
        for key, value in preset_views(records, self.info, round(1000 * time.time())).items():
            self._client.set_experiment_tag(self._experiment_id, key, value)

    def _missing(self, records: Iterable[TrialRecord]) -> str:
        keys = {record.key for record in records} - self._sent - self._already
        return f"{_trials(len(keys))}, the front and the report" if keys else "the front and the report"


@dataclass(frozen=True)
class _Child:
    """A child run as MLflow has it; `complete` when nothing is missing in it."""

    run_id: str
    state: str
    complete: bool
    pareto: str


# ------------------------------------------------------------------ translation
def _metrics(values: Mapping[str, MetricValue], stamp_ms: int) -> tuple[list[Any], dict[str, str]]:
    """Numbers as metrics with their interval; what is not a number as a tag that says why."""
    from mlflow.entities import Metric

    metrics: list[Any] = []
    tags: dict[str, str] = {}
    for name, value in values.items():
        key = entity_key(name)
        if not value.ok or not math.isfinite(value.value):
            kept = f" (value {value.value:.4g})" if math.isfinite(value.value) else ""
            tags[f"{value.status if not value.ok else 'undefined'}.{key}"] = (
                f"{value.reason or 'no reason given'}{kept}"
            )
            continue
        metrics.append(Metric(key, float(value.value), stamp_ms, 0))
        for end, bound in (("lo", value.lo), ("hi", value.hi)):
            if math.isfinite(bound):
                metrics.append(Metric(f"{key}_{end}", float(bound), stamp_ms, 0))
    return metrics, tags


def _compare_param(values: Mapping[str, MetricValue]) -> dict[str, object]:
    """P once more, as a parameter; with `_compare_metric` it makes the scatter plot of MLflow's Compare page open on P and U.

    The page takes the first parameter by name for x and the first metric for y, and nothing can tell it otherwise (3.17). Capitals sort first.
    """
    privacy = values.get("privacy")
    return {COMPARE_X: f"{privacy.value:.6g}"} if privacy is not None and privacy.ok else {}


def _compare_metric(values: Mapping[str, MetricValue], stamp_ms: int) -> list[Any]:
    """U once more; see `_compare_param`."""
    from mlflow.entities import Metric

    utility = values.get("utility")
    return [Metric(COMPARE_Y, float(utility.value), stamp_ms, 0)] if utility is not None and utility.ok else []


def _curves(curves: Mapping[str, Sequence[float]], stamp_ms: int, taken: set[str]) -> tuple[list[Any], dict[str, str]]:
    """Training curves under `train/`, never under the key of a summary metric; steps that diverged are counted in a tag."""
    from mlflow.entities import Metric

    metrics: list[Any] = []
    tags: dict[str, str] = {}
    for name, values in curves.items():
        key = entity_key(name if name.startswith("train/") else f"train/{name}")
        key = f"{key}_by_step" if key in taken else key
        metrics += [
            Metric(key, float(value), stamp_ms, step) for step, value in enumerate(values) if math.isfinite(value)
        ]
        lost = sum(not math.isfinite(value) for value in values)
        if lost:
            tags[f"undefined.{key}"] = f"{lost} of {len(values)} steps are not finite"
    return metrics, tags


def _knee_tags(records: Sequence[TrialRecord], info: SweepInfo) -> dict[str, object]:
    best = standing(records, info).knee
    if best is None:
        return {}
    return {
        "knee.trial": f"#{best.number}",
        "knee.privacy": with_interval(best.metrics["privacy"], 3),
        "knee.utility": with_interval(best.metrics["utility"], 3),
        "knee.setting": setting_words(best, info, 1000),
        "knee.worst_attacker": worst_attacker(best.attackers),
    }


def _scalar(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _source() -> dict[str, str]:
    return {"mlflow.source.name": "raysweep", "mlflow.source.type": "LOCAL"}


# ------------------------------------------------------------------ problems
def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, None for any other store."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix).partition("?")[0]) if uri.startswith(prefix) else None


def _check_store(uri: str) -> None:
    """Say at once what MLflow would say after minutes of retries.

    Raises:
        StoreError: the SQLite file cannot be opened or written.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection, connection:
            connection.execute("PRAGMA user_version")
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"the MLflow store {path} cannot be used ({error}): make it writable or name another with MLFLOW_TRACKING_URI"
        ) from error


def _shown(uri: str) -> str:
    return plain(redact(uri), 120)


def _reason(error: BaseException) -> str:
    """First line of an error, passwords in addresses left out."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return plain(re.sub(r"://[^\s/]*:[^\s]*@", "://***@", first), 240)


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _grouped(pending: Mapping[str, str]) -> list[str]:
    """`12 trials (reason)`, `the front (reason)`: one line per reason and kind."""
    names = {"sweep": "the sweep's run", "front": "the front", "report": "the report"}
    by_reason: dict[str, list[str]] = {}
    for item, reason in pending.items():
        by_reason.setdefault(reason, []).append(item)
    lines = []
    for reason, items in by_reason.items():
        trials = sum(item not in names for item in items)
        parts = [names[item] for item in items if item in names] + ([_trials(trials)] if trials else [])
        lines.append(f"{', '.join(parts)} ({reason})")
    return lines
