"""The ledger with its copy in an object store: one writer, nothing lost, nothing twice, whatever the network does.

The store is obstore's own in memory, which decides about conditional writes as S3 does; two folders are two machines.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="the extra is not installed: uv sync --extra storage")

from obstore.store import MemoryStore

from raysweep.engine.lease import Lease, LeaseLostError
from raysweep.engine.ledger import Ledger, read_ledger
from raysweep.engine.record import TrialRecord
from raysweep.errors import ConfigError, StoreError
from raysweep.storage import copy as copy_module
from raysweep.storage.check import object_problems, refuse_bad_store
from raysweep.storage.copy import RunCopy
from raysweep.storage.objects import Objects, UnreachableError


def record(number: int) -> TrialRecord:
    return TrialRecord(
        f"key{number}", number, "blur", {"kernel_size": 11 + 2 * number}, {}, "failed", "no such thing", ended_at=1.0
    )


class Network(Objects):
    """The way of one machine to the store; it can be cut."""

    def __init__(self, store: Any, url: str = "memory://bucket", prefix: str = "", line: dict[str, bool] | None = None):
        super().__init__(store, url, prefix)
        self.line = {"cut": False, "mute": False} if line is None else line

    def at(self, prefix: str) -> Network:
        return Network(self._store, f"{self.url}/{prefix}", f"{self._prefix}{prefix}/", self.line)

    def _pass(self) -> None:
        if self.line["cut"]:
            raise UnreachableError(f"{self.url}: no answer")

    def create(self, key: str, content: bytes) -> bool:
        self._pass()
        made = super().create(key, content)
        if self.line["mute"]:
            raise UnreachableError(f"{self.url}: the answer was lost")
        return made

    def write(self, key: str, content: bytes | Path) -> None:
        self._pass()
        super().write(key, content)

    def read(self, key: str) -> bytes | None:
        self._pass()
        return super().read(key)

    def find(self, prefix: str = "") -> list[Any]:
        self._pass()
        return super().find(prefix)

    def look(self, key: str) -> Any:
        self._pass()
        return super().look(key)

    def delete(self, key: str) -> None:
        self._pass()
        super().delete(key)


class Machine:
    """A folder of its own and a way to the store."""

    def __init__(self, folder: Path, store: MemoryStore) -> None:
        folder.mkdir()
        self.path, self.network = folder / "ledger.jsonl", Network(store)
        self.told: list[str] = []

    def ledger(self) -> Ledger:
        return Ledger(
            self.path, timeout_s=0.15, tell=self.told.append, copy=RunCopy(self.path.parent, self.network.at("run"))
        )

    @property
    def keys(self) -> list[str]:
        return [item.key for item in read_ledger(self.path)]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_module, "BEAT_S", 0.02)
    monkeypatch.setattr(copy_module, "LOOK_S", 0.02)
    monkeypatch.setattr(copy_module, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def one(tmp_path: Path, store: MemoryStore) -> Machine:
    return Machine(tmp_path / "one", store)


@pytest.fixture
def two(tmp_path: Path, store: MemoryStore) -> Machine:
    return Machine(tmp_path / "two", store)


def stand_still(ledger: Ledger) -> None:
    """As a suspended process: no further sign of life."""
    lease = ledger._far_lease
    assert lease is not None
    assert lease._thread is not None
    lease._stop.set()
    lease._thread.join()


def test_another_machine_goes_on_where_the_first_ended(one: Machine, two: Machine) -> None:
    with one.ledger() as ledger:
        assert ledger.append(record(0))
        assert ledger.append(record(1))
    with two.ledger() as ledger:
        assert list(ledger.records) == ["key0", "key1"]
        assert not ledger.append(record(1))
        assert ledger.append(record(2))
    assert two.keys == ["key0", "key1", "key2"]
    assert two.told == []
    with one.ledger() as ledger:
        assert list(ledger.records) == ["key0", "key1", "key2"]
    assert one.path.read_bytes() == two.path.read_bytes()


def test_two_machines_at_once_are_one_writer(one: Machine, two: Machine) -> None:
    with one.ledger() as ledger:
        assert ledger.append(record(0))
        with pytest.raises(StoreError, match="another process"), two.ledger():
            pass
        assert ledger.append(record(1))
    assert one.keys == ["key0", "key1"]


def test_who_stood_still_while_another_took_over_writes_nothing_more(one: Machine, two: Machine) -> None:
    with one.ledger() as first:
        assert first.append(record(0))
        stand_still(first)
        with two.ledger() as second:
            assert second.append(record(1))
            with pytest.raises(LeaseLostError, match="taken this sweep over"):
                first.append(record(2))
            # Suspended between the check and the write: the store itself refuses.
            assert first._far_lease is not None
            first._far_lease.check = lambda: None  # type: ignore[method-assign]
            with pytest.raises(LeaseLostError, match="taken this sweep over"):
                first.append(record(3))
            assert second.append(record(4))
    assert two.keys == ["key0", "key1", "key4"]
    with one.ledger() as again:
        assert list(again.records) == ["key0", "key1", "key4"]
    assert "set aside in ledger.before-" in one.told[-1]
    (aside,) = one.path.parent.glob("ledger.before-*.jsonl")
    assert [item.key for item in read_ledger(aside)] == ["key0", "key3"]


def test_a_piece_that_the_holder_before_sent_late_counts(one: Machine, two: Machine) -> None:
    with one.ledger() as first:
        assert first.append(record(0))
        stand_still(first)
        with two.ledger() as second:
            assert list(second.records) == ["key0"]
            assert first._far_lease is not None
            first._far_lease.check = lambda: None  # type: ignore[method-assign]
            assert first.append(record(1))
            assert not second.append(record(1))
            assert second.append(record(2))
            with pytest.raises(LeaseLostError):
                first.append(record(3))
    assert two.keys == ["key0", "key1", "key2"]


def test_a_store_that_is_away_for_a_while_stops_nothing_and_gets_everything(one: Machine, two: Machine) -> None:
    with one.ledger() as ledger:
        assert ledger.append(record(0))
        one.network.line["cut"] = True
        assert ledger.append(record(1))
        assert ledger.append(record(2))
        assert len([line for line in one.told if "the sweep goes on" in line]) == 1
        one.network.line["cut"] = False
        assert ledger.append(record(3))
    with two.ledger() as ledger:
        assert list(ledger.records) == ["key0", "key1", "key2", "key3"]


def test_a_piece_whose_answer_was_lost_is_not_taken_for_anothers(one: Machine, two: Machine) -> None:
    with one.ledger() as ledger:
        assert ledger.append(record(0))
        one.network.line["mute"] = True
        assert ledger.append(record(1))
        assert ledger.append(record(2))
        one.network.line["mute"] = False
        assert ledger.append(record(3))
    with two.ledger() as ledger:
        assert list(ledger.records) == ["key0", "key1", "key2", "key3"]
        assert ledger.passed_over == 0


def test_a_store_that_stays_away_is_said_at_the_end_and_gets_everything_later(one: Machine, two: Machine) -> None:
    def lose_the_store() -> None:
        with one.ledger() as ledger:
            assert ledger.append(record(0))
            one.network.line["cut"] = True
            assert ledger.append(record(1))

    with pytest.raises(StoreError, match="Nothing is lost"):
        lose_the_store()
    assert one.keys == ["key0", "key1"]
    one.network.line["cut"] = False
    with one.ledger() as ledger:
        assert list(ledger.records) == ["key0", "key1"]
    with two.ledger() as ledger:
        assert list(ledger.records) == ["key0", "key1"]


def test_a_record_that_was_on_disk_and_not_sent_is_sent_by_the_next(one: Machine, two: Machine) -> None:
    """Killed between the two, at any byte of what was being written."""
    with one.ledger() as ledger:
        assert ledger.append(record(0))
    whole = one.path.read_bytes()
    with Ledger(one.path) as alone:  # as one that was killed before it sent
        assert alone.append(record(1))
    longer = one.path.read_bytes()
    for end in (len(whole), len(whole) + 7, len(longer) - 1, len(longer)):
        one.path.write_bytes(longer[:end])
        with one.ledger() as ledger:
            assert list(ledger.records) == (["key0", "key1"] if end == len(longer) else ["key0"])
    with two.ledger() as ledger:
        assert list(ledger.records) == ["key0", "key1"]


def test_files_are_in_the_store_before_the_record_that_speaks_of_them(one: Machine, two: Machine) -> None:
    scores = one.path.parent / "scores"
    with one.ledger() as ledger:
        scores.mkdir()
        (scores / "key0.npz").write_bytes(b"arrays")
        (one.path.parent / ".hidden").write_text("no")
        (one.path.parent / "tune").mkdir()
        (one.path.parent / "tune" / "state").write_text("no")
        assert ledger.append(record(0))
        assert one.network.at("run").read("scores/key0.npz") == b"arrays"
        (scores / "key0.npz").unlink()
        (one.path.parent / "sweep.json").write_text("{}")
    assert [item.key for item in one.network.at("run").find() if not item.key.startswith(("lease", "ledger"))] == [
        "sweep.json"
    ]
    with two.ledger():
        assert (two.path.parent / "sweep.json").read_text() == "{}"


def test_a_lost_copy_on_this_machine_costs_nothing(one: Machine) -> None:
    with one.ledger() as ledger:
        assert ledger.append(record(0))
    shutil.rmtree(one.path.parent)
    one.path.parent.mkdir()
    with one.ledger() as ledger:
        assert list(ledger.records) == ["key0"]
        assert ledger.number == 2


def test_a_missing_piece_is_refused(one: Machine) -> None:
    with one.ledger() as ledger:
        assert ledger.append(record(0))
        assert ledger.append(record(1))
    one.network.at("run").delete("ledger/00000002")
    with pytest.raises(StoreError, match="pieces of the ledger are missing"), one.ledger():
        pass


def test_a_hostile_name_in_the_store_leads_nowhere(one: Machine, tmp_path: Path) -> None:
    run = one.network.at("run")
    with one.ledger() as ledger:
        assert ledger.append(record(0))
    for name in (".ssh", "scores/.hidden"):
        run.write(name, b"no")
    RunCopy(one.path.parent, run).fetch_all()
    assert not list(one.path.parent.rglob(".*"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


# ------------------------------------------------------------------ stores that are not as they should be
def test_a_good_store_has_nothing_against_it(store: MemoryStore) -> None:
    objects = Network(store)
    assert object_problems(objects) == ([], [])
    assert objects.find() == []


class Overwriting(Network):
    """Ignores `If-None-Match`, as some servers do."""

    def at(self, prefix: str) -> Overwriting:
        return Overwriting(self._store, f"{self.url}/{prefix}", f"{self._prefix}{prefix}/", self.line)

    def create(self, key: str, content: bytes) -> bool:
        self.write(key, content)
        return True


class Late(Network):
    """Lists what was there before the last change."""

    def at(self, prefix: str) -> Late:
        return Late(self._store, f"{self.url}/{prefix}", f"{self._prefix}{prefix}/", self.line)

    def find(self, prefix: str = "") -> list[Any]:
        return super().find(prefix)[:-2]


@pytest.mark.parametrize(
    ("kind", "words"), [(Overwriting, "conditional writes are ignored"), (Late, "not listed at once")]
)
def test_a_store_that_breaks_its_promises_is_refused(store: MemoryStore, kind: type[Network], words: str) -> None:
    with pytest.raises(StoreError, match=words):
        refuse_bad_store(kind(store))


def test_a_store_that_does_not_answer_is_named(store: MemoryStore) -> None:
    objects = Network(store)
    objects.line["cut"] = True
    (problem,) = object_problems(objects)[0]
    assert "no answer" in problem


# ------------------------------------------------------------------ addresses
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:hidden-word@bucket/runs", "must hold no credentials"),
        ("s3://bucket/runs?secret=hidden-word", "must hold no credentials"),
        ("ftp://bucket/runs", "not an object store"),
        ("s3://", "not an object store"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_repeating_its_secret(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Objects.open(url)
    assert "hidden-word" not in str(caught.value)


def test_an_endpoint_without_tls_is_for_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example:9000")
    with pytest.raises(ConfigError, match="not encrypted"):
        Objects.open("s3://bucket/runs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    assert Objects.open("s3://bucket/runs/").url == "s3://bucket/runs"


def test_the_number_of_a_lease_is_claimed_once(store: MemoryStore) -> None:
    place = Network(store)
    first = Lease(RunCopy(Path("a"), place).slots(), timeout_s=0.1)
    first.acquire()
    with pytest.raises(StoreError, match="another process"):
        Lease(RunCopy(Path("b"), place).slots(), timeout_s=0.1).acquire()
    first.release()
    second = Lease(RunCopy(Path("b"), place).slots(), timeout_s=0.1)
    second.acquire()
    assert second.number == 2
    second.release()


def test_a_file_that_goes_while_files_are_sent_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "one", MemoryStore())
    for name in ("a", "b"):
        (tmp_path / "one" / name).write_text(name)
    copy = RunCopy(tmp_path / "one", machine.network.at("run"))
    listed = copy._files()
    (tmp_path / "one" / "a").unlink()
    monkeypatch.setattr(copy, "_files", lambda: listed)
    copy.send_files()
    assert machine.network.at("run").read("a") is None
    assert machine.network.at("run").read("b") == b"b"
