"""Every layout is recognised, gives rows of the schema with the files' own bytes, and names what is wrong."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysweep.data.files import files_digest
from raysweep.data.images import decode, decode_mask, sniff
from raysweep.data.source import KINDS, Source, open_source
from raysweep.errors import DataError
from raysweep.schema import PARTS, face_schema


def jpeg(value: int = 0, side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (value % 256, value // 256 % 256, 7)).save(buffer, "jpeg", quality=100)
    return buffer.getvalue()


def put(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return root


def rows_of(source: Source) -> list[dict[str, object]]:
    rows = list(source.rows())
    assert len(rows) == len(source)
    pa.Table.from_pylist(rows, schema=face_schema()).validate(full=True)
    assert [row["face_id"] for row in source.rows()] == [row["face_id"] for row in rows]
    assert isinstance(source, Source)
    assert source.kind in {kind.name for kind in KINDS}
    return rows


def column(rows: list[dict[str, object]], name: str) -> list[object]:
    return [row[name] for row in rows]


# ------------------------------------------------------------------ folders
def test_one_folder_per_identity(tmp_path: Path) -> None:
    root = put(tmp_path / "set", "Bob/2.JPG", "Bob/1.jpg", "Ann Lee/x.jpeg")
    source = open_source(str(root))
    rows = rows_of(source)
    assert (source.name, source.kind, source.synthetic) == ("set", "folder", False)
    assert column(rows, "face_id") == ["Ann Lee/x.jpeg", "Bob/1.jpg", "Bob/2.JPG"]
    assert column(rows, "identity") == ["Ann Lee", "Bob", "Bob"]
    assert column(rows, "expression") == [None] * 3
    assert column(rows, "image") == [(root / str(name)).read_bytes() for name in column(rows, "face_id")]


def test_identity_and_expression_folders(tmp_path: Path) -> None:
    rows = rows_of(open_source(str(put(tmp_path, "a/happy/1.jpg", "a/Sadness/1.jpg", "b/wink/1.jpg"))))
    assert column(rows, "identity") == ["a", "a", "b"]
    assert column(rows, "expression") == ["sad", "happy", None]
    assert json.loads(str(rows[2]["attributes"])) == {"condition": "wink"}
    rows = rows_of(open_source(str(put(tmp_path / "turned", "happy/a/1.jpg", "sad/a/1.jpg"))))
    assert column(rows, "identity") == ["a", "a"]
    assert column(rows, "expression") == ["happy", "sad"]


def test_expression_folders_have_no_identity(tmp_path: Path) -> None:
    root = put(tmp_path, "train/happy/1.jpg", "train/Surprised/2.jpg", "test/neutral/3.jpg")
    rows = rows_of(open_source(str(root)))
    assert column(rows, "identity") == [None] * 3
    assert column(rows, "expression") == ["neutral", "surprise", "happy"]
    assert [json.loads(str(row["attributes"]))["split"] for row in rows] == ["test", "train", "train"]
    assert open_source(str(root), kind="fer2013").kind == "fer2013"


def test_a_split_level_over_identities(tmp_path: Path) -> None:
    rows = rows_of(open_source(str(put(tmp_path, "train/n01/1.jpg", "val/n02/1.jpg"))))
    assert column(rows, "identity") == ["n01", "n02"]


def test_flat_names(tmp_path: Path) -> None:
    names = (
        "subject01.happy.gif", "subject01.normal", "subject02.leftlight.gif", "Abdul_Rahman_0001.jpg", "000123.jpg",
    )  # fmt: skip
    rows = rows_of(open_source(str(put(tmp_path, *names))))
    found = {str(row["face_id"]): (row["identity"], row["expression"]) for row in rows}
    assert found == {
        "subject01.happy.gif": ("subject01", "happy"),
        "subject01.normal": ("subject01", "neutral"),
        "subject02.leftlight.gif": ("subject02", None),
        "Abdul_Rahman_0001.jpg": ("Abdul_Rahman", None),
        "000123.jpg": (None, None),
    }
    assert set(column(rows, "encoding")) == {"jpeg"}  # the bytes decide, not the name


def test_labels_csv_overrides(tmp_path: Path) -> None:
    root = put(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg", "deep/er/than/others/4.jpg")
    (root / "labels.csv").write_text(
        "file,identity,expression\na/1.jpg,Zoe,Happiness\nb/3.jpg,,\ndeep/er/than/others/4.jpg,Yu,\n"
    )
    source = open_source(str(root))
    rows = rows_of(source)
    assert column(rows, "identity") == ["Zoe", None, None, "Yu"]
    assert column(rows, "expression") == ["happy", None, None, None]
    assert any("1 images are not in labels.csv" in note for note in source.notes)  # type: ignore[attr-defined]


def test_labels_csv_with_expressions_only_keeps_the_folder_identity(tmp_path: Path) -> None:
    root = put(tmp_path, "a/1.jpg", "b/2.jpg")
    (root / "labels.csv").write_text("﻿file, expression\na/1.jpg, sad\nb/2.jpg, wink\n", encoding="utf-8")
    rows = rows_of(open_source(str(root)))
    assert column(rows, "identity") == ["a", "b"]
    assert column(rows, "expression") == ["sad", None]


def test_wrong_labels_are_all_named(tmp_path: Path) -> None:
    root = put(tmp_path, "a/1.jpg", "a/2.jpg")
    (root / "labels.csv").write_text("file,expression\na/1.jpg,hapy\na/9.jpg,sad\na/2.jpg,sad\na/2.jpg,sad\n")
    with pytest.raises(DataError) as error:
        open_source(str(root))
    message = str(error.value)
    assert "line 2: expression 'hapy' (did you mean 'happy'?)" in message
    assert "line 3: no image 'a/9.jpg'" in message
    assert "line 5: 'a/2.jpg' a second time" in message
    (root / "labels.csv").write_text("path,emotion\n")
    with pytest.raises(DataError, match="columns path, emotion; needed: file"):
        open_source(str(root))


def test_links_and_hidden_files_are_left_out_and_said(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", "secret/1.jpg")
    root = put(tmp_path / "set", "a/1.jpg", "a/._1.jpg", ".cache/2.jpg", "a/readme.txt")
    (root / "a" / "out.jpg").symlink_to(outside / "secret" / "1.jpg")
    (root / "b").symlink_to(outside / "secret")
    (root / "loop").symlink_to(root)
    (root / "a" / "again.jpg").symlink_to(root / "a" / "1.jpg")
    (root / "a" / "gone.jpg").symlink_to(root / "a" / "none.jpg")
    source = open_source(str(root))
    assert column(rows_of(source), "face_id") == ["a/1.jpg", "a/again.jpg"]
    notes = "\n".join(source.notes)  # type: ignore[attr-defined]
    for said in (
        "a/out.jpg: link that leaves the folder",
        "b: linked folder",
        "loop: linked",
        "gone.jpg: broken",
        "1 x .txt",
    ):
        assert said in notes
    link = tmp_path / "link"
    link.symlink_to(root)  # the data set itself may be reached through a link
    assert len(open_source(str(link))) == 2


def test_unreadable_and_oversized_files_keep_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = put(tmp_path, "a/1.jpg", "a/2.jpg")
    (root / "a" / "page.jpg").write_bytes(b"<html>404</html>")
    (root / "a" / "zero.jpg").write_bytes(b"")
    monkeypatch.setattr("raysweep.data.files.MAX_BYTES", 1000)
    (root / "a" / "big.jpg").write_bytes(bytes(1001))
    source = open_source(str(root))
    os.remove(root / "a" / "2.jpg")
    rows = {str(row["face_id"]): row for row in rows_of(source)}
    assert rows["a/page.jpg"]["image"] == b"<html>404</html>"
    assert rows["a/zero.jpg"]["image"] == rows["a/big.jpg"]["image"] == rows["a/2.jpg"]["image"] == b""
    assert "too_large" in str(rows["a/big.jpg"]["attributes"])
    assert "unreadable" in str(rows["a/2.jpg"]["attributes"])


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    with open(os.fsencode(folder) + b"/\xff.jpg", "wb") as file:
        file.write(jpeg())
    assert column(rows_of(open_source(str(tmp_path / "set"))), "face_id") == ["a/\\xff.jpg"]


def test_digest_changes_with_every_file(tmp_path: Path) -> None:
    root = put(tmp_path / "set", "a/1.jpg", "b/2.jpg")
    first = open_source(str(root)).digest()
    assert open_source(str(root)).digest() == first
    (root / "a" / "1.jpg").write_bytes(jpeg(99))
    second = open_source(str(root)).digest()
    (root / "b" / "2.jpg").rename(root / "b" / "3.jpg")
    third = open_source(str(root)).digest()
    put(root, "a/4.jpg")
    fourth = open_source(str(root)).digest()
    assert len({first, second, third, fourth}) == 4


def test_digest_of_a_large_set_looks_at_times(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    first = files_digest(tmp_path, ["1.jpg"], limit=0)
    assert files_digest(tmp_path, ["1.jpg"], limit=0) == first
    assert files_digest(tmp_path, ["1.jpg"]) != first
    os.utime(tmp_path / "1.jpg", ns=(1, 1))
    assert files_digest(tmp_path, ["1.jpg"], limit=0) != first


# ------------------------------------------------------------------ wrong paths
def test_wrong_paths_say_what_is_there(tmp_path: Path) -> None:
    put(tmp_path, "faces/a/1.jpg")
    with pytest.raises(DataError, match=r"no such file or folder; .* has 1 folders \(did you mean 'faces'\?\)"):
        open_source(str(tmp_path / "face"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images found \(the folder is empty\); expected one folder per identity"):
        open_source(str(tmp_path / "empty"))
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"no images found \(1 files of another kind left out \(1 x .txt\)\)"):
        open_source(str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"neither .parquet nor a FER-2013 .csv"):
        open_source(str(tmp_path / "empty" / "a.txt"))
    with pytest.raises(DataError, match=r"unknown kind of data 'pin' \(did you mean 'pins'\?\)"):
        open_source(str(tmp_path), kind="pin")
    with pytest.raises(DataError, match="3 folders deep"):
        open_source(str(put(tmp_path / "deep", "a/b/c/1.jpg")))
    for kind in ("pins", "ciagan", "celebamask-hq", "parquet"):
        with pytest.raises(DataError, match="expected"):
            open_source(str(tmp_path / "faces"), kind=kind)
    with pytest.raises(DataError, match=r"neither fer2013.csv nor folders named after expressions"):
        open_source(str(tmp_path / "faces"), kind="fer2013")


# ------------------------------------------------------------------ synthetic
def test_synthetic_with_options() -> None:
    source = open_source("synthetic:identities=3,images_per_identity=2,seed=5,size=48")
    rows = rows_of(source)
    assert source.synthetic
    assert len(set(column(rows, "identity"))) == 3
    assert open_source(None).digest() == open_source("synthetic").digest() != source.digest()
    with pytest.raises(DataError, match=r"unknown option 'identites' \(did you mean 'identities'\?\); .*seed='x'"):
        open_source("synthetic:identites=3,seed=x")


# ------------------------------------------------------------------ FER-2013
def fer_csv(path: Path, header: str = "emotion,pixels,Usage") -> Path:
    pixels = " ".join(str(number % 256) for number in range(48 * 48))
    lines = [f"3,{pixels},Training", f"6,{pixels},PublicTest", "0,1 2 3,PrivateTest", f"9,{pixels},Training"]
    lines += [f"0,{pixels[:-3]}256,Training", f"0,{pixels[:-3]} -1,Training", f"0,{pixels[:-3]} x,Training"]
    if header.startswith("emotion, Usage"):
        lines = [",".join((line.split(",")[0], line.split(",")[2], line.split(",")[1])) for line in lines]
    path.write_text("\n".join([header, *lines, ""]))
    return path


@pytest.mark.parametrize("header", ["emotion,pixels,Usage", "emotion, Usage, pixels"])
def test_fer2013_csv(tmp_path: Path, header: str) -> None:
    fer_csv(tmp_path / "fer2013.csv", header)
    for where in (tmp_path, tmp_path / "fer2013.csv"):
        source = open_source(str(where))
        assert (source.kind, source.name) == ("fer2013", "fer2013")
    rows = rows_of(source)
    assert column(rows, "face_id") == [f"{number:06d}" for number in range(7)]
    assert column(rows, "expression") == ["happy", "neutral", "angry", None, "angry", "angry", "angry"]
    assert set(column(rows, "identity")) == {None}
    assert json.loads(str(rows[1]["attributes"])) == {"usage": "PublicTest"}
    image = decode(rows[0]["image"], "raw", 48, 48)  # type: ignore[arg-type]
    np.testing.assert_array_equal(image[..., 1].ravel(), np.arange(48 * 48) % 256)
    for row in (rows[2], *rows[4:]):
        assert row["image"] == b""
        assert "problem" in str(row["attributes"])
    assert "emotion '9'" in str(rows[3]["attributes"])


def test_fer2013_needs_pixels(tmp_path: Path) -> None:
    (tmp_path / "fer2013.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column `pixels`"):
        open_source(str(tmp_path / "fer2013.csv"), kind="fer2013")
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    with pytest.raises(DataError, match="no line after the header"):
        open_source(str(tmp_path))


# ------------------------------------------------------------------ CelebAMask-HQ
def grey_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def celebamask(root: Path) -> Path:
    for number in (0, 1, 10, 2):
        path = root / "CelebA-HQ-img" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number, side=32))
    anno = root / "CelebAMask-HQ-mask-anno" / "0"
    skin = np.zeros((16, 16))
    skin[2:14, 2:14] = 255
    hair = np.zeros((16, 16))
    hair[:4] = 255
    grey_png(anno / "00000_skin.png", skin)
    grey_png(anno / "00000_hair.png", hair)
    grey_png(anno / "00001_skin.png", skin)
    grey_png(anno / "00001_nose.png", np.zeros((8, 8)))
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx   orig_idx  orig_file\n0  119613  119614.jpg\n1  5  000006.jpg\n2  7  000008.jpg\n"
    )
    (root / "identity_CelebA.txt").write_text("119614.jpg 2880\n000006.jpg 2880\n000008.jpg 17\n")
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("2\nMale Smiling\n0.jpg  -1  1\n1.jpg   1 -1\n")
    return root


def test_celebamask_hq(tmp_path: Path) -> None:
    celebamask(tmp_path / "CelebAMask-HQ")
    source = open_source(str(tmp_path))
    assert source.kind == "celebamask-hq"
    rows = rows_of(source)
    assert column(rows, "source") == [f"CelebA-HQ-img/{n}.jpg" for n in (0, 1, 2, 10)]
    assert column(rows, "identity") == ["2880", "2880", "17", None]
    assert json.loads(str(rows[0]["attributes"])) == {"attributes": {"Male": False, "Smiling": True}}
    labels = decode_mask(rows[0]["mask"], 32, 32)  # type: ignore[arg-type]
    expected = np.zeros((16, 16), np.uint8)
    expected[2:14, 2:14] = PARTS.index("skin")
    expected[:4] = PARTS.index("hair")  # later in PARTS, so over the skin
    np.testing.assert_array_equal(labels, np.kron(expected, np.ones((2, 2), np.uint8)))
    assert rows[1]["mask"] is None
    assert "mask_problem" in str(rows[1]["attributes"])
    assert rows[2]["mask"] is None

    before = source.digest()
    grey_png(tmp_path / "CelebAMask-HQ" / "CelebAMask-HQ-mask-anno" / "0" / "00000_hair.png", np.zeros((16, 16)))
    assert open_source(str(tmp_path)).digest() != before


def test_celebamask_hq_without_identities(tmp_path: Path) -> None:
    celebamask(tmp_path)
    (tmp_path / "identity_CelebA.txt").unlink()
    source = open_source(str(tmp_path))
    assert set(column(rows_of(source), "identity")) == {None}
    assert any("no identity_CelebA.txt" in note for note in source.notes)  # type: ignore[attr-defined]
    (tmp_path / "identity_CelebA.txt").write_text("one two three\n")
    with pytest.raises(DataError, match="line 1: 'one two three'; expected"):
        open_source(str(tmp_path))


# ------------------------------------------------------------------ Pins, CIAGAN
def test_pins(tmp_path: Path) -> None:
    put(tmp_path, "105_classes_pins_dataset/pins_Ann Lee/a_1.jpg", "105_classes_pins_dataset/pins_Bob/b.jpg")
    for root in (tmp_path, tmp_path / "105_classes_pins_dataset"):
        source = open_source(str(root))
        assert (source.kind, source.name) == ("pins", "pins")
        rows = rows_of(source)
        assert column(rows, "identity") == ["Ann Lee", "Bob"]
        assert column(rows, "face_id") == ["pins_Ann Lee/a_1.jpg", "pins_Bob/b.jpg"]


def test_ciagan(tmp_path: Path) -> None:
    put(tmp_path, "clr/0/a.jpg", "clr/1/b.jpg", "lndm/0/a.jpg", "lndm/1/b.jpg")
    face = np.full((16, 16), 250)
    face[4:12, 4:12] = 6
    grey_png(tmp_path / "msk" / "0" / "a.jpg", face)
    source = open_source(str(tmp_path))
    rows = rows_of(source)
    assert source.kind == "ciagan"
    assert column(rows, "identity") == ["0", "1"]
    labels = decode_mask(rows[0]["mask"], 16, 16)  # type: ignore[arg-type]
    assert (labels[5:11, 5:11] == PARTS.index("skin")).all()
    assert (labels[:2] == 0).all()
    assert rows[1]["mask"] is None
    assert json.loads(str(rows[0]["attributes"])) == {"landmark_picture": "lndm/0/a.jpg"}


# ------------------------------------------------------------------ Parquet
def test_parquet_with_the_least_columns(tmp_path: Path) -> None:
    images = [jpeg(1), None, b"", jpeg(2)]
    table = pa.table({"image": images, "identity": ["a", "a", "b", None], "age": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=2)
    source = open_source(str(tmp_path / "part.parquet"))
    rows = rows_of(source)
    assert column(rows, "face_id") == [f"part.parquet#{n}" for n in range(4)]
    assert column(rows, "identity") == ["a", "a", "b", None]
    assert column(rows, "image") == [jpeg(1), b"", b"", jpeg(2)]
    assert "problem" in str(rows[1]["attributes"])
    assert source.notes == ("part.parquet: columns ignored: age",)  # type: ignore[attr-defined]


def test_parquet_in_a_folder_with_all_columns_round_trips(tmp_path: Path) -> None:
    rows = list(open_source("synthetic:identities=2,images_per_identity=3,size=48").rows())
    (tmp_path / "sub").mkdir()
    for number, chunk in enumerate((rows[:4], [], rows[4:])):
        pq.write_table(pa.Table.from_pylist(chunk, schema=face_schema()), tmp_path / "sub" / f"{number}.parquet")
    again = pa.Table.from_pylist(rows_of(open_source(str(tmp_path))), schema=face_schema())
    before = pa.Table.from_pylist(rows, schema=face_schema())
    assert again.drop_columns("attributes").equals(before.drop_columns("attributes"))
    for old, new in zip(before["attributes"].to_pylist(), again["attributes"].to_pylist(), strict=True):
        assert json.loads(old) == json.loads(new)


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    images = [{"bytes": jpeg(1), "path": "x.jpg"}, {"bytes": None, "path": "y.jpg"}]
    table = pa.table({"image": images, "identity": [7, 8], "expression": [3, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = rows_of(open_source(str(tmp_path)))
    assert column(rows, "image") == [jpeg(1), b""]
    assert column(rows, "identity") == ["7", "8"]
    assert column(rows, "expression") == ["happy", None]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"identity": ["a"]}, "no column 'image'"),
        ({"image": [b"x"]}, "no column 'identity'"),
        ({"image": ["text"], "identity": ["a"]}, "image is string, not binary"),
        ({"image": pa.nulls(1), "identity": ["a"]}, "image is null, not binary"),
        ({"image": [b"x"], "identity": [1.5]}, "identity is double"),
        ({"image": [b"x"], "identity": ["a"], "points": ["1 2"]}, "points is string"),
        ({"image": pa.array([], pa.binary()), "identity": pa.array([], pa.string())}, "no rows"),
    ],
)
def test_parquet_of_another_schema_is_refused(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"expression": ["happy", "hapy"]}, "bad.parquet, row group 1, row 1: expression 'hapy'"),
        ({"points": [[0.0] * 10, [1.0] * 9]}, "row group 1, row 1: points has 9 numbers; expected 10"),
        ({"points": [[0.0] * 10, [float("nan")] * 10]}, "row 1: points has 10 numbers; expected 10 finite"),
        ({"encoding": ["jpeg", "tiff"]}, "row 1: encoding 'tiff'; allowed"),
        ({"attributes": [None, "{"]}, "row 1: attributes are not JSON"),
        ({"attributes": [None, "[]"]}, "row 1: attributes are not a JSON object"),
    ],
)
def test_parquet_with_wrong_values_names_the_row(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    table = pa.table({"image": [jpeg(), jpeg()], "identity": ["a", "b"], **columns})
    pq.write_table(table, tmp_path / "bad.parquet", row_group_size=1)
    with pytest.raises(DataError, match=message):
        list(open_source(str(tmp_path)).rows())


def test_damaged_parquet_names_file_and_row_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    noise = [np.random.default_rng(number).bytes(4000) for number in range(4)]
    table = pa.table({"image": noise, "identity": list("aabb")})
    pq.write_table(table, path, row_group_size=2, compression="zstd", write_page_checksum=True)
    whole = path.read_bytes()
    for keep in (0, 5, 11, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"a\.parquet: not a whole Parquet file"):
            open_source(str(path))
    with pq.ParquetFile(io.BytesIO(whole)) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
    damaged = bytearray(whole)
    damaged[start : start + 40] = bytes([0xAA]) * 40
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=r"a\.parquet, row group 1: damaged"):
        list(open_source(str(path)).rows())
    path.write_bytes(whole[:-200] + bytes(190) + whole[-10:])
    with pytest.raises(DataError, match=r"a\.parquet: "):
        open_source(str(path))


def test_pickled_columns_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bytes] = []

    class Evil(pa.ExtensionType):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(pa.binary(), "test.pickled_object")

        def __arrow_ext_serialize__(self) -> bytes:
            return b"payload"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Evil:
            loaded.append(serialized)
            return cls()

    for padding in range(4):  # the footer's base64 may begin at any alignment
        path = tmp_path / f"evil{padding}.parquet"
        evil = pa.ExtensionArray.from_storage(Evil(), pa.array([b"\x80\x04."]))
        table = pa.table({"image": [jpeg()], "identity": ["a"], "note" + "x" * padding: evil})
        pq.write_table(table, path)
        pa.register_extension_type(Evil())
        try:
            loaded.clear()
            with pytest.raises(DataError, match=r"extension type .*never loaded"):
                open_source(str(path))
            assert loaded == []
        finally:
            pa.unregister_extension_type("test.pickled_object")


def test_pickle_bytes_as_an_image_stay_bytes(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    payload = b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR."
    pq.write_table(pa.table({"image": [payload], "identity": ["a"]}), tmp_path / "a.parquet")
    (row,) = rows_of(open_source(str(tmp_path)))
    assert row["image"] == payload
    assert sniff(payload) is None
    assert not marker.exists()
    assert base64.b64encode(payload)


# ------------------------------------------------------------------ real faces
@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "kind", "rows", "identities", "expressions"),
    [
        ("faces_id/lfw", "folder", 620, 31, 0),
        ("faces_id/lfw_distractors", "folder", 250, 250, 0),
        ("faces_id/celeba_ciagan", "ciagan", 150, 5, 0),
        ("faces_expr/yale", "folder", 109, 10, 40),
        ("faces_expr/fer2013", "folder", 300, 0, 300),
    ],
)
def test_real_sets(real_root: Path, folder: str, kind: str, rows: int, identities: int, expressions: int) -> None:
    source = open_source(str(real_root / folder))
    found = rows_of(source)
    assert (source.kind, len(found)) == (kind, rows)
    assert len({row["identity"] for row in found} - {None}) == identities
    assert sum(row["expression"] is not None for row in found) == expressions
    for row in found[::25]:
        image = decode(row["image"], str(row["encoding"]))  # type: ignore[arg-type]
        if kind == "ciagan":
            labels = decode_mask(row["mask"], *image.shape[:2])  # type: ignore[arg-type]
            assert 0.1 < (labels == PARTS.index("skin")).mean() < 0.3
