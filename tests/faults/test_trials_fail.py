"""Trials raise, hang, or answer nonsense; the clock jumps; the tracker is down: the sweep goes on, and says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fault_drivers import Drivers, content_of, ledger_of

from raysweep.engine.ledger import read_ledger
from raysweep.engine.record import TrialRecord


def trials(runs: Path) -> list[TrialRecord]:
    return [record for record in read_ledger(ledger_of(runs)) if not record.control]


@pytest.mark.slow
def test_an_anonymizer_that_raises_now_and_then_fails_those_trials_only(drivers: Drivers, tmp_path: Path) -> None:
    driver = drivers.tune(runs=tmp_path, trials=5, fail=["", "raise"])
    assert driver.wait() == 0, driver.output
    assert [record.state for record in trials(tmp_path)] == ["complete", "failed", "complete", "failed", "complete"]
    assert "RuntimeError: no such thing" in trials(tmp_path)[1].reason
    before = ledger_of(tmp_path).read_bytes()
    assert drivers.tune(runs=tmp_path, trials=5).wait() == 0
    assert ledger_of(tmp_path).read_bytes() == before


@pytest.mark.slow
def test_one_that_always_raises_stops_the_sweep_with_a_summary(drivers: Drivers, tmp_path: Path) -> None:
    driver = drivers.tune("max_failures=0.25", runs=tmp_path, trials=8, fail=["raise"])
    assert driver.wait() == 1
    assert "stopped: 3 of 3 trials failed, more than max_failures=0.25 of the 8 planned" in driver.output
    assert "3 x RuntimeError: no such thing" in driver.output
    assert len(trials(tmp_path)) == 3
    more = drivers.tune("max_failures=1", runs=tmp_path, trials=8)
    assert more.wait() == 0, more.output
    assert [record.state for record in trials(tmp_path)] == ["failed"] * 3 + ["complete"] * 5


@pytest.mark.slow
def test_one_that_hangs_is_given_up(drivers: Drivers, tmp_path: Path) -> None:
    driver = drivers.tune("trial_timeout=0.5", runs=tmp_path, trials=3, fail=["", "hang", ""])
    assert driver.wait() == 0, driver.output
    assert [record.state for record in trials(tmp_path)] == ["complete", "failed", "complete"]
    assert trials(tmp_path)[1].reason == "given up after 0.5 s of work (trial_timeout)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "stub", [{"privacy": [None, "nan"]}, {"privacy": [None, "inf"]}, {"missing": "utility"}, {"missing": "privacy"}]
)
def test_what_is_no_number_ranks_nowhere_and_stops_nothing(
    drivers: Drivers, tmp_path: Path, stub: dict[str, Any]
) -> None:
    """F18: it is recorded with its reason, the sampler goes on, and the report has it."""
    driver = drivers.tune("max_failures=1", runs=tmp_path, trials=4, mlflow=True, report=True, **stub)
    bad = 2 if "privacy" in stub else 4
    assert driver.wait() == (0 if bad < 4 else 1), driver.output
    assert "Traceback" not in driver.output
    failed = [record for record in trials(tmp_path) if record.state == "failed"]
    assert len(trials(tmp_path)) == 4
    assert len(failed) == bad
    assert {record.reason for record in failed} <= {
        "privacy is nan", "privacy is inf", "utility is missing", "privacy is missing",
    }  # fmt: skip
    report = b"".join(path.read_bytes() for path in (ledger_of(tmp_path).parent / "report").iterdir())
    assert all(record.reason.encode() in report for record in failed)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_result(
    drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    """F17: an hour forth and a day back between any two looks."""
    driver = drivers.tune(runs=tmp_path, clock=[0.0, 3600.0, -86400.0, 5.0], mlflow=True)
    assert driver.wait() == 0, driver.output
    assert content_of(tmp_path) == undisturbed
    assert all(seconds >= 0 for record in read_ledger(ledger_of(tmp_path)) for seconds in record.seconds.values())
    again = drivers.tune(runs=tmp_path, clock=[-1e6], mlflow=True)
    assert again.wait() == 0, again.output


@pytest.fixture
def broken_server() -> Iterator[str]:
    """Answers everything with 500."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://me:planted-password@127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.mark.slow
def test_a_tracker_that_fails_changes_no_result_and_gets_everything_later(
    drivers: Drivers, tmp_path: Path, undisturbed: list[dict[str, Any]], broken_server: str
) -> None:
    """F15 with the whole driver; the tracker's own faults are in tests/integration/test_mlflow.py."""
    driver = drivers.tune(runs=tmp_path, mlflow=True, env={"MLFLOW_TRACKING_URI": broken_server})
    assert driver.wait() == 0, driver.output
    assert "not logged" in " ".join(driver.output.split())
    assert "planted-password" not in driver.output
    assert content_of(tmp_path) == undisturbed
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"planted-password" not in path.read_bytes(), path
    again = drivers.tune(runs=tmp_path, mlflow=True)
    assert again.wait() == 0, again.output
    assert "not logged" not in again.output
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [item for item in client.search_experiments() if item.name.startswith("raysweep")]
    runs = client.search_runs([experiment.experiment_id], "tags.`raysweep.trial_key` != ''")
    assert len(runs) == len(undisturbed)
