from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from raysweep.engine.evidence import EvidenceStore, digest_of, pack, unpack
from raysweep.errors import StoreError

ARRAYS = {
    "rank/E/A1/small net/above": np.arange(7, dtype=np.int16),
    "draws/privacy": np.linspace(0, 1, 5, dtype=np.float32),
    "names": np.array(["a", "bcd"]),
    "empty": np.empty((0, 3)),
    "../../etc/<script>\x00\n": np.array([True]),
    "lone \ud800": np.array([1]),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "run")
    digest = store.write("0a1b", ARRAYS)
    found = store.read("0a1b", digest)
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in store.folder.iterdir()] == ["0a1b.npz"]
    assert store.folder.stat().st_mode & 0o077 == 0


def test_equal_arrays_have_equal_bytes_and_numpy_can_read_them() -> None:
    assert pack(ARRAYS) == pack(dict(reversed(ARRAYS.items())))
    with np.load(io.BytesIO(pack(ARRAYS))) as archive:
        np.testing.assert_array_equal(archive["rank/E/A1/small net/above"], np.arange(7))


@pytest.mark.parametrize("place", [0, 30, -40, -1])
def test_damage_is_noticed(tmp_path: Path, place: int) -> None:
    store = EvidenceStore(tmp_path)
    digest = store.write("key", ARRAYS)
    data = bytearray(store.path("key").read_bytes())
    data[place] ^= 1
    store.path("key").write_bytes(bytes(data))
    with pytest.raises(StoreError, match="digest"):
        store.read("key", digest)


def test_missing_cut_or_foreign_files_are_refused(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    with pytest.raises(StoreError, match="not there"):
        store.read("key")
    store.write("key", ARRAYS)
    store.path("key").write_bytes(store.path("key").read_bytes()[:100])
    with pytest.raises(StoreError, match="damaged"):
        store.read("key")
    for bad in ("", "../x", "a/b", "a.b", "a\0"):
        with pytest.raises(StoreError, match="cannot name"):
            store.path(bad)


def test_objects_are_neither_written_nor_read() -> None:
    with pytest.raises(StoreError, match="only numbers and text"):
        pack({"x": np.array([{}], dtype=object)})
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([print], dtype=object))
    with pytest.raises(StoreError, match="damaged"):
        unpack(buffer.getvalue())


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack({"x": np.zeros(1 << 20)})
    assert len(data) < 1 << 14
    monkeypatch.setattr("raysweep.engine.evidence.MAX_BYTES", 1 << 20)
    with pytest.raises(StoreError, match="1 MB"):
        unpack(data)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EvidenceStore(tmp_path)
    digest = store.write("key", {"x": np.arange(3)})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        store.write("key", {"x": np.arange(4)})
    assert digest_of(store.path("key").read_bytes()) == digest
    assert len(list(store.folder.iterdir())) == 1
