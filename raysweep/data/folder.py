"""Folders of image files: one folder per identity, per expression, or flat with telling names.

| layout | identity | expression |
|--------|----------|------------|
| `<identity>/x.jpg` | folder | - |
| `<identity>/<expression>/x.jpg` (or the other way round) | folder | folder |
| `<expression>/x.jpg`, recognised because all folder names are expression words | - | folder |
| `subject01.happy.gif` (Yale) | before the first dot | after it |
| `Abdul_Rahman_0001.jpg` (LFW) | name without the number | - |

One more level of `train`, `test`, `validation`... on top is passed through and kept as attribute `split`. A file
`labels.csv` in the root (columns `file`, and `identity` or `expression` or both) overrides what the names say; what further columns say
(`gender`, `age`, ...) is kept as attributes.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from raysweep.data.files import FileSource, Listing, extension, image_row, is_image_name, list_files, read_text
from raysweep.errors import DataError, nearest
from raysweep.schema import EXPRESSIONS

__all__ = ["CONDITION_WORDS", "EXPRESSION_WORDS", "FolderFaces", "expression_of"]

EXPRESSION_WORDS: dict[str, str] = {
    **{name: name for name in EXPRESSIONS},
    "anger": "angry",
    "disgusted": "disgust",
    **dict.fromkeys(("fearful", "afraid"), "fear"),
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "normal": "neutral",
}
"""Words that data sets use for the seven classes."""

CONDITION_WORDS: tuple[str, ...] = (
    "centerlight", "contempt", "glasses", "leftlight", "noglasses", "rightlight", "sleepy", "unknown", "wink",
)  # fmt: skip
"""Words beside an expression that are known not to be one of the seven: the expression is null, the word is kept."""

SPLIT_WORDS: tuple[str, ...] = (
    "train", "training", "test", "testing", "val", "valid", "validation", "publictest", "privatetest", "public_test",
    "private_test",
)  # fmt: skip

LABELS = "labels.csv"
EXPECTED = (
    "expected one folder per identity (root/<identity>/*.jpg), one per expression (root/happy/*.jpg), "
    "or image files with a labels.csv (columns file, identity, expression)"
)

_NUMBERED = re.compile(r"^(?P<identity>.*[^\W\d_].*?)_\d+$")


@dataclass(frozen=True)
class _Label:
    identity: str | None = None
    expression: str | None = None
    facts: tuple[tuple[str, object], ...] = ()


def expression_of(word: str) -> str | None:
    """One of `EXPRESSIONS` for a word in any case, or None.

    >>> expression_of("Surprised"), expression_of("wink")
    ('surprise', None)
    """
    return EXPRESSION_WORDS.get(word.strip().lower())


class FolderFaces(FileSource):
    """Rows of a folder of images; see the table on top of this module.

    Args:
        root: the folder.
        kind, licence: as given to the data set; `fer2013` for its folder form.

    Raises:
        DataError: no images, files too deep to tell what the folders mean, or a labels.csv that does not fit.
    """

    def __init__(self, root: Path, *, kind: str = "folder", licence: str = "not stated") -> None:
        listing = list_files(root, lambda name: is_image_name(name) or name == LABELS or _is_yale_name(name))
        has_labels = LABELS in listing.files
        images = tuple(name for name in listing.files if PurePosixPath(name).name != LABELS)
        if not images:
            detail = "; ".join(listing.notes) or "the folder is empty"
            raise DataError(f"{root}: no images found ({detail}); {EXPECTED}")
        self._labels, notes = _labels(listing.root, images, has_labels)
        left_out = [name for name in images if name not in self._labels]
        if left_out:
            notes.append(f"{len(left_out)} images beside the folders left out ({', '.join(left_out[:3])})")
        kept = Listing(listing.root, tuple(name for name in images if name in self._labels), listing.notes)
        super().__init__(
            name=listing.root.name, kind=kind, licence=licence, listing=kept, notes=notes,
            others=(LABELS,) if has_labels else (),
        )  # fmt: skip

    def rows(self) -> Iterator[dict[str, object]]:
        """One row a file, sorted by path; `face_id` is the relative path."""
        for name in self.listing.files:
            label = self._labels[name]
            yield image_row(
                self.listing,
                name,
                identity=label.identity,
                expression=label.expression,
                attributes=dict(label.facts),
            )

    @property
    def has_identities(self) -> bool:
        """Whether any row says who it is."""
        return any(label.identity is not None for label in self._labels.values())


def _is_yale_name(name: str) -> bool:
    """The original Yale files have no image ending: `subject01.happy`."""
    word = extension(name).lstrip(".")
    return word in EXPRESSION_WORDS or word in CONDITION_WORDS


def _labels(root: Path, images: tuple[str, ...], has_labels: bool) -> tuple[dict[str, _Label], list[str]]:
    from_names, notes = _labels_from_names(root, images, strict=not has_labels)
    if not has_labels:
        return from_names, notes
    given, columns = _labels_from_csv(root / LABELS, images)
    merged: dict[str, _Label] = {}
    for name in images:
        old, new = from_names.get(name, _Label()), given.get(name)
        if new is None:
            merged[name] = old
        else:
            facts = tuple((key, value) for key, value in old.facts if key == "split")
            merged[name] = _Label(
                new.identity if "identity" in columns else old.identity,
                new.expression if "expression" in columns else old.expression,
                (*new.facts, *(facts if "expression" in columns else old.facts)),
            )
    missing = len(images) - len(given)
    if missing:
        notes.append(f"{missing} images are not in {LABELS}: labelled by their folder or name alone")
    return merged, notes


def _labels_from_names(root: Path, images: tuple[str, ...], *, strict: bool) -> tuple[dict[str, _Label], list[str]]:
    folders = {name: PurePosixPath(name).parts[:-1] for name in images}
    tops = {parts[0].lower() for parts in folders.values() if parts}
    has_splits = bool(tops) and tops <= set(SPLIT_WORDS) and all(folders.values())
    splits = {name: parts[0] for name, parts in folders.items()} if has_splits else {}
    if has_splits:
        folders = {name: parts[1:] for name, parts in folders.items()}
    nested = {name: parts for name, parts in folders.items() if parts}
    deepest = max((len(parts) for parts in nested.values()), default=0)
    if deepest > 2:
        if strict:
            example = next(name for name, parts in nested.items() if len(parts) > 2)
            raise DataError(f"{root}: images lie {deepest} folders deep (such as {example}); {EXPECTED}")
        return {}, []
    labels: dict[str, _Label] = {}
    if not nested:
        labels = {name: _label_from_flat_name(PurePosixPath(name).name) for name in images}
    else:
        first_is_expression = all(_is_expression_word(parts[0]) for parts in nested.values())
        for name, parts in nested.items():
            labels[name] = _label_from_folders(parts, first_is_expression)
    if splits:
        labels = {
            name: _Label(label.identity, label.expression, (*label.facts, ("split", splits[name])))
            for name, label in labels.items()
        }
    return labels, []


def _is_expression_word(word: str) -> bool:
    return expression_of(word) is not None or word.lower() in CONDITION_WORDS


def _label_from_folders(parts: tuple[str, ...], first_is_expression: bool) -> _Label:
    if first_is_expression:
        identity = parts[1] if len(parts) > 1 else None
        return _Label(identity, expression_of(parts[0]), _condition(parts[0]))
    if len(parts) == 1:
        return _Label(parts[0])
    expression = expression_of(parts[1])
    return _Label(parts[0], expression, _condition(parts[1]))


def _condition(word: str) -> tuple[tuple[str, object], ...]:
    return () if expression_of(word) is not None else (("condition", word),)


def _label_from_flat_name(name: str) -> _Label:
    parts = name.split(".")
    if len(parts) >= 3 or _is_yale_name(name):
        word = parts[1]
        if _is_expression_word(word):
            return _Label(parts[0], expression_of(word), _condition(word))
    numbered = _NUMBERED.match(name.rsplit(".", 1)[0])
    return _Label(numbered["identity"]) if numbered else _Label()


def _labels_from_csv(path: Path, images: tuple[str, ...]) -> tuple[dict[str, _Label], list[str]]:
    """Labels by file, and the columns: a column that is there decides, also with an empty cell."""
    reader = csv.DictReader(read_text(path), skipinitialspace=True)
    try:
        columns = [column.strip().lower() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        if "file" not in columns or not {"identity", "expression"} & set(columns):
            raise DataError(
                f"{path}: columns {', '.join(columns) or 'none'}; needed: file, and identity or expression or both"
            )
        known = set(images)
        further = [column for column in columns if column and column not in ("file", "identity", "expression")]
        labels: dict[str, _Label] = {}
        problems: list[str] = []
        for row in reader:
            where = f"line {reader.line_num}"
            name = PurePosixPath((row["file"] or "").strip()).as_posix()
            identity = (row.get("identity") or "").strip() or None
            word = (row.get("expression") or "").strip()
            expression = expression_of(word) if word else None
            if name not in known:
                problems.append(f"{where}: no image {name!r}")
            elif name in labels:
                problems.append(f"{where}: {name!r} a second time")
            elif word and not _is_expression_word(word):
                hint = nearest(word, list(EXPRESSION_WORDS))
                problems.append(f"{where}: expression {word!r}{hint}; allowed: {', '.join(EXPRESSIONS)}, or empty")
            else:
                cells = ((column, (row.get(column) or "").strip()) for column in further)
                labels[name] = _Label(identity, expression, tuple((column, cell) for column, cell in cells if cell))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a CSV file ({error})") from error
    if problems:
        more = f"\n... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(f"{path}: {len(problems)} wrong lines\n" + "\n".join(problems[:10]) + more)
    return labels, columns
