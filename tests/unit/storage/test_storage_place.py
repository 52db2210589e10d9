"""Places of runs: an address becomes a folder of copies that finds its way back; a path stays what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="the extra is not installed: uv sync --extra storage")

from obstore.store import MemoryStore

from raysweep.engine.ledger import Ledger, read_ledger
from raysweep.engine.record import TrialRecord
from raysweep.engine.runs import Identity, choose_run, write_settings
from raysweep.errors import StoreError
from raysweep.storage.objects import Objects
from raysweep.storage.place import fetched, open_place, remote_of, run_copy
from raysweep.tracking.stored import find_run

URL = "s3://bucket/runs"
IDENTITY = Identity({"seed": 0}, {"code": "a"})


def record(number: int) -> TrialRecord:
    return TrialRecord(f"key{number}", number, "blur", {}, {}, "failed", "no such thing", ended_at=1.0)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    kept = MemoryStore()
    monkeypatch.setattr(Objects, "open", lambda url: Objects(kept, url, url.partition("://")[2] + "/"))
    return kept


def use(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine))
    return open_place(URL)


def sweep(runs: Path, *numbers: int, state: str = "running") -> Path:
    """What `sweep.tune` does in its run folder."""
    folder = runs / "blur-01234567"
    folder.mkdir(exist_ok=True)
    with Ledger(folder / "ledger.jsonl", copy=run_copy(folder)) as ledger:
        write_settings(folder, {"info": {"name": "blur"}, "identity": IDENTITY.to_dict(), "state": state})
        (folder / "scores").mkdir(exist_ok=True)
        for number in numbers:
            (folder / "scores" / f"key{number}.npz").write_bytes(b"arrays of %d" % number)
            assert ledger.append(record(number))
    return folder


def test_a_path_is_a_path(tmp_path: Path) -> None:
    assert open_place(str(tmp_path)) == tmp_path
    assert remote_of(tmp_path) is None
    assert run_copy(tmp_path / "run") is None
    assert fetched(tmp_path) == tmp_path


def test_another_machine_finds_the_run_and_what_is_in_it(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = use(tmp_path / "one", monkeypatch)
    assert choose_run(one, "blur", IDENTITY).note == ""
    sweep(one, 0, 1)
    two = use(tmp_path / "two", monkeypatch)
    assert two != one
    assert [item.key for item in read_ledger(two / "blur-01234567" / "ledger.jsonl")] == ["key0", "key1"]
    assert not (two / "blur-01234567" / "scores").exists()  # fetched when it is asked for
    folder = find_run("blur", two)
    assert (folder / "scores" / "key1.npz").read_bytes() == b"arrays of 1"
    other = Identity({"seed": 0}, {"code": "b"})
    with pytest.raises(Exception, match="the same question, unfinished, and was made by other means"):
        choose_run(two, "blur", other)


def test_what_another_machine_added_is_seen_the_next_time(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = use(tmp_path / "one", monkeypatch)
    sweep(one, 0)
    two = use(tmp_path / "two", monkeypatch)
    sweep(two, 1, state="finished")
    again = use(tmp_path / "one", monkeypatch)
    folder = again / "blur-01234567"
    assert [item.key for item in read_ledger(folder / "ledger.jsonl")] == ["key0", "key1"]
    assert json.loads((folder / "sweep.json").read_text())["state"] == "finished"


def test_a_sweep_of_this_machine_is_not_disturbed_by_who_looks(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = use(tmp_path, monkeypatch)
    folder = sweep(runs, 0)
    with Ledger(folder / "ledger.jsonl", copy=run_copy(folder)) as ledger:
        write_settings(folder, {"info": {"name": "blur"}, "state": "newer than what was sent"})
        find_run("blur", use(tmp_path, monkeypatch))
        assert "newer than what was sent" in (folder / "sweep.json").read_text()
        assert ledger.append(record(1))


def test_a_deleted_mirror_costs_nothing(store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = use(tmp_path, monkeypatch)
    sweep(runs, 0)
    shutil.rmtree(runs)
    folder = find_run(None, use(tmp_path, monkeypatch))
    assert (folder / "scores" / "key0.npz").exists()
    assert [item.key for item in read_ledger(folder / "ledger.jsonl")] == ["key0"]


def test_a_mirror_whose_note_is_damaged_is_named(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = use(tmp_path, monkeypatch)
    (runs / ".place.json").write_text("{")
    with pytest.raises(StoreError, match=r"\.place\.json: cannot be read; remove the folder"):
        run_copy(runs / "blur-01234567")
