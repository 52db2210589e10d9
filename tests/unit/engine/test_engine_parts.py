"""The folder of a release: parts with receipts, interrupted and damaged ones, names of images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.data.shards import open_shards
from raysweep.data.source import open_source
from raysweep.engine.apply import encode, released_schema
from raysweep.engine.parts import RELEASE, Part, PartsFolder, image_names
from raysweep.errors import ConfigError, StoreError

PARTS = [Part(0, "a.parquet", 0, 3), Part(1, "a.parquet", 3, 2), Part(2, "b.parquet", 0, 1)]
IDS = {0: ["x/0", "x/1", "y/2"], 1: ["y/3", "y/4"], 2: ["z/5"]}
ABOUT = {"name": "some", "kind": "folder", "licence": "MIT", "synthetic": True, "source_digest": "0" * 64}


def picture(number: int) -> dict[str, Any]:
    import numpy as np

    image = np.full((16, 16, 3), 10 * number, np.uint8)
    return {"encoding": "jpeg", "image": encode(image, "jpeg"), "height": 0, "width": 0}


def table(number: int, bad: Sequence[str] = (), kept: Sequence[str] = ()) -> pa.Table:
    rows = [
        {
            "face_id": face,
            "identity": face[0],
            "expression": None,
            "points": [1.0] * 10,
            "landmarks": None,
            "mask": None,
            "attributes": None,
            "source": face,
            "reason": "no_face" if face in bad else "",
            "detail": "nobody there" if face in bad else "",
            "note": "kept" if face in kept else "",
            **picture(index),
        }
        for index, face in enumerate(IDS[number])
    ]
    made = pa.Table.from_pylist(rows, schema=released_schema())
    return made.append_column("part", pa.array([number] * len(made), pa.int64()))


def folder(path: Path, kind: Any = "shards", **plan: Any) -> PartsFolder:
    faces = [face for ids in IDS.values() for face in ids]
    names = image_names(faces, ["jpeg"] * len(faces), lossless=False)
    return PartsFolder(path, kind, {"setting": 1, **plan}, PARTS, names)


def write(path: Path, kind: Any = "shards", only: Sequence[int] = (0, 1, 2), **tables: Any) -> Any:
    release = folder(path, kind)
    with release.writing() as todo:
        for part in todo:
            if part.number in only:
                release.add(table(part.number, **tables))
        return release.finish({"made": "here"}, ABOUT)


def contents(path: Path) -> Mapping[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock"
    }


def test_counts_add_up_and_what_was_written_is_a_set_of_shards(tmp_path: Path) -> None:
    counts = write(tmp_path / "out", bad=["x/1"], kept=["z/5"])
    assert (counts.rows_in, counts.released, counts.kept, counts.quarantined) == (6, 4, 1, 1)
    shards = open_shards(tmp_path / "out", verify=True)
    assert [row["face_id"] for row in shards.rows()] == ["x/0", "y/2", "y/3", "y/4", "z/5"]
    (left_out,) = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert left_out == {"face_id": "x/1", "source": "x/1", "reason": "no_face", "detail": "nobody there"}
    manifest = json.loads((tmp_path / "out" / RELEASE).read_text())
    assert manifest["counts"]["rows_in"] == 6
    assert [shard["rows"] for shard in manifest["shards"]] == [2, 2, 1]


def test_images_lie_in_the_tree_of_the_source_with_their_labels(tmp_path: Path) -> None:
    write(tmp_path / "out", "images")
    source = open_source(str(tmp_path / "out"))
    assert {(row["face_id"], row["identity"]) for row in source.rows()} == {
        (f"{face}.jpg", face[0]) for ids in IDS.values() for face in ids
    }
    lines = (tmp_path / "out" / "checksums.txt").read_text().splitlines()
    assert len(lines) == 6


@pytest.mark.parametrize("kind", ["shards", "images"])
def test_an_interrupted_release_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "whole", kind)
    with pytest.raises(StoreError, match="2 of 3 parts did not come back"):
        write(tmp_path / "out", kind, only=[1])
    assert not (tmp_path / "out" / RELEASE).exists()
    # what a kill in the middle of writing leaves: a temporary file, and data without a receipt
    (tmp_path / "out" / ".release" / "0123.part").write_bytes(b"half")
    (tmp_path / "out" / "faces-00000.parquet").write_bytes(b"PAR1 half")
    release = folder(tmp_path / "out", kind)
    with release.writing() as todo:
        assert [part.number for part in todo] == [0, 2]
        for part in todo:
            release.add(table(part.number))
        release.finish({"made": "here"}, ABOUT)
    if kind == "images":
        (tmp_path / "out" / "faces-00000.parquet").unlink()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["altered", "gone", "link", "receipt"])
def test_a_damaged_part_is_done_again_and_no_other(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    write(out)
    whole = contents(out)
    file = out / "faces-00001.parquet"
    if damage == "altered":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    elif damage == "receipt":
        receipt = out / ".release" / "part-000001.json"
        receipt.write_bytes(receipt.read_bytes()[:-5])
    else:
        file.unlink()
        if damage == "link":
            (tmp_path / "elsewhere").write_bytes(whole["faces-00001.parquet"])
            file.symlink_to(tmp_path / "elsewhere")
    release = folder(out)
    with release.writing() as todo:
        assert [part.number for part in todo] == [1]
        release.add(table(1))
        release.finish({"made": "here"}, ABOUT)
    assert contents(out) == whole
    assert not file.is_symlink()


def test_parts_may_come_in_pieces_but_not_twice(tmp_path: Path) -> None:
    release = folder(tmp_path / "out")
    with release.writing():
        first = table(0)
        release.add(first.slice(0, 2))
        assert release.done == set()
        release.add(first.slice(2))
        assert release.done == {0}
        with pytest.raises(StoreError, match="came twice"):
            release.add(first)
        second = table(1)
        with pytest.raises(StoreError, match="4 rows came where 2 were asked for"):
            release.add(pa.concat_tables([second, second]))


def test_another_release_or_other_content_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with (
        pytest.raises(ConfigError, match=r"another release \(not the same: setting\)"),
        folder(tmp_path / "out", setting=2).writing(),
    ):
        pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something that is no release"), folder(tmp_path / "mine").writing():
        pass


def test_two_cannot_write_at_once(tmp_path: Path) -> None:
    with (
        folder(tmp_path / "out").writing(),
        pytest.raises(StoreError, match="another process is writing"),
        folder(tmp_path / "out").writing(),
    ):
        pass


def test_a_link_in_the_tree_is_not_followed(tmp_path: Path) -> None:
    release = folder(tmp_path / "out", "images")
    with release.writing():
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out" / "x").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreError, match="a link leads out"):
            release.add(table(0))
    assert not list((tmp_path / "elsewhere").iterdir())


@given(st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=8, unique=True))
def test_no_name_leaves_the_folder(face_ids: list[str]) -> None:
    names = image_names(face_ids, ["png"] * len(face_ids), lossless=False)
    assert list(names) == face_ids
    assert len({name.lower() for name in names.values()}) == len(face_ids)
    for name in names.values():
        path = Path("/out") / name
        assert path.is_relative_to("/out")
        assert all(part not in ("", ".", "..") and not part.startswith(".") for part in name.split("/"))
        assert all(len(part.encode()) <= 255 for part in name.split("/"))
        assert name.isprintable()


def test_files_of_the_release_itself_are_not_overwritten_by_a_face() -> None:
    assert image_names(["a.gif", "a.bmp"], ["gif", "bmp"], lossless=False) == {"a.gif": "a.png", "a.bmp": "a~2.png"}
