"""Entries of the cache go through an object store whole, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="the extra is not installed: uv sync --extra storage")

from obstore.store import MemoryStore

from raysweep.data.files import blank_row
from raysweep.data.shards import ShardSet, write_shards
from raysweep.engine.cache import cache_root
from raysweep.errors import StoreError
from raysweep.preprocess.actors import read_slice
from raysweep.storage import entries
from raysweep.storage.objects import Objects


class NineFaces:
    """A source of nine rows whose images are any bytes."""

    name, kind, licence, synthetic, notes = "nine", "folder", "none", False, ()

    def __len__(self) -> int:
        return 9

    def digest(self) -> str:
        return "0123456789abcdef" * 4

    def rows(self) -> Iterator[dict[str, object]]:
        for number in range(9):
            row = blank_row(f"{number}", f"{number}")
            row.update(identity=f"p{number // 3}", image=bytes([number]) * 500, encoding="jpeg")
            yield row


FACES = NineFaces()


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Objects:
    objects = Objects(MemoryStore(), "memory://cache")
    monkeypatch.delenv("RAYSWEEP_CACHE", raising=False)
    monkeypatch.setattr(entries, "far_cache", lambda: objects)
    return objects


def prepare_on(machine: Path, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine))
    return write_shards(FACES, cache_root() / "shards" / FACES.digest()[:32], rows_per_shard=4)


def test_the_second_machine_copies_what_the_first_has_made(
    far: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare_on(tmp_path / "one", monkeypatch)
    assert [item.key.rpartition("/")[2] for item in far.find()] == [
        "faces-00000.parquet", "faces-00001.parquet", "faces-00002.parquet", "manifest.json",
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("raysweep.data.shards._write", lambda *_: pytest.fail("made again"))
        copied = prepare_on(tmp_path / "two", monkeypatch)
    copied.verify()
    assert copied.digest() == made.digest()
    assert copied.folder.stat().st_mode & 0o077 == 0


def test_a_worker_elsewhere_reads_a_shard_that_it_never_had(
    far: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare_on(tmp_path / "one", monkeypatch)
    rows = read_slice(made.paths[1], 1, 2)
    shutil.rmtree(made.folder)
    assert read_slice(made.paths[1], 1, 2) == rows


def test_an_entry_without_its_manifest_is_not_there(
    far: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first machine was killed while it sent; when it comes back it sends the rest."""
    made = prepare_on(tmp_path / "one", monkeypatch)
    key = f"shards/{made.folder.name}"
    far.delete(f"{key}/manifest.json")
    far.delete(f"{key}/faces-00001.parquet")
    (tmp_path / "two").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    elsewhere = cache_root() / "shards" / made.folder.name
    entries.settle_entry(elsewhere)
    assert not elsewhere.exists()
    prepare_on(tmp_path / "one", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    entries.settle_entry(elsewhere)
    assert sorted(path.name for path in elsewhere.iterdir()) == sorted(
        path.name for path in made.folder.iterdir() if path.name != "used"
    )


def test_a_damaged_object_is_noticed_and_the_entry_made_again(
    far: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare_on(tmp_path / "one", monkeypatch)
    name = f"shards/{made.folder.name}/faces-00001.parquet"
    content = bytearray(far.read(name) or b"")
    content[len(content) // 2] ^= 1
    far.write(name, bytes(content))
    again = prepare_on(tmp_path / "two", monkeypatch)
    again.verify()
    assert again.digest() == made.digest()


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", ".hidden", 7])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(
    far: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: object
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_root() / "references" / ("0" * 32)
    far.write(f"references/{folder.name}/manifest.json", json.dumps({"shards": [{"file": name}]}).encode())
    with pytest.raises(StoreError, match="leads out"):
        entries.settle_entry(folder)
    assert not folder.exists()
    assert not list(tmp_path.rglob("outside"))


def test_a_folder_that_is_no_entry_of_the_cache_stays_here(
    far: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_shards(FACES, tmp_path / "mine")
    assert far.find() == []
