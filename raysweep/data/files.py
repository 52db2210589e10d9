"""The files of a data set on disk: listed in a fixed order, nothing outside the folder, with a digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raysweep.data.images import MAX_BYTES, sniff
from raysweep.errors import DataError

__all__ = [
    "ADAPTER_VERSION",
    "CONTENT_DIGEST_LIMIT",
    "IMAGE_SUFFIXES",
    "FileSource",
    "Listing",
    "blank_row",
    "extension",
    "files_digest",
    "image_row",
    "is_image_name",
    "list_files",
    "printable",
    "read_text",
]

IMAGE_SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
CONTENT_DIGEST_LIMIT = 2**30
"""Bytes up to which a digest reads the files; above it takes names, sizes and modification times."""

ADAPTER_VERSION = "1"
"""Raised when the same files would give other rows than before."""

_JUNK = ("__MACOSX", "@eaDir")


@dataclass(frozen=True)
class Listing:
    """Files under a root.

    Attributes:
        root: the folder, resolved.
        files: paths relative to the root with forward slashes, sorted.
        notes: what was left out and why, one line each.
    """

    root: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def path(self, name: str) -> Path:
        """Where a listed file lies."""
        return self.root / name


def list_files(root: Path, wanted: Callable[[str], bool]) -> Listing:
    """All files below `root` whose name is wanted, sorted by relative path.

    Hidden entries are passed over. Linked folders are never entered, a linked file counts only when it points into
    the root; entries that cannot be read are passed over. All of this is said in the notes.

    Raises:
        DataError: the root itself cannot be read.
    """
    root = root.resolve()
    found: list[str] = []
    notes: list[str] = []
    others: Counter[str] = Counter()
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise DataError(f"{root}: cannot be read ({error.strerror})") from error
            notes.append(f"{_relative(folder, root)}: folder cannot be read ({error.strerror}), left out")
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _JUNK:
                continue
            path = Path(entry.path)
            name = _relative(path, root)
            if entry.is_symlink():
                target = path.resolve()
                if path.is_dir():
                    notes.append(f"{name}: linked folder, not followed")
                    continue
                if not target.is_relative_to(root):
                    notes.append(f"{name}: link that leaves the folder, not followed")
                    continue
                if not target.is_file():
                    notes.append(f"{name}: broken link, left out")
                    continue
            elif entry.is_dir():
                pending.append(path)
                continue
            elif not entry.is_file():
                notes.append(f"{name}: neither file nor folder, left out")
                continue
            if wanted(entry.name):
                found.append(name)
            else:
                others[Path(entry.name).suffix.lower() or "no ending"] += 1
    if others:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(others.items())[:8])
        notes.append(f"{sum(others.values())} files of another kind left out ({kinds})")
    return Listing(root, tuple(sorted(found)), tuple(notes))


def is_image_name(name: str) -> bool:
    """Whether a file name ends like an image."""
    return extension(name) in IMAGE_SUFFIXES


def extension(name: str) -> str:
    """The ending in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def files_digest(root: Path, files: Iterable[str], *salt: str, limit: int = CONTENT_DIGEST_LIMIT) -> str:
    """A sha256 over relative names, sizes and contents of files, in sorted order.

    When the files sum to more than `limit` bytes, the modification time (ns) stands for the content: reading a large
    set twice would cost more than it protects, and a rewrite by any ordinary means changes the time. The two forms
    never collide, since the form is part of what is hashed.

    Args:
        root: the folder.
        files: names relative to it.
        salt: further facts that decide what the rows are (kind, adapter version).

    Raises:
        DataError: a listed file has gone.
    """
    names = sorted(files)
    try:
        stats = [os.stat(root / name) for name in names]
    except OSError as error:
        raise DataError(f"{error.filename}: listed before but not there now ({error.strerror})") from error
    by_content = sum(stat.st_size for stat in stats) <= limit
    total = hashlib.sha256(json.dumps(["content" if by_content else "stat", *salt]).encode())
    for name, stat in zip(names, stats, strict=True):
        seal = _content_hash(root / name) if by_content else str(stat.st_mtime_ns)
        total.update(json.dumps([name, stat.st_size, seal]).encode())
    return total.hexdigest()


def _content_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable:{error.errno}"


def blank_row(face_id: str, source: str) -> dict[str, object]:
    """A row of `face_schema` in which nothing is known yet: an empty image, `raw`, 0 x 0."""
    return {
        "face_id": face_id,
        "identity": None,
        "expression": None,
        "encoding": "raw",
        "height": 0,
        "width": 0,
        "image": b"",
        "points": None,
        "landmarks": None,
        "mask": None,
        "attributes": None,
        "source": source,
    }


def image_row(
    listing: Listing,
    name: str,
    *,
    identity: str | None = None,
    expression: str | None = None,
    mask: bytes | None = None,
    attributes: dict[str, object] | None = None,
) -> dict[str, object]:
    """The row of one image file, its bytes as they are.

    A file that cannot be read, or is larger than `MAX_BYTES`, keeps its row with an empty image and the attribute
    `problem`, so that it is quarantined with a reason and not lost.
    """
    facts = dict(attributes or {})
    image = b""
    try:
        size = listing.path(name).stat().st_size
        if size > MAX_BYTES:
            facts["problem"] = f"too_large: {size} bytes, at most {MAX_BYTES} are read"
        else:
            image = listing.path(name).read_bytes()
    except OSError as error:
        facts["problem"] = f"unreadable: {error.strerror}"
    row = blank_row(printable(name), printable(name))
    suffix = extension(name).lstrip(".")
    row["encoding"] = sniff(image) or {"jpg": "jpeg"}.get(suffix, suffix if f".{suffix}" in IMAGE_SUFFIXES else "jpeg")
    row["identity"] = None if identity is None else printable(identity)
    row["expression"] = expression
    row["image"] = image
    row["mask"] = mask
    row["attributes"] = json.dumps(facts, sort_keys=True) if facts else None
    return row


def read_text(path: Path) -> Iterator[str]:
    """The lines of a small text file (UTF-8, a byte order mark is dropped).

    Raises:
        DataError: it cannot be read, or is not text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error})") from error


def printable(name: str) -> str:
    """A file name as valid Unicode: bytes that are not UTF-8 become `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


class FileSource:
    """What the adapters over files share: a name without a path, terms, notes, a digest.

    Attributes:
        name: of the data set; enters the hash that gives identities their roles.
        kind: one of `raysweep.data.source.KINDS`.
        licence: terms as far as known.
        notes: what was left out while listing.
    """

    synthetic = False

    def __init__(
        self,
        *,
        name: str,
        kind: str,
        licence: str,
        listing: Listing,
        notes: Iterable[str] = (),
        others: Iterable[str] = (),
    ) -> None:
        self.name = printable(name)
        self.kind = kind
        self.licence = licence
        self.listing = listing
        self.notes: tuple[str, ...] = (*listing.notes, *notes)
        self._others = tuple(others)

    def __len__(self) -> int:
        return len(self.listing.files)

    def digest(self) -> str:
        """Changes when a file that feeds a row changes (see `files_digest`)."""
        return files_digest(self.listing.root, (*self.listing.files, *self._others), self.kind, ADAPTER_VERSION)
