"""Sweeps whose runs lie in an object store: killed on one machine, finished on another; two machines at once; a store that breaks promises.

The server is real (`s3_server`); a machine is a folder of copies of its own.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_drivers import BASE, Drivers, stripped
from s3_server import S3, s3_server

from raysweep.engine.ledger import read_ledger

KILLED = -signal.SIGKILL
QUICK = {"lease_timeout_s": 1.5, "lease_beat_s": 0.2}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


class Machine:
    def __init__(self, folder: Path, s3: S3, drivers: Drivers, url: str, **environment: str) -> None:
        self.folder, self._drivers, self._url = folder, drivers, url
        self._environment = {**s3.environment, "XDG_CACHE_HOME": str(folder), **environment}

    def tune(self, *words: str, wait: bool = True, **options: Any) -> Any:
        driver = self._drivers.start(
            "tune", "blur", "--trials", "3", *BASE, *words,
            runs=self._url, env=self._environment, **QUICK, **options,
        )  # fmt: skip
        if wait:
            driver.wait()
        return driver

    @property
    def content(self) -> list[dict[str, Any]]:
        (path,) = self.folder.glob("raysweep/mirrors/*/*/ledger.jsonl")
        return [stripped(record) for record in read_ledger(path)]


@pytest.fixture
def machines(tmp_path: Path, s3: S3, drivers: Drivers) -> tuple[Machine, Machine]:
    url = s3.url
    return Machine(tmp_path / "one", s3, drivers, url), Machine(tmp_path / "two", s3, drivers, url)


def check_equal(machine: Machine, undisturbed: list[dict[str, Any]]) -> None:
    assert sorted(machine.content, key=str) == sorted(undisturbed, key=str)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["ledger.after_write:3", "ledger.after_fsync:3"])
def test_killed_on_one_machine_and_finished_on_another(
    machines: tuple[Machine, Machine], undisturbed: list[dict[str, Any]], place: str
) -> None:
    one, two = machines
    killed = one.tune(fault=place)
    assert killed.wait() == KILLED, killed.output
    other = two.tune()
    assert other.wait() == 0, other.output
    assert "watching" in other.output
    check_equal(two, undisturbed)
    # The first machine comes back with a record that the store never got.
    back = one.tune()
    assert back.wait() == 0, back.output
    check_equal(one, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["evidence.after_replace:4", "lease.after_claim:1", "lease.before_release:1", "settings.after_replace:1"]
)
def test_killed_anywhere_the_same_machine_goes_on(
    machines: tuple[Machine, Machine], undisturbed: list[dict[str, Any]], place: str
) -> None:
    one, two = machines
    killed = one.tune(fault=place)
    assert killed.wait() == KILLED, killed.output
    again = one.tune()
    assert again.wait() == 0, again.output
    check_equal(one, undisturbed)
    reader = two.tune()
    assert reader.wait() == 0, reader.output
    check_equal(two, undisturbed)


@pytest.mark.slow
def test_two_machines_at_once_are_one_sweep(
    machines: tuple[Machine, Machine], undisturbed: list[dict[str, Any]]
) -> None:
    one, two = machines
    first = one.tune(wait=False, sleep=2.0)
    first.wait_for("#0")
    second = two.tune()
    assert second.wait() == 1, second.output
    assert "another process is running this sweep in s3://" in second.output
    assert first.wait() == 0, first.output
    check_equal(one, undisturbed)


@pytest.mark.slow
def test_a_suspended_machine_is_followed_and_writes_nothing_more(
    machines: tuple[Machine, Machine], undisturbed: list[dict[str, Any]]
) -> None:
    one, two = machines
    first = one.tune(wait=False, sleep=2.0)
    first.wait_for("#0")
    first.signal(signal.SIGSTOP)
    second = two.tune()
    assert second.wait() == 0, second.output
    check_equal(two, undisturbed)
    first.signal(signal.SIGCONT)
    assert first.wait() == 1, first.output
    assert "taken this sweep over" in first.output
    check_equal(two, undisturbed)


def test_a_server_that_ignores_conditions_is_refused_by_doctor_and_by_a_sweep(tmp_path: Path, drivers: Drivers) -> None:
    with s3_server(tmp_path / "careless", careless=True) as careless:
        url = careless.url
        machine = Machine(tmp_path / "one", careless, drivers, url)
        refused = machine.tune()
        assert refused.wait() == 1, refused.output
        assert "conditional writes are ignored" in refused.output
        assert not list(machine.folder.glob("raysweep/mirrors/*/*/ledger.jsonl"))
        doctor = drivers.start(
            "doctor", env={**careless.environment, "RAYSWEEP_RUNS": url, "COLUMNS": "400"}, runs=None
        )
        assert doctor.wait() == 1, doctor.output
        assert "conditional writes are ignored" in doctor.output


@pytest.mark.slow
def test_nothing_secret_is_written_anywhere(machines: tuple[Machine, Machine], s3: S3, tmp_path: Path) -> None:
    one, _ = machines
    driver = one.tune()
    assert driver.wait() == 0, driver.output
    secret = s3.environment["AWS_SECRET_ACCESS_KEY"].encode()
    places = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(places) > 5
    assert [path for path in places if secret in path.read_bytes()] == []
    assert secret.decode() not in driver.output
    if s3.log is not None:
        bucket = s3.log.parent / "data"
        assert [path for path in bucket.rglob("*") if path.is_file() and secret in path.read_bytes()] == []


@pytest.mark.slow
def test_faces_are_prepared_once_for_all_machines(
    tmp_path: Path, s3: S3, drivers: Drivers, undisturbed: list[dict[str, Any]]
) -> None:
    url = s3.url
    one, two = (
        Machine(tmp_path / name, s3, drivers, f"{url}/{name}", RAYSWEEP_CACHE=f"{url}/cache") for name in ("one", "two")
    )
    for machine in (one, two):
        driver = machine.tune()
        assert driver.wait() == 0, driver.output
        assert ("preparing" in driver.output) == (machine is one), driver.output
        check_equal(machine, undisturbed)
    made, copied = (
        {path.name: path.read_bytes() for path in machine.folder.glob("raysweep/references/*/*") if path.name != "used"}
        for machine in (one, two)
    )
    assert "manifest.json" in made
    assert made == copied
