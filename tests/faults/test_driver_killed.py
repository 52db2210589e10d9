"""The driver is killed, suspended, interrupted or started twice: nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fault_drivers import BASE, Drivers, content_of, ledger_of

from raysweep.engine.faults import POINTS, arm
from raysweep.engine.ledger import read_ledger
from raysweep.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[2] / "raysweep"
KILLED = -signal.SIGKILL
TRACKER = ("mlflow.", "sweep.")
"""Places that need the real tracker and the real report to be passed."""


def test_every_place_in_the_code_is_on_the_list() -> None:
    found: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        found.update(re.findall(r"fault_point\(\s*[\"']([^\"']+)[\"']", path.read_text(encoding="utf-8")))
    assert sorted(found) == sorted(POINTS)
    assert max(found.values()) == 1, found.most_common(3)


@pytest.mark.parametrize("text", ["ledger.nowhere", "ledger.after_write:0", "ledger.after_write:x"])
def test_a_misspelt_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="RAYSWEEP_FAULT"):
        arm(text)
    arm(None)


def kill_and_resume(
    drivers: Drivers, runs: Path, undisturbed: list[dict[str, Any]], fault: str, **options: Any
) -> None:
    killed = drivers.tune(runs=runs, fault=fault, **options)
    assert killed.wait() == KILLED, (fault, killed.output)
    resumed = drivers.tune(runs=runs, **options)
    assert resumed.wait() == 0, (fault, resumed.output)
    assert sorted(content_of(runs), key=str) == sorted(undisturbed, key=str), fault
    assert len(list(runs.glob("*/sweep.json"))) == 1


def test_killed_at_places_around_a_commit(drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    """The most telling ones; the slow test passes all of them."""
    for fault in ("ledger.after_write:3", "evidence.before_replace:3"):
        kill_and_resume(drivers, tmp_path / fault.replace(":", "-"), undisturbed, fault)


@pytest.mark.slow
@pytest.mark.parametrize("place", [name for name in POINTS if not name.startswith(TRACKER)])
def test_killed_at_every_place(drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]], place: str) -> None:
    count = {"lease": 1, "settings": 1, "sampler": 2}.get(place.split(".")[0], 4)
    kill_and_resume(drivers, tmp_path, undisturbed, f"{place}:{count}")


@pytest.mark.slow
@pytest.mark.parametrize("place", [name for name in POINTS if name.startswith(TRACKER)])
def test_killed_at_every_place_of_the_tracker(
    drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]], place: str
) -> None:
    """Each trial is in MLflow once, and complete, when the resumed sweep has ended."""
    kill_and_resume(drivers, tmp_path, undisturbed, place, mlflow=True, report=place.startswith("sweep."))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name.startswith("raysweep")]
    runs = client.search_runs([experiment.experiment_id], "tags.`raysweep.trial_key` != ''")
    keys = [run.data.tags["raysweep.trial_key"] for run in runs]
    assert sorted(keys) == sorted(record["key"] for record in undisturbed)
    assert {run.data.tags["state"] for run in runs} == {"complete"}


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(drivers: Drivers, tmp_path: Path) -> None:
    """kill -9 at seeded moments, twenty times in a row; then the undisturbed record, and at most the rows in flight done again."""
    trials, log = 12, tmp_path / "rows.txt"
    quiet = tmp_path / "quiet.txt"
    whole = drivers.tune(runs=tmp_path / "whole", trials=trials, sleep=0.05, log=str(quiet))
    assert whole.wait() == 0, whole.output
    draw = random.Random(7)
    kills = 0
    for _ in range(20):
        driver = drivers.start(
            "tune", "blur", "--trials", str(trials), *BASE, runs=tmp_path / "killed", sleep=0.05, log=str(log)
        )
        time.sleep(draw.uniform(0.1, 1.5))
        if not drivers.has_ended(driver.pid):
            driver.signal(signal.SIGKILL)
        kills += driver.wait() == KILLED
    last = drivers.tune(runs=tmp_path / "killed", trials=trials, log=str(log))
    assert last.wait() == 0, last.output
    assert kills
    assert sorted(content_of(tmp_path / "killed"), key=str) == sorted(content_of(tmp_path / "whole"), key=str)
    done, needed = (Counter(path.read_text().split("\n")[:-1]) for path in (log, quiet))
    assert set(done) == set(needed)
    chunks_of_a_trial = max(Counter(line.split()[0] for line in needed.elements()).values())
    assert done.total() - needed.total() <= kills * chunks_of_a_trial


@pytest.mark.slow
def test_a_suspended_driver_writes_nothing_after_another_took_over(
    drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    """F6: SIGSTOP in the middle of a trial, a second driver to the end, then SIGCONT."""
    options: dict[str, Any] = {"runs": tmp_path, "lease_timeout_s": 0.6, "lease_beat_s": 0.1}
    first = drivers.start("tune", "blur", "--trials", "3", *BASE, sleep=0.7, **options)
    first.wait_for("trial #0")
    time.sleep(0.2)
    first.signal(signal.SIGSTOP)
    second = drivers.tune(**options)
    assert second.wait() == 0, second.output
    assert "watching for" in second.output
    ledger = ledger_of(tmp_path).read_bytes()
    first.signal(signal.SIGCONT)
    assert first.wait() == 1, first.output
    assert "another process has taken this sweep over" in first.output
    assert ledger_of(tmp_path).read_bytes() == ledger
    assert sorted(content_of(tmp_path), key=str) == sorted(undisturbed, key=str)


@pytest.mark.slow
def test_the_same_sweep_started_twice_has_one_writer(
    drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    """F7: the second leaves with a clear message and the first goes on; when that is dead, a third takes over at once."""
    first = drivers.start("tune", "blur", "--trials", "3", *BASE, runs=tmp_path, sleep=60)
    first.wait_for("control blackout")
    second = drivers.tune(runs=tmp_path)
    assert second.wait() == 1
    assert f"another process (process {first.pid}) is running this sweep" in " ".join(second.output.split())
    assert not drivers.has_ended(first.pid)
    first.signal(signal.SIGKILL)
    first.wait()
    assert drivers.tune(runs=tmp_path).wait() == 0
    assert content_of(tmp_path) == undisturbed


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_one_signal_drains(
    drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]], signum: int, code: int
) -> None:
    """F20: the running trial is finished and recorded, the exit code says why, and the same command goes on."""
    first = drivers.start("tune", "blur", "--trials", "3", *BASE, runs=tmp_path, sleep=0.5)
    first.wait_for("trial #0")
    time.sleep(0.1)
    first.signal(signum)
    assert first.wait() == code, first.output
    assert "stopping after the trials that run" in first.output
    recorded = content_of(tmp_path)
    assert recorded == undisturbed[: len(recorded)]
    assert len([record for record in recorded if not record["control"]]) == 2
    assert json.loads(next(tmp_path.glob("*/sweep.json")).read_text())["state"] == "running"
    assert drivers.tune(runs=tmp_path).wait() == 0
    assert content_of(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_second_signal_stops_at_once(drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    first = drivers.start("tune", "blur", "--trials", "3", *BASE, runs=tmp_path, sleep=60)
    first.wait_for("control blackout")
    time.sleep(0.2)
    started = time.monotonic()
    first.signal(signal.SIGINT)
    first.wait_for("stopping after the trials that run")
    first.signal(signal.SIGINT)
    assert first.wait() == 130, first.output
    assert time.monotonic() - started < 30
    assert not [record for record in read_ledger(ledger_of(tmp_path)) if not record.control]
    assert drivers.tune(runs=tmp_path).wait() == 0
    assert content_of(tmp_path) == undisturbed
