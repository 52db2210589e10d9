"""Whole sweeps on a few synthetic faces: with and without Ray, resumed, with failing trials, and what they leave on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raysweep import sweep
from raysweep.api import evaluate, tune
from raysweep.cli import main
from raysweep.config import resolve_sweep
from raysweep.engine.ledger import read_ledger
from raysweep.tracking.standing import standing
from raysweep.tracking.terminal import live_view

FACES = "synthetic:identities=40,images_per_identity=7"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store of faces for all sweeps of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSWEEP_CACHE", str(cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_local_sweep_and_its_resumption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tune("blur", "trials=3", "engine=local", data=FACES, runs=tmp_path)
    controls = {record.control: record for record in result.records if record.control}
    trials = [record for record in result.records if not record.control]
    assert {record.state for record in result.records} == {"complete"}
    assert len(trials) == 3
    identity, blackout = controls["identity"].metrics, controls["blackout"].metrics
    assert (identity["privacy"].value, identity["utility"].value) == (0.0, 1.0)
    assert (blackout["privacy"].value, blackout["utility"].value) == (1.0, 0.0)
    state = standing(result.records, result.info)
    assert state.front
    assert 0 < state.hypervolume < 1
    assert all(record.metrics["privacy"].lo <= record.metrics["privacy"].value for record in state.front)
    folder = result.info.run_folder
    ledger = (folder / "ledger.jsonl").read_bytes()
    assert (folder / "report" / "front.csv").exists()
    assert (tmp_path / "mlflow.db").exists()

    again = tune("blur", "trials=3", "engine=local", data=FACES, runs=tmp_path)
    assert (folder / "ledger.jsonl").read_bytes() == ledger
    assert again.delivery.sent == 0
    more = tune("blur", "trials=4", "engine=local", data=FACES, runs=tmp_path)
    assert (folder / "ledger.jsonl").read_bytes().startswith(ledger)
    assert len([record for record in more.records if not record.control]) == 4
    assert "Synthetic" in json.dumps(json.loads((folder / "sweep.json").read_text())) or more.info.synthetic


@pytest.mark.slow
def test_ray_gives_the_same_records(tmp_path: Path) -> None:
    local = tune("pixelate", "trials=3", "engine=local", data=FACES, runs=tmp_path / "local")
    ray = tune("pixelate", "trials=3", "workers=2", data=FACES, runs=tmp_path / "ray")
    ours = {record.key: record for record in local.records}
    theirs = {record.key: record for record in ray.records}
    assert ours.keys() == theirs.keys()
    for key, record in ours.items():
        assert theirs[key].setting == record.setting
        for name, value in record.metrics.items():
            other = theirs[key].metrics[name]
            assert other.status == value.status, name
            if value.ok:
                assert other.value == pytest.approx(value.value, abs=1e-6), name


def test_evaluate_prints_every_attacker(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["evaluate", "pixelate", "block_size=16", "--data", FACES, "--runs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for words in ("Synthetic faces", "A0 ignorant", "A3 adaptive_head", "A1 lazy (null)", "realism/ssim", "strongest"):
        assert words in shown, words


def test_a_failing_trial_does_not_stop_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(
        "from raysweep.anonymizers.base import Anonymizer\n"
        "class Broken(Anonymizer):\n"
        "    name = 'acme/broken'\n"
        "    def anonymize(self, faces):\n"
        "        raise RuntimeError('no such thing')\n",
        encoding="utf-8",
    )
    result = evaluate(f"file:{tmp_path / 'own.py'}:Broken", data=FACES, runs=tmp_path / "runs")
    trial = next(record for record in result.records if not record.control)
    assert trial.state == "failed"
    assert trial.reason == "RuntimeError: no such thing (own.py:5)"
    assert {record.state for record in result.records if record.control} == {"complete"}


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path: Path, cache: Path) -> None:
    """kill -9 after the first trial; the same command again finishes the same sweep and repeats nothing."""
    words = ["tune", "blur", "--engine", "local", "--trials", "3", "--data", FACES, "--runs", str(tmp_path)]
    environment = {**os.environ, "RAYSWEEP_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "raysweep", *words], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "trial #0" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    ledger = next(tmp_path.glob("*/ledger.jsonl"))
    before = [record.key for record in read_ledger(ledger)]
    assert before
    assert main(words) == 0
    after = [record.key for record in read_ledger(ledger)]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 5  # three trials, two controls


@pytest.mark.slow
def test_a_killed_worker_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of one worker in the middle: its items run again elsewhere."""
    from raysweep.engine.pools import RayPool

    killed: list[int] = []
    original = RayPool.wait_ready

    def wait_then_kill(self: RayPool, progress: object) -> None:
        original(self, progress)  # type: ignore[arg-type]
        killed.append(self.pids()[0])
        # While the first items run: the dispatcher has handed them out a second from now.
        subprocess.Popen(["sh", "-c", f"sleep 1.5; kill -9 {killed[0]}"])

    monkeypatch.setattr(RayPool, "wait_ready", wait_then_kill)
    config = resolve_sweep("blur", ["trials=4", "workers=2"], data=FACES)
    result = sweep.tune(config, runs=tmp_path, view_of=live_view)
    assert killed
    assert [record.state for record in result.records] == ["complete"] * 6, [record.reason for record in result.records]


def test_what_cannot_work_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    monkeypatch.setenv("RAYSWEEP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("RAYSWEEP_MODELS", str(tmp_path / "no-models"))
    empty = tmp_path / "empty"
    empty.mkdir()
    one = tmp_path / "one" / "somebody"
    one.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (64, 64), (number * 40, 90, 60)).save(one / f"{number}.png")
    for data, message in ((empty, "empty"), (one.parent, "weights at hand")):
        assert main(["tune", "blur", "--engine", "local", "--data", str(data)]) == 2
        assert message in capsys.readouterr().err
    assert main(["tune", "blur", "--engine", "local", "--data", "synthetic:identities=1"]) == 2
    assert "identit" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*/ledger.jsonl"))
