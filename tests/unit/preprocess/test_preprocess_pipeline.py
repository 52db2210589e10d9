"""`prepare_local` and the reference store: the same functions that Ray runs, in this process."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import prepare_fakes as fakes
import pytest

from raysweep.engine.references import MANIFEST, ReferenceStore, RowLabels, cache_root
from raysweep.errors import DataError, ModelError, StoreError
from raysweep.pipeline import PrepareSummary, prepare_local
from raysweep.preprocess import actors
from raysweep.preprocess.actors import read_slice
from raysweep.preprocess.measure import measure
from raysweep.preprocess.rows import Columns, Recipe, Tools, crop_row, crop_rows
from raysweep.schema import Frame

FRAME = Frame(128, 8)


@pytest.fixture
def shards(tmp_path: Path) -> fakes.FakeShards:
    return fakes.write(fakes.mixed_rows(), tmp_path / "shards")


def store_for(shards: fakes.FakeShards, root: Path, frame: Frame = FRAME, **zoo: object) -> ReferenceStore:
    return ReferenceStore.at(shards, frame, fakes.FakeZoo(**zoo), root)  # type: ignore[arg-type]


def run(shards: fakes.FakeShards, store: ReferenceStore, zoo: fakes.FakeZoo | None = None) -> PrepareSummary:
    return prepare_local(shards, zoo or fakes.FakeZoo(), FRAME, store)  # type: ignore[arg-type]


def test_rows_are_accounted_for(shards: fakes.FakeShards, tmp_path: Path) -> None:
    store = store_for(shards, tmp_path / "store")
    seen: list[tuple[int, int]] = []
    got = prepare_local(shards, fakes.FakeZoo(), FRAME, store, progress=lambda *counts: seen.append(counts))  # type: ignore[arg-type]
    assert (got.rows_in, got.faces, got.quarantined, got.reused) == (24, 20, 4, False)
    assert dict(got.reasons) == {"not_an_image": 1, "bad_points": 1, "truncated": 1, "no_mask": 1}
    assert (seen[0], seen[-1]) == ((0, 24), (24, 24))

    loaded = store.load(dataset="fakes", seed=0)
    faces = loaded.faces
    assert len(faces) == 20
    assert faces.table.face_id.tolist() == sorted(faces.table.face_id.tolist())
    assert {record["face_id"] for record in loaded.quarantine} == set(fakes.BAD)
    assert all(record["source"].startswith("row ") and record["detail"] for record in loaded.quarantine)
    assert faces.frame == FRAME
    assert faces.synthetic
    assert (faces.crop.dtype, faces.crop.shape) == (np.uint8, (20, 128, 128, 3))
    assert faces.landmarks is not None
    assert faces.landmarks.shape == (20, 10, 2)
    assert faces.mask is not None
    assert loaded.clear.embeddings["fields/a"].shape == (20, 48)
    assert loaded.clear.probabilities["stripes"].shape == (20, 7)


def test_every_array_belongs_to_its_face(shards: fakes.FakeShards, tmp_path: Path) -> None:
    """Gaps of quarantined rows are closed without moving one face's pixels to another's name."""
    store = store_for(shards, tmp_path / "store")
    run(shards, store)
    loaded = store.load(dataset="fakes", seed=0)
    rows = {row["face_id"]: row for row in fakes.mixed_rows()}
    names = loaded.faces.table.identity_names
    for index, face_id in enumerate(loaded.faces.table.face_id):
        row = rows[str(face_id)]
        want = crop_row(row, Recipe(FRAME, "known", 10, "known"), Tools())
        np.testing.assert_array_equal(loaded.faces.crop[index], want.crop)
        np.testing.assert_array_equal(loaded.faces.points[index], want.points)
        np.testing.assert_array_equal(loaded.faces.mask[index], want.mask)  # type: ignore[index]
        measured = measure(want.crop[None], FRAME, [fakes.FakeEmbedder()], [])
        np.testing.assert_allclose(
            loaded.clear.embeddings["fields/a"][index], measured.embeddings["fields/a"][0], atol=1e-6
        )
        assert names[loaded.faces.table.identity[index]] == row["identity"]
        assert loaded.attributes[index] == row["attributes"]
        assert loaded.source[index] == row["source"]


def test_a_finished_store_is_found_again(
    shards: fakes.FakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shards, store_for(shards, tmp_path))
    monkeypatch.setattr(actors, "crop_rows", None)  # any work would fail
    again = run(shards, store_for(shards, tmp_path))
    assert (again.reused, again.faces, again.quarantined) == (True, 20, 4)


def test_the_key_follows_content(shards: fakes.FakeShards, tmp_path: Path) -> None:
    key = store_for(shards, tmp_path).key
    assert store_for(shards, tmp_path).key == key
    others = [
        store_for(shards, tmp_path, frame=Frame(112, 0)).key,
        store_for(shards, tmp_path, weights="w2").key,
        store_for(fakes.write([fakes.row(0), fakes.row(1)], tmp_path / "other"), tmp_path).key,
    ]
    assert len({key, *others}) == 4


def test_another_seed_needs_no_other_store(tmp_path: Path) -> None:
    rows = [fakes.row(n, identity=f"q{n % 40}", face_id=f"{n:03d}", mask=None) for n in range(160)]
    shards = fakes.write(rows, tmp_path / "shards")
    store = store_for(shards, tmp_path)
    run(shards, store)
    one, two = (store.load(dataset="fakes", seed=seed).faces.table for seed in (0, 1))
    assert one.face_id.tolist() == two.face_id.tolist()
    assert one.role.tolist() != two.role.tolist()


def test_folders_are_private_and_arrays_read_only(shards: fakes.FakeShards, tmp_path: Path) -> None:
    store = store_for(shards, tmp_path / "root" / "references")
    run(shards, store)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.folder.parent.stat().st_mode) == 0o700
    crop = store.load(dataset="fakes", seed=0).faces.crop
    assert isinstance(crop, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        crop[0] = 0


def test_a_failure_leaves_nothing_behind(
    shards: fakes.FakeShards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_for(shards, tmp_path / "store")
    with pytest.raises(ModelError, match="damaged; fetch them again"):
        run(shards, store, fakes.FailingZoo())
    assert not store.exists()
    assert [path.name for path in store.folder.parent.iterdir() if not path.name.endswith(".lock")] == []
    assert run(shards, store).faces == 20


def _killed(shards: fakes.FakeShards, folder: Path) -> None:
    """Write half a store, then die without a chance to clean up."""
    store = ReferenceStore(folder)
    rows = fakes.mixed_rows()
    labels = RowLabels(*([row[name] for row in rows] for name in RowLabels.__dataclass_fields__))
    with store.writing(labels, FRAME, synthetic=True, about={}) as writer:
        assert writer is not None
        writer.add(crop_rows(rows[:9], Recipe(FRAME), Tools()))
        os._exit(9)


def test_a_killed_writer_is_no_store_and_is_cleaned_up(shards: fakes.FakeShards, tmp_path: Path) -> None:
    store = store_for(shards, tmp_path / "store")
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(shards, store.folder))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    assert not store.exists()
    assert list(store.folder.parent.glob("*.writing-*")) != []  # half a store lies there
    assert run(shards, store).faces == 20
    assert list(store.folder.parent.glob(".*.writing-*")) == []


def test_lost_and_doubled_rows_are_noticed(shards: fakes.FakeShards, tmp_path: Path) -> None:
    rows = [fakes.row(n) for n in range(6)]
    labels = RowLabels(*([row[name] for row in rows] for name in RowLabels.__dataclass_fields__))
    columns = crop_rows(rows[:5], Recipe(FRAME), Tools())
    store = ReferenceStore(tmp_path / "s")

    def write(*blocks: Columns) -> None:
        with store.writing(labels, FRAME, synthetic=True, about={}) as writer:
            assert writer is not None
            for block in blocks:
                writer.add(block)

    with pytest.raises(StoreError, match=r"1 of 6 rows did not come back.*p0/005"):
        write(columns)
    with pytest.raises(StoreError, match="came twice"):
        write(columns, columns)
    with pytest.raises(StoreError, match="not of this data set"):
        write(crop_rows([fakes.row(9)], Recipe(FRAME), Tools()))
    assert not store.exists()


def test_not_one_usable_face_is_an_error(tmp_path: Path) -> None:
    page = {"encoding": "jpeg", "image": b"<html>", "height": 0, "width": 0}
    shards = fakes.write([fakes.row(n, **page) for n in range(4)], tmp_path / "shards")
    store = store_for(shards, tmp_path / "store")
    with pytest.raises(DataError, match="none of 4 faces can be used: not_an_image 4; for example p0/000"):
        run(shards, store)
    assert not store.exists()


def test_a_repeated_face_id_is_refused(tmp_path: Path) -> None:
    shards = fakes.write([fakes.row(0), fakes.row(1, face_id=fakes.row(0)["face_id"])], tmp_path / "shards")
    with pytest.raises(DataError, match="stand twice"):
        run(shards, store_for(shards, tmp_path))


def test_a_damaged_shard_is_named_before_any_work(shards: fakes.FakeShards, tmp_path: Path) -> None:
    store = store_for(shards, tmp_path)
    path = Path(shards.paths[1])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"1\.parquet: not a readable shard"):
        run(shards, store)


def test_a_damaged_store_has_a_message(shards: fakes.FakeShards, tmp_path: Path) -> None:
    store = store_for(shards, tmp_path)
    with pytest.raises(StoreError, match="no finished reference store"):
        store.load(dataset="fakes", seed=0)
    run(shards, store)
    manifest = json.loads((store.folder / MANIFEST).read_text())
    (store.folder / "points.npy").write_bytes(b"short")
    with pytest.raises(StoreError, match=r"points\.npy: cannot be read"):
        store.load(dataset="fakes", seed=0)
    (store.folder / MANIFEST).write_text(json.dumps({**manifest, "format": "other"}))
    with pytest.raises(StoreError, match="not a manifest of"):
        store.load(dataset="fakes", seed=0)


def test_pickled_arrays_are_not_read(shards: fakes.FakeShards, tmp_path: Path) -> None:
    store = store_for(shards, tmp_path)
    run(shards, store)
    np.save(store.folder / "points.npy", np.array([{}] * 20, dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match="cannot be read"):
        store.load(dataset="fakes", seed=0)


def test_slices_cross_row_groups(shards: fakes.FakeShards) -> None:
    ids = [row["face_id"] for row in fakes.mixed_rows()][:12]
    assert [row["face_id"] for row in read_slice(shards.paths[0], 3, 6)] == ids[3:9]
    assert [row["face_id"] for row in read_slice(shards.paths[0], 10, 6)] == ids[10:12]
    with pytest.raises(DataError, match="rows 0 to 1: cannot be read"):
        read_slice(shards.paths[0] + ".none", 0, 1)


def test_cache_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "a"))
    assert cache_root() == tmp_path / "a"
    monkeypatch.delenv("RAYSWEEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_root() == tmp_path / "b" / "raysweep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_root() == tmp_path / "c" / ".cache" / "raysweep"


@pytest.mark.real
def test_real_photographs_end_to_end(real_root: Path, tmp_path: Path) -> None:
    """CelebA crops of two people: found, aligned, recognised; a text file among them is quarantined."""
    from raysweep.models.zoo import open_zoo

    files = [
        path for name in ("0", "1") for path in sorted((real_root / "faces_id/celeba_ciagan/clr" / name).iterdir())[:6]
    ]
    known = {
        "points": None,
        "landmarks": None,
        "mask": None,
        "encoding": "jpeg",
        "height": 0,
        "width": 0,
        "expression": None,
    }
    rows = [
        fakes.row(
            n, **known, face_id=f"{path.parent.name}/{path.name}", identity=path.parent.name, image=path.read_bytes()
        )
        for n, path in enumerate(files)
    ]
    rows.append(fakes.row(99, **known, face_id="notes.jpg", image=b"remember the milk"))
    empty = np.full((100, 80, 3), 90, dtype=np.uint8).tobytes()
    rows.append(fakes.row(98, **{**known, "encoding": "raw", "height": 100, "width": 80}, face_id="wall", image=empty))
    shards = fakes.write(rows, tmp_path / "shards", synthetic=False)
    zoo = open_zoo(real_root / "models").for_data(synthetic=False)
    store = ReferenceStore.at(shards, Frame(144, 16), zoo, tmp_path)
    got = prepare_local(shards, zoo, Frame(144, 16), store)
    assert (got.faces, dict(got.reasons)) == (12, {"not_an_image": 1, "no_face": 1})
    loaded = store.load(dataset="celeba", seed=0)
    assert np.abs(loaded.faces.points - Frame(144, 16).points).max() < 15
    assert loaded.faces.landmarks is not None
    assert loaded.faces.landmarks.shape == (12, 478 if find_spec("mediapipe") else 68, 2)
    embeddings = loaded.clear.embeddings["mobilefacenet-liguiyuan"]
    same = loaded.faces.table.identity[:, None] == loaded.faces.table.identity
    cosine = embeddings @ embeddings.T
    off_diagonal = ~np.eye(12, dtype=bool)
    assert cosine[same & off_diagonal].mean() > cosine[~same].mean() + 0.3
