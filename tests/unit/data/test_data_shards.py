"""Shards: written once, finished or absent, damage noticed, duplicates reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from raysweep.data import shards
from raysweep.data.files import blank_row
from raysweep.data.roles import face_table
from raysweep.data.shards import MANIFEST, is_shard_set, open_shards, write_shards
from raysweep.data.source import Source, open_source
from raysweep.errors import DataError, StoreError


@dataclass
class ListSource:
    """Rows from (face_id, identity, expression, bytes)."""

    faces: list[tuple[str, str | None, str | None, bytes]]
    version: str = "1"
    name: str = "list"
    kind: str = "folder"
    licence: str = "none"
    synthetic: bool = False
    notes: tuple[str, ...] = ("two files left out",)
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.faces)

    def digest(self) -> str:
        return f"digest {self.version}"

    def rows(self) -> Iterator[dict[str, object]]:
        self.reads.append(1)
        for face_id, identity, expression, image in self.faces:
            row = blank_row(face_id, face_id)
            row.update(identity=identity, expression=expression, image=image, encoding="jpeg")
            yield row


def some(count: int = 10) -> ListSource:
    rng = np.random.default_rng(0)
    return ListSource([(f"{n}", f"p{n // 3}", "happy" if n % 2 else None, rng.bytes(50)) for n in range(count)])


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_rows_and_labels_come_back(tmp_path: Path) -> None:
    source = some()
    assert isinstance(source, Source)
    written = write_shards(source, tmp_path / "set", rows_per_shard=4)
    assert isinstance(written, Source)
    assert [shard.rows for shard in written.shards] == [4, 4, 2]
    assert list(written.rows()) == list(source.rows())
    assert written.labels().identity == [face[1] for face in source.faces]
    assert written.labels().face_id == [face[0] for face in source.faces]
    assert dict(written.identities) == {"p0": 3, "p1": 3, "p2": 3, "p3": 1}
    assert written.single_image == ("p3",)
    assert (dict(written.expressions), written.unknown_expression) == ({"happy": 5}, 5)
    assert (written.name, written.licence, written.notes) == ("list", "none", source.notes)
    assert open_shards(tmp_path / "set", verify=True) == written
    assert leftovers(tmp_path) == ["set"]
    assert (tmp_path / "set").stat().st_mode & 0o777 == 0o700
    assert open_source(str(tmp_path / "set")).digest() == source.digest()


def test_the_same_digest_is_not_written_again_and_another_one_replaces(tmp_path: Path) -> None:
    source = some()
    first = write_shards(source, tmp_path / "set")
    stamps = {path: os.stat(path).st_mtime_ns for path in first.paths}
    assert write_shards(source, tmp_path / "set") == first
    assert source.reads == [1]
    assert {path: os.stat(path).st_mtime_ns for path in first.paths} == stamps
    changed = some(5)
    changed.version = "2"
    assert len(write_shards(changed, tmp_path / "set")) == 5
    assert leftovers(tmp_path) == ["set"]


def test_a_shard_is_closed_by_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BYTES_PER_SHARD", 150)
    assert [shard.rows for shard in write_shards(some(), tmp_path / "set").shards] == [3, 3, 3, 1]


@pytest.mark.parametrize("where", ["rows", "_write_shard", "write_whole", "_put_in_place"])
def test_an_interrupted_write_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    source = some()
    write_shards(source, tmp_path / "set")
    source.version = "2"

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(source if where == "rows" else shards, where, interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_shards(source, tmp_path / "set", rows_per_shard=3)
        with pytest.raises(KeyboardInterrupt):
            write_shards(source, tmp_path / "new", rows_per_shard=3)
    assert leftovers(tmp_path) == ["set"]
    assert open_shards(tmp_path / "set", verify=True).source_digest == "digest 1"
    assert write_shards(source, tmp_path / "set").source_digest == "digest 2"


def test_what_a_killed_writer_left_is_no_set_and_is_cleared(tmp_path: Path) -> None:
    killed = tmp_path / ".set.writing-x1"
    killed.mkdir()
    (killed / "faces-00000.parquet").write_bytes(b"PAR1")
    assert not is_shard_set(killed)
    write_shards(some(), tmp_path / "set")
    assert leftovers(tmp_path) == ["set"]


def test_a_folder_with_other_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something that is no set of shards"):
        write_shards(some(), tmp_path / "set")
    assert (tmp_path / "set" / "thesis.txt").read_text() == "mine"


def test_damage_is_noticed_and_written_again(tmp_path: Path) -> None:
    source = some()
    written = write_shards(source, tmp_path / "set", rows_per_shard=4)
    shard = Path(written.paths[1])
    whole = shard.read_bytes()

    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"faces-00001.parquet: \d+ bytes where \d+ were written"):
        open_shards(tmp_path / "set")
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    shard.write_bytes(bytes(flipped))
    with pytest.raises(DataError, match=r"faces-00001.parquet: altered"):
        open_shards(tmp_path / "set", verify=True)
    write_shards(source, tmp_path / "set", rows_per_shard=4)
    assert shard.read_bytes() == whole
    shard.unlink()
    with pytest.raises(DataError, match=r"faces-00001.parquet: missing"):
        open_shards(tmp_path / "set")
    assert len(write_shards(source, tmp_path / "set")) == 10
    assert leftovers(tmp_path) == ["set"]


@pytest.mark.parametrize("change", [{"rows": 11}, {"shards": None}, {"format": "other"}, {"identities": 3}])
def test_a_wrong_manifest_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    write_shards(some(), tmp_path / "set")
    path = tmp_path / "set" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=MANIFEST):
        open_shards(tmp_path / "set")


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    write_shards(some(), tmp_path / "set")
    path = tmp_path / "set" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["file"] = "../other/faces-00000.parquet"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="leaves the folder"):
        open_shards(tmp_path / "set")
    with pytest.raises(DataError, match=r"no manifest\.json: no shards here, or writing them was interrupted"):
        open_shards(tmp_path)


def test_the_same_image_under_two_identities_is_refused_or_dropped(tmp_path: Path) -> None:
    source = some()
    twin = source.faces[0][3]
    source.faces += [("x", "other", None, twin), ("y", None, None, source.faces[4][3])]
    with pytest.raises(DataError, match=r"(?s)1 image stands under two identities.*0 \(p0\) = x \(other\)"):
        write_shards(source, tmp_path / "set")
    assert leftovers(tmp_path) == []
    written = write_shards(source, tmp_path / "set", conflicts="drop")
    assert written.dropped == ("0", "x")
    assert len(written) == 10
    assert written.digest() != source.digest()
    assert write_shards(source, tmp_path / "set", conflicts="drop") == written
    with pytest.raises(DataError, match="two identities"):
        write_shards(source, tmp_path / "set")


def test_copies_within_an_identity_are_listed_and_kept(tmp_path: Path) -> None:
    source = some()
    source.faces += [("copy", "p0", None, source.faces[0][3]), ("empty1", "p0", None, b""), ("empty2", "p1", None, b"")]
    written = write_shards(source, tmp_path / "set")
    assert dict(written.repeats) == {"copy": "0"}
    assert len(written) == 13
    labels = written.labels()
    table = face_table(
        labels.face_id, labels.identity, labels.expression, dataset=written.name, seed=0, repeats=written.repeats
    )
    side = dict(zip(table.face_id.tolist(), table.side.tolist(), strict=True))
    assert side["copy"] == side["0"]


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        write_shards(ListSource([]), tmp_path / "set")
    twice = some()
    twice.faces.append(("0", "p9", None, b"other"))
    with pytest.raises(DataError, match="face_id '0' stands for two rows"):
        write_shards(twice, tmp_path / "set")
    restless = some()
    versions = iter("12")
    restless.digest = lambda: next(versions)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="changed while they were read"):
        write_shards(restless, tmp_path / "set")
    wrong = some()
    wrong.faces[3] = ("3", 5, None, b"x")  # type: ignore[assignment]
    with pytest.raises(DataError, match="do not fit the face schema"):
        write_shards(wrong, tmp_path / "set")
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="shards cannot be written"):
        write_shards(some(), tmp_path / "closed" / "set")


def test_synthetic_faces_as_shards(tmp_path: Path) -> None:
    source = open_source("synthetic:identities=4,images_per_identity=7,size=48")
    written = write_shards(source, tmp_path / "set")
    assert written.synthetic
    assert len(written.identities) == 4
    assert sum(written.expressions.values()) == 28


def test_a_killed_writer_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from raysweep.data.shards import write_shards
from raysweep.data.source import open_source

class Deadly:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
    def rows(self):
        for number, row in enumerate(self.inner.rows()):
            if number == 5: os.kill(os.getpid(), signal.SIGKILL)
            yield row

write_shards(Deadly(open_source("synthetic:identities=2,images_per_identity=7,size=48")), sys.argv[1], rows_per_shard=2)
"""
    target = tmp_path / "set"
    ended = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(tmp_path.glob(".set.writing-*/*.parquet"))) == 2
    written = write_shards(open_source("synthetic:identities=2,images_per_identity=7,size=48"), target)
    assert len(written) == 14
    assert leftovers(tmp_path) == ["set"]
