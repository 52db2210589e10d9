"""What a source of faces is, and the door to all of them: `open_source`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from raysweep.errors import DataError, nearest

__all__ = ["KINDS", "Kind", "Source", "open_source"]


@runtime_checkable
class Source(Protocol):
    """A data set: rows of `schema.face_schema()`, in the same order every time.

    Attributes:
        name: short, without a path; enters the hash that gives identities their roles.
        kind: one of `KINDS`.
        licence: terms as far as known.
        synthetic: drawn, not photographed.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def licence(self) -> str: ...  # noqa: D102
    @property
    def synthetic(self) -> bool: ...  # noqa: D102

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def digest(self) -> str:
        """A hash that changes when any row would change."""
        ...

    def rows(self) -> Iterator[dict[str, object]]:
        """The rows, one at a time, bytes as they are in the source."""
        ...


@dataclass(frozen=True)
class Kind:
    """One layout that raysweep reads.

    Attributes:
        name: for `kind=`.
        description: the layout, one line.
        where: where to get it.
        licence: terms as far as known.
    """

    name: str
    description: str
    where: str
    licence: str


KINDS: tuple[Kind, ...] = (
    Kind(
        "synthetic",
        "drawn faces, identity x expression x nuisance; options as synthetic:identities=60,images_per_identity=14,seed=3",
        "built in",
        "MIT, as raysweep",
    ),
    Kind(
        "folder",
        "<identity>/*.jpg, <identity>/<expression>/*.jpg, <expression>/*.jpg, or flat names; labels.csv (file, identity, "
        "expression) overrides",
        "your own photographs; LFW and Yale have this form",
        "not stated",
    ),
    Kind(
        "fer2013",
        "fer2013.csv (emotion, pixels, Usage) or train|test/<expression>/*.jpg; 48 x 48 grey, no identities",
        "Kaggle: challenges-in-representation-learning-facial-expression-recognition-challenge",
        "no licence stated; research use",
    ),
    Kind(
        "celebamask-hq",
        "CelebA-HQ-img/, CelebAMask-HQ-mask-anno/, CelebA-HQ-to-CelebA-mapping.txt, and identity_CelebA.txt of CelebA",
        "the CelebAMask-HQ project page; identity_CelebA.txt from the CelebA project page",
        "non-commercial research and education only",
    ),
    Kind(
        "pins",
        "105_classes_pins_dataset/pins_<Name>/*.jpg",
        "Kaggle: hereisburak/pins-face-recognition",
        "photographs collected from Pinterest, rights with their owners; research use",
    ),
    Kind(
        "ciagan",
        "clr/<id>/<file> photographs, lndm/ landmark pictures, msk/ masks with a black face",
        "made by CIAGAN's own scripts; a CelebA sample comes with it",
        "that of the photographs (the sample: non-commercial research only)",
    ),
    Kind(
        "parquet",
        "a .parquet file or a folder of them: columns of the face schema, or at least image (bytes) and identity",
        "`raysweep prepare`, Hugging Face exports, your own",
        "not stated",
    ),
)
"""Every layout, in the order of `raysweep ls data`."""


def open_source(data: str | None, *, kind: str | None = None) -> Source:
    """Open a data set.

    Args:
        data: None or `synthetic` (with options: `synthetic:identities=60,seed=3`), or the path of a file or folder.
        kind: one of `KINDS`, in place of finding out from the layout.

    Raises:
        DataError: nothing there, nothing usable in it, unknown kind or option; says what was found and what is expected.
    """
    names = [known.name for known in KINDS]
    if kind is not None and kind not in names:
        raise DataError(f"unknown kind of data {kind!r}{nearest(kind, names)}; known: {', '.join(names)}")
    word, _, options = (data or "synthetic").partition(":")
    if kind == "synthetic" or (kind is None and word == "synthetic" and not os.path.exists(data or "synthetic")):
        if word != "synthetic":
            raise DataError(f"kind 'synthetic' takes no path ({data!r}); write synthetic:identities=60,seed=3")
        return _open_synthetic(options)
    if data is None:
        raise DataError(f"kind {kind!r} needs a path")
    path = Path(data).expanduser()
    if not path.exists():
        raise DataError(f"{data}: {_what_is_there(path)}")
    return _open_path(path, kind or _recognise(path))


def _open_synthetic(options: str) -> Source:
    from raysweep.data.drawn import SyntheticSource

    allowed = ("identities", "images_per_identity", "seed", "size")
    values: dict[str, int] = {}
    problems: list[str] = []
    for option in filter(None, (part.strip() for part in options.split(","))):
        key, _, text = option.partition("=")
        if key not in allowed:
            problems.append(f"unknown option {key!r}{nearest(key, allowed)}; known: {', '.join(allowed)}")
        elif not text.isdecimal() or (key != "seed" and int(text) < 1):
            problems.append(f"{key}={text!r}: a whole number {'' if key == 'seed' else 'above 0 '}is expected")
        elif key in values:
            problems.append(f"{key} is given twice")
        else:
            values[key] = int(text)
    if problems:
        raise DataError("synthetic: " + "; ".join(problems))
    return SyntheticSource(**values)


def _recognise(path: Path) -> str:
    from raysweep.data.celebamask import IMAGES
    from raysweep.data.fer2013 import is_fer2013_csv
    from raysweep.data.pins import find_pins
    from raysweep.data.shards import is_shard_set

    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return "parquet"
        if path.suffix.lower() == ".csv" and is_fer2013_csv(path):
            return "fer2013"
        raise DataError(
            f"{path}: a file that is neither .parquet nor a FER-2013 .csv (first line emotion,pixels,Usage); "
            "unpack archives, and give the folder for images"
        )
    if is_shard_set(path):
        return "shards"
    if (path / "clr").is_dir() and ((path / "msk").is_dir() or (path / "lndm").is_dir()):
        return "ciagan"
    if _celebamask_root(path, IMAGES):
        return "celebamask-hq"
    if find_pins(path):
        return "pins"
    if _fer2013_csv(path):
        return "fer2013"
    if _has_parquet(path):
        return "parquet"
    return "folder"


def _open_path(path: Path, kind: str) -> Source:
    from raysweep.data import celebamask, ciagan, folder, parquet, pins, shards

    if kind == "shards" or (kind == "parquet" and path.is_dir() and shards.is_shard_set(path)):
        return shards.open_shards(path)
    if kind == "parquet":
        return parquet.ParquetFaces(path)
    if kind == "fer2013":
        return _open_fer2013(path)
    if not path.is_dir():
        raise DataError(f"{path}: a file; kind {kind!r} is a folder")
    if kind == "ciagan":
        return ciagan.CiaganFaces(path)
    if kind == "celebamask-hq":
        return celebamask.CelebAMaskHQ(_celebamask_root(path, celebamask.IMAGES) or path)
    if kind == "pins":
        return pins.PinsFaces(path)
    return folder.FolderFaces(path)


def _open_fer2013(path: Path) -> Source:
    from raysweep.data import fer2013, folder

    csv = path if path.is_file() else _fer2013_csv(path)
    if csv is not None:
        return fer2013.FER2013(csv)
    faces = folder.FolderFaces(path, kind="fer2013", licence=fer2013.LICENCE)
    if faces.has_identities:
        raise DataError(f"{path}: neither fer2013.csv nor folders named after expressions (train/happy/*.jpg)")
    return faces


def _fer2013_csv(path: Path) -> Path | None:
    from raysweep.data.fer2013 import is_fer2013_csv

    for name in ("fer2013.csv", "icml_face_data.csv", "fer2013/fer2013.csv", "train.csv"):
        if is_fer2013_csv(path / name):
            return path / name
    return None


def _celebamask_root(path: Path, images: str) -> Path | None:
    for root in (path, path / "CelebAMask-HQ"):
        if (root / images).is_dir():
            return root
    return None


def _has_parquet(path: Path) -> bool:
    from raysweep.data.files import is_image_name, list_files

    files = list_files(path, lambda name: is_image_name(name) or name.lower().endswith(".parquet")).files
    return bool(files) and not any(is_image_name(name) for name in files)


def _what_is_there(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"no such file or folder, and {parent} is no folder either"
    try:
        names = sorted(entry.name for entry in os.scandir(parent) if not entry.name.startswith("."))
    except OSError as error:
        return f"no such file or folder ({parent}: {error.strerror})"
    kinds = Counter("folders" if (parent / name).is_dir() else "files" for name in names)
    counts = " and ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
    return f"no such file or folder; {parent} has {counts}{nearest(path.name, names)}"
