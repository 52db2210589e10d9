from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_evidence import judged_run
from fake_sweep import failed

from raysweep.errors import StoreError
from raysweep.tracking.bundle import read_bundle, scrubbed, write_bundle
from raysweep.tracking.recompute import differences, recompute
from raysweep.tracking.stored import StoredRun


@pytest.fixture(scope="module")
def run() -> StoredRun:
    return judged_run(("A0", "A1"), count=2)


@pytest.fixture(scope="module")
def bundle(run: StoredRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "sweep.zip"
    assert write_bundle(run, path) == path.stat().st_size
    return path


def rewritten(bundle: Path, path: Path, change: dict[str, bytes | None], again: bool = False) -> Path:
    """The bundle with some members replaced, added or (None) left out; `again`: digests of the manifest follow."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, data in change.items():
        if data is None:
            members.pop(name)
        else:
            members[name] = data
    if again:
        manifest = json.loads(members["manifest.json"])
        manifest["members"] = {
            name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != "manifest.json"
        }
        members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_the_numbers_come_out_of_a_bundle(run: StoredRun, bundle: Path) -> None:
    read = read_bundle(bundle)
    assert differences(read, recompute(read)) == []
    assert [record.key for record in read.records] == [record.key for record in run.records]
    assert read.missing == {}


def test_equal_runs_give_equal_bytes(run: StoredRun, bundle: Path, tmp_path: Path) -> None:
    write_bundle(run, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_no_face_no_name_no_path_leaves(run: StoredRun, tmp_path: Path) -> None:
    hidden = "/home/zoltan/private faces/Zoltan Example/3.jpg"
    record = replace(
        run.records[-1],
        anonymizer="file:/home/zoltan/masks.py:EyeMask",
        setting={"weights": hidden},
        notes={"reason": hidden, "holds": True, "guarantee": "holds"},
        evidence={
            **run.records[-1].evidence,
            "embeddings/near": np.zeros((9, 32)),
            "rank/E/A0/near/picture": np.zeros((8, 8, 3)),
        },
    )
    info = replace(
        run.info,
        command=f"python -m raysweep tune blur --data '{hidden}'",
        space={"arms": [{"anonymizer": "file:/home/zoltan/masks.py:EyeMask", "settings": [{"weights": hidden}]}]},
        card={"kind": "folder", "notes": [hidden], "digest": "ab" * 16},
        quarantined={f"cannot read '{hidden}'": 1},
    )
    broken = failed(7, f"face {hidden!r} has no landmarks ({hidden})")
    other = replace(run, info=info, records=(*run.records[:-1], record, broken), source=hidden)
    write_bundle(other, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith(".npz"):
                with np.load(io.BytesIO(data)) as arrays:
                    assert all(arrays[item].ndim == 1 for item in arrays.files)
                    assert not any("embeddings" in item for item in arrays.files)
            else:
                for word in (b"home", b"zoltan", b"Zoltan", b"private", b"faces/", b".jpg", b".py"):
                    assert word not in data, (name, word)
    read = read_bundle(tmp_path / "b.zip")
    assert read.records[-2].anonymizer == "file:EyeMask"
    assert read.records[-2].notes["holds"] is True


@pytest.mark.parametrize(
    ("change", "again", "message"),
    [
        ({"trials.jsonl": b"{}\n"}, False, "digest differs"),
        ({"trials.jsonl": b"{}\n"}, True, "cannot be read"),
        ({"trials.jsonl": b"[" * 100_000}, True, "cannot be read"),
        ({"manifest.json": b"{}"}, False, "manifest"),
        ({"manifest.json": None}, False, "no manifest"),
        ({"../evil.npz": b""}, True, "no part of a score bundle"),
        ({"scores/../../evil.npz": b""}, True, "no part of a score bundle"),
        ({"/etc/passwd": b""}, True, "no part of a score bundle"),
        ({"scores/more.npz": b"x"}, False, "not those of its manifest"),
        ({"scores/common.npz": b"x"}, True, "damaged"),
        ({"sweep.json": None}, True, "cannot be read"),
        ({"sweep.json": b'{"info": {"name": 1}, "run": 3, "basis": 4}'}, True, "cannot be read"),
    ],
)
def test_a_bundle_of_anybody(
    bundle: Path, tmp_path: Path, change: dict[str, bytes | None], again: bool, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        read_bundle(rewritten(bundle, tmp_path / "bad.zip", change, again))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"], "nothing is ever unpacked to disk"


def test_bombs_and_other_files(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="no such file"):
        read_bundle(tmp_path / "nowhere.zip")
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(StoreError, match="not a readable zip"):
        read_bundle(tmp_path / "text.zip")
    (tmp_path / "cut.zip").write_bytes(bundle.read_bytes()[:-400])
    with pytest.raises(StoreError):
        read_bundle(tmp_path / "cut.zip")
    monkeypatch.setattr("raysweep.tracking.bundle.MAX_BYTES", 1000)
    with pytest.raises(StoreError, match="unpacks to more than"):
        read_bundle(bundle)


def test_a_later_format_is_named(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    later = json.dumps({**manifest, "version": 2}).encode()
    with pytest.raises(StoreError, match="version 2; this release reads"):
        read_bundle(rewritten(bundle, tmp_path / "later.zip", {"manifest.json": later}))


def test_nothing_to_bundle(run: StoredRun, tmp_path: Path) -> None:
    bare = replace(
        run, records=tuple(replace(record, evidence={}) for record in run.records), missing={"x": "none was recorded"}
    )
    with pytest.raises(StoreError, match=r"no evidence to bundle \(none was recorded\)"):
        write_bundle(bare, tmp_path / "no.zip")
    assert list(tmp_path.iterdir()) == []


def test_words_that_stay() -> None:
    for words in (
        "rule of 30: 5 impostor pairs are too few",
        "no interval: fewer than 10 identities",
        "k = 20 needs at least 20 persons in each release",
    ):
        assert scrubbed(words) == words
