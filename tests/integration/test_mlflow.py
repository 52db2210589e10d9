"""The tracker against a real SQLite store (no server), a broken one, and one that comes back."""

from __future__ import annotations

import base64
import importlib.util
import json
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from raysweep.tracking.mlflow_sink import MlflowSink, default_tracking_uri
from raysweep.tracking.preset import front_url, view_url
from raysweep.tracking.standing import standing
from raysweep.tracking.ui import free_port, newest_sweep, serve_ui, sweep_links

_source = Path(__file__).resolve().parents[1] / "unit" / "tracking" / "fake_sweep.py"
_spec = importlib.util.spec_from_file_location("fake_sweep", _source)
assert _spec is not None
assert _spec.loader is not None
fake = sys.modules.setdefault("fake_sweep", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(fake)


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(uri: str):
    store = client(uri)
    found = store.search_runs([item.experiment_id for item in store.search_experiments()], max_results=1000)
    parents = [run for run in found if run.data.tags.get("raysweep.kind") == "sweep"]
    children = {run.data.tags["raysweep.trial_key"]: run for run in found if "raysweep.trial_key" in run.data.tags}
    assert len(found) == len(parents) + len(children), "no key twice"
    return parents, children


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "my runs 100%"
    folder.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return folder


def test_a_sweep_in_mlflow(runs: Path) -> None:
    timing = {"actual_s": 400.0, "predicted_s": 380.0, "low_s": 340.0, "high_s": 420.0, "basis": "its dry run"}
    info = fake.sweep_info(runs, timing=timing)
    uri = default_tracking_uri(runs)
    records = fake.sweep()
    sink = MlflowSink(uri, info)
    sink.start()
    for record in records:
        sink.trial(record)
    delivery = sink.finish(records, "FINISHED")

    assert delivery.not_logged == ()
    assert delivery.sent == len(records)
    assert list(Path.cwd().iterdir()) == [], "nothing is written into the current folder"
    (parent,), children = runs_of(uri)
    state = standing(records, info)
    store = client(uri)
    assert store.get_experiment(parent.info.experiment_id).name == "raysweep/synthetic"
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "ganonymization 3f2a91c0"
    assert parent.data.params["seed"] == "7"
    assert parent.data.params["clear/rank1/small_a"] == "0.970 [0.950, 0.990]"
    assert parent.data.tags["knee.trial"] == f"#{state.knee.number}"
    assert parent.data.metrics["time/predicted_over_actual"] == pytest.approx(0.95)
    assert parent.data.tags["raysweep.foretold_by"] == "its dry run"
    assert "Synthetic faces" in parent.data.tags["mlflow.note.content"]
    assert "**knee**" in parent.data.tags["mlflow.note.content"]

    child = children[records[3].key]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params["width"] == "16"
    assert child.data.params["fidelity.identities"] == "30"
    assert child.data.metrics["privacy"] == records[3].metrics["privacy"].value
    assert child.data.metrics["privacy_lo"] == records[3].metrics["privacy"].lo
    assert child.data.metrics["privacy/naive"] == 0.97
    assert child.data.metrics["seconds/fit"] == 4.2
    # What the scatter plot of the Compare page opens on: its first parameter and its first metric.
    assert min(child.data.params) == "P"
    assert float(child.data.params["P"]) == pytest.approx(records[3].metrics["privacy"].value, rel=1e-5)
    assert min(child.data.metrics) == "U"
    assert child.data.metrics["U"] == records[3].metrics["utility"].value
    assert "realism/lpips" not in child.data.metrics
    assert child.data.tags["undefined.realism/lpips"] == "no weights for the alexnet backbone"
    assert child.data.tags["raysweep.worst_attacker"] == "adaptive_head on small_a"
    assert child.data.tags["synthetic"] == "true"
    assert child.info.end_time == round(1000 * records[3].ended_at)
    curve = store.get_metric_history(child.info.run_id, "train/loss_g")
    assert [(point.step, point.value) for point in curve] == [(0, 2.0), (1, 1.5), (2, 1.1)]
    assert child.data.tags["undefined.train/loss_d"] == "1 of 3 steps are not finite"

    assert {key for key, run in children.items() if run.data.tags["pareto"] == "true"} == state.front_keys
    (failed,) = [run for run in children.values() if run.data.tags["state"] == "failed"]
    assert failed.info.status == "FAILED"
    assert "privacy" not in failed.data.metrics
    assert "P" not in failed.data.params
    undefined = children[f"{19:08x}"]
    assert "privacy" not in undefined.data.metrics
    assert undefined.data.tags["undefined.privacy"] == "identities without repeats"
    assert children["control-identity"].data.tags["raysweep.kind"] == "control"

    volumes = store.get_metric_history(parent.info.run_id, "hypervolume")
    assert [point.step for point in volumes] == list(range(1, 21))
    assert volumes[-1].value == pytest.approx(state.hypervolume)
    assert store.get_metric_history(parent.info.run_id, "front_size")[-1].value == len(state.front)
    names = {item.path for item in store.list_artifacts(parent.info.run_id)}
    assert names == {
        "report.html",
        "front.html",
        "front.png",
        "front.csv",
        "trials.csv",
        "attackers.json",
        "config.yaml",
        "README.md",
    }
    assert (runs / "mlartifacts").is_dir()
    assert str(runs) not in (info.run_folder / "report" / "config.yaml").read_text()

    assert delivery.url == front_url(uri, parent.info.experiment_id, parent.info.run_id)
    assert newest_sweep(uri)[1] == parent.info.run_id
    assert any(delivery.view_url in line for line in sweep_links(uri))


def test_preset_view_names_what_was_logged(runs: Path) -> None:
    info = fake.sweep_info(runs)
    uri = default_tracking_uri(runs)
    MlflowSink(uri, info).finish(fake.sweep(6), "FINISHED")
    (parent,), children = runs_of(uri)
    tags = client(uri).get_experiment(parent.info.experiment_id).tags
    views = {key.removeprefix("mlflow.sharedViewState."): value for key, value in tags.items() if "ViewState" in key}
    assert all(len(value) <= 5000 for value in views.values())
    states = {
        key: json.loads(zlib.decompress(base64.b64decode(json.loads(value)["state"].removeprefix("deflate;"))))
        for key, value in views.items()
    }
    key = f"raysweep-{info.key}"
    assert set(states) == {key, f"{key}-front", "raysweep-sweeps"}
    on_front = client(uri).search_runs([parent.info.experiment_id], states[f"{key}-front"]["searchFilter"])
    assert {run.data.tags["raysweep.trial_key"] for run in on_front} == standing(fake.sweep(6), info).front_keys
    (sweep,) = client(uri).search_runs([parent.info.experiment_id], states["raysweep-sweeps"]["searchFilter"])
    shown = states["raysweep-sweeps"]["selectedColumns"]
    assert {f"metrics.`{name}`" for name in ("hypervolume", "front_size", "knee_privacy", "knee_utility")} <= set(shown)
    assert {"hypervolume", "front_size", "knee_privacy", "knee_utility"} <= set(sweep.data.metrics)
    state = states[key]
    found = client(uri).search_runs([parent.info.experiment_id], state["searchFilter"])
    assert len(found) == 8, "six trials, one failed, one undefined; no control, no parent"
    scatter, parallel = state["compareRunCharts"]
    complete = children[f"{0:08x}"].data
    assert {scatter["xaxis"]["key"], scatter["yaxis"]["key"], *parallel["selectedMetrics"]} <= set(complete.metrics)
    assert set(parallel["selectedParams"]) <= set(complete.params)
    assert parallel["selectedParams"] == ["width", "identity_weight", "expression_loss"]


def test_resume_sends_only_what_is_missing(runs: Path) -> None:
    info, records = fake.sweep_info(runs), fake.sweep()
    uri = default_tracking_uri(runs)
    assert MlflowSink(uri, info).finish(records[:9], "KILLED").sent == 9
    again = MlflowSink(uri, fake.sweep_info(runs, trials=40))
    again.start()
    for record in (*records, *records):
        again.trial(record)
    delivery = again.finish(records, "FINISHED")
    assert (delivery.sent, delivery.already) == (len(records) - 9, 9)
    parents, children = runs_of(uri)
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.tags["raysweep.trials_planned"] == "40"
    assert len(children) == len(records)
    volumes = client(uri).get_metric_history(parents[0].info.run_id, "hypervolume")
    assert [point.step for point in volumes] == list(range(1, 21)), "no step twice"
    assert len(client(uri).get_metric_history(parents[0].info.run_id, "knee_privacy")) == 2, "once each time"
    front = standing(records, info).front_keys
    assert {key for key, run in children.items() if run.data.tags["pareto"] == "true"} == front


def test_half_sent_trial_is_completed_not_doubled(runs: Path) -> None:
    info, record = fake.sweep_info(runs), fake.record(0, 0.5, 0.5)
    uri = default_tracking_uri(runs)
    MlflowSink(uri, info).finish([], "KILLED")
    (parent,), _ = runs_of(uri)
    tags = {"mlflow.parentRunId": parent.info.run_id, "raysweep.trial_key": record.key, "raysweep.kind": "trial"}
    begun = client(uri).create_run(parent.info.experiment_id, tags=tags)
    # Measured on another machine, whose last digit was another: MLflow refuses to change a parameter.
    client(uri).log_param(begun.info.run_id, "P", "0.499999")
    delivery = MlflowSink(uri, info).finish([record], "FINISHED")
    assert (delivery.sent, delivery.not_logged) == (1, ())
    _, children = runs_of(uri)
    assert children[record.key].info.status == "FINISHED"
    assert children[record.key].data.metrics["privacy"] == 0.5


def test_hostile_names(runs: Path) -> None:
    bad = fake.HOSTILE
    info = fake.sweep_info(
        runs,
        name=bad,
        dataset=bad,
        command=bad,
        quarantined={bad: 1},
        clear={bad: fake.value(0.5)},
        versions={bad: bad},
    )
    records = [
        fake.record(0, 0.5, 0.5, setting={bad: bad, "../x": 1, "": True}, anonymizer=bad, curves={bad: (1.0,)}),
        fake.record(
            1, 0.6, 0.4, metrics={"privacy": fake.value(0.6), "utility": fake.value(0.4), bad: fake.value(0.1)}
        ),
        fake.failed(2, bad),
        fake.record(3, 0.1, 0.1, attackers=({"attacker": bad, bad: bad, "advantage": 1},)),
    ]
    uri = default_tracking_uri(runs)
    delivery = MlflowSink(uri, info).finish(records, "FINISHED")
    assert delivery.not_logged == ()
    (parent,), children = runs_of(uri)
    for run in (parent, *children.values()):
        for text in (*run.data.params.values(), *run.data.tags.values(), run.info.run_name):
            assert "\x1b" not in text
            assert "\x00" not in text
            assert "\u202e" not in text
    note = parent.data.tags["mlflow.note.content"].splitlines()
    assert not any("<script" in line for line in note if not line.startswith("    ")), "dead outside of code blocks"


def test_many_entities_are_split_into_calls(runs: Path) -> None:
    record = fake.record(
        0, 0.5, 0.5,
        setting={f"p{n}": n for n in range(150)},
        metrics={"privacy": fake.value(0.5), "utility": fake.value(0.5), **{f"m/{n}": fake.value(0.1) for n in range(400)}},
        curves={"loss": tuple(float(n) for n in range(3000))},
    )  # fmt: skip
    uri = default_tracking_uri(runs)
    assert MlflowSink(uri, fake.sweep_info(runs)).finish([record]).not_logged == ()
    _, children = runs_of(uri)
    assert len(children[record.key].data.params) == 153
    assert len(client(uri).get_metric_history(children[record.key].info.run_id, "train/loss")) == 3000


@pytest.mark.parametrize("kind", ["text file", "folder in the way", "unknown scheme", "nobody listens"])
def test_broken_store_never_raises(runs: Path, kind: str) -> None:
    store = runs / "store"
    if kind == "text file":
        store.write_text("this is not a database, it only looks like a file " * 100)
    elif kind == "folder in the way":
        store.mkdir()
    uri = {
        "unknown scheme": "gopher://user:hunter2@example/x",
        "nobody listens": f"http://user:hunter2@127.0.0.1:{free_port('127.0.0.1', 20000)}",
    }.get(kind, f"sqlite:///{store}")
    records = fake.sweep(4)
    began = time.monotonic()
    sink = MlflowSink(uri, fake.sweep_info(runs))
    sink.start()
    for record in records:
        sink.trial(record)
    assert time.monotonic() - began < 5, "the sweep does not wait for its tracker"
    delivery = sink.finish(records, "FINISHED")
    (problem,) = delivery.not_logged
    assert problem.startswith("9 trials, the front and the report (")
    assert "the same command again sends them" in delivery.message
    assert "hunter2" not in delivery.message
    assert "\n" not in delivery.message
    assert (runs / "ganonymization-3f2a91c0" / "report" / "report.html").is_file(), "the report needs no tracker"


def test_locked_store_is_sent_later(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store refuses in the middle of a sweep and comes back before its end."""
    info, records = fake.sweep_info(runs), fake.sweep(5)
    uri = default_tracking_uri(runs)
    sink = MlflowSink(uri, info)
    down = threading.Event()
    send = MlflowSink._send

    def flaky(self: MlflowSink, record) -> None:
        if down.is_set():
            raise sqlite3.OperationalError("database is locked")
        send(self, record)

    monkeypatch.setattr(MlflowSink, "_send", flaky)
    sink.start()
    down.set()
    for record in records[:3]:
        sink.trial(record)
    deadline = time.monotonic() + 60
    while not any("locked" in reason for reason in list(sink._pending.values())) and time.monotonic() < deadline:
        time.sleep(0.05)
    down.clear()
    delivery = sink.finish(records, "FINISHED")
    assert delivery.not_logged == ()
    assert len(runs_of(uri)[1]) == len(records)


def test_one_bad_record_does_not_block_the_others(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = fake.sweep(5)
    send = MlflowSink._send

    def picky(self: MlflowSink, record) -> None:
        if record.number == 2:
            raise ValueError("this one is odd")
        send(self, record)

    monkeypatch.setattr(MlflowSink, "_send", picky)
    delivery = MlflowSink(default_tracking_uri(runs), fake.sweep_info(runs)).finish(records, "FINISHED")
    assert delivery.not_logged == ("1 trial (this one is odd)",)
    assert delivery.sent == len(records) - 1


def test_silent_server_costs_patience_only(runs: Path) -> None:
    """A server that accepts and never answers."""
    gate = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            gate.wait(30)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        sink = MlflowSink(f"http://127.0.0.1:{server.server_port}", fake.sweep_info(runs), patience_s=3.0)
        records = fake.sweep(3)
        client("sqlite:///" + str(runs / "warm.db"))  # the import is not what is measured here
        began = time.monotonic()
        delivery = sink.finish(records, "FINISHED")
        assert time.monotonic() - began < 20
        assert "no answer within 3 s" in delivery.message
    finally:
        gate.set()
        server.shutdown()


def test_tracking_uri(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_tracking_uri(runs) == f"sqlite:///{runs}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker")
    assert default_tracking_uri(runs) == "http://tracker"
    assert default_tracking_uri(runs, "sqlite:///x.db") == "sqlite:///x.db"


def test_links() -> None:
    assert (
        front_url("sqlite:///x", "1", "abc")
        == "http://127.0.0.1:5000/#/experiments/1/runs/abc?workflowType=machine_learning"
    )
    assert front_url("https://u:pw@host/ml/", "1", "abc").startswith("https://host/ml/#/experiments/1/")
    assert "viewStateShareKey=raysweep-k1&" in view_url("sqlite:///x", "1", "k1")


def test_ui_without_a_store_says_what_to_do(runs: Path) -> None:
    from raysweep.errors import StoreError

    with pytest.raises(StoreError, match="run a sweep first"):
        serve_ui(f"sqlite:///{runs}/mlflow.db")
    assert not (runs / "mlflow.db").exists()


@pytest.mark.slow
def test_ui_serves_the_newest_sweep_and_ends_with_its_process(runs: Path) -> None:
    from urllib.request import urlopen

    uri = default_tracking_uri(runs)
    MlflowSink(uri, fake.sweep_info(runs)).finish(fake.sweep(4), "FINISHED")
    (parent,), _ = runs_of(uri)
    port = free_port("127.0.0.1", 21000)
    script = f"from raysweep.tracking.ui import serve_ui; raise SystemExit(serve_ui({uri!r}, port={port}))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said: list[str] = []
        while not (said and said[-1].startswith("its trials")):
            line = process.stdout.readline()
            assert line, f"ended early: {said}"
            said.append(line)
        assert any(parent.info.run_id in line for line in said)
        assert all(len(line) < 400 for line in said), "no server log among the lines"
        artifact = f"http://127.0.0.1:{port}/get-artifact?path=front.csv&run_uuid={parent.info.run_id}"
        assert urlopen(artifact, timeout=30).read().startswith(b"number,key,anonymizer")
    finally:
        process.terminate()
    assert process.wait(timeout=30) == 0
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{port}/health", timeout=5)


def test_taken_port_gives_the_next_one() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) > port


def test_waiting_for_a_tracker_that_is_down_costs_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts the thread sleeps, whatever is due: trials in this process need the processor."""

    def refused(self: MlflowSink) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(MlflowSink, "_connect", refused)
    looks: list[float] = []
    real = MlflowSink._collect

    def counted(self: MlflowSink, until: float) -> object:
        looks.append(until)
        return real(self, until)

    monkeypatch.setattr(MlflowSink, "_collect", counted)
    sink = MlflowSink("http://127.0.0.1:9", fake.sweep_info(runs), patience_s=0.2)
    sink.start()
    for record in fake.sweep()[:4]:
        sink.trial(record)
    time.sleep(1.0)
    assert len(looks) < 20
