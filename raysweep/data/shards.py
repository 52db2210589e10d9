"""A source written once as Parquet shards with a manifest; finished or not there, never in between.

Shards and manifest are written into a hidden folder beside the target, flushed to disk, and renamed into place as a
whole, under a lock that ends with its process. The manifest is the last file written and holds length and sha256 of
every shard, so that a shard cut short or altered later is noticed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.data.source import Source
from raysweep.engine.cache import cache_root, hold
from raysweep.errors import DataError, StoreError
from raysweep.schema import face_schema
from raysweep.storage.entries import settle_entry
from raysweep.storage.files import sha256_of, sync_file, sync_folder, write_whole

__all__ = ["MANIFEST", "Labels", "Shard", "ShardSet", "is_shard_set", "open_shards", "write_shards"]

MANIFEST = "manifest.json"
FORMAT = "raysweep-shards-1"
BYTES_PER_SHARD = 256 * 2**20
"""A shard is closed at so many image bytes, also with fewer rows."""
ROWS_PER_GROUP = 128
"""What is read at a time: a work item of a pass never has to read a whole shard."""
HASHED_BYTES = 64 * 2**20
"""A set up to this size is held against its sha256 whenever it is used again; of a larger one, pages are when they are read."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a set.

    Attributes:
        file: name in the folder.
        rows: number of faces.
        size: bytes.
        sha256: of the file.
    """

    file: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Labels:
    """The label columns of a whole set, row by row, in the order of the shards."""

    face_id: list[str]
    identity: list[str | None]
    expression: list[str | None]


@dataclass(frozen=True)
class ShardSet:
    """Shards on disk; itself a `Source`.

    Attributes:
        folder: where they lie.
        name, kind, licence, synthetic: of the source they were made from.
        source_digest: digest of that source when it was read.
        shards: in order.
        identities: photographs per identity.
        expressions: photographs per expression; unlabelled ones are not in here.
        unknown_identity, unknown_expression: photographs without.
        single_image: identities with one photograph, which cannot be evaluated.
        repeats: face_id -> face_id of an earlier photograph with the same bytes.
        dropped: face_ids left out because their bytes stand under two identities (`conflicts="drop"`).
        notes: what the source left out, one line each.
    """

    folder: Path
    name: str
    kind: str
    licence: str
    synthetic: bool
    source_digest: str
    shards: tuple[Shard, ...]
    identities: Mapping[str, int]
    expressions: Mapping[str, int]
    unknown_identity: int
    unknown_expression: int
    single_image: tuple[str, ...]
    repeats: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def digest(self) -> str:
        """Of the source; a set that left rows out has another one than a set that did not."""
        if not self.dropped:
            return self.source_digest
        return hashlib.sha256(json.dumps([self.source_digest, self.dropped]).encode()).hexdigest()

    @property
    def paths(self) -> list[str]:
        """Shard files in order, for `ray.data.read_parquet`."""
        return [str(self.folder / shard.file) for shard in self.shards]

    def rows(self) -> Iterator[dict[str, object]]:
        """The rows in order.

        Raises:
            DataError: a shard or row group cannot be read.
        """
        for batch in self._batches(None):
            yield from batch.to_pylist()

    def labels(self) -> Labels:
        """Identity and expression of all rows, without reading an image."""
        found = Labels([], [], [])
        for batch in self._batches(["face_id", "identity", "expression"]):
            columns = batch.to_pydict()
            found.face_id.extend(columns["face_id"])
            found.identity.extend(columns["identity"])
            found.expression.extend(columns["expression"])
        return found

    def verify(self) -> None:
        """Read every shard and compare its sha256.

        Raises:
            DataError: names the shard that is not what was written.
        """
        for shard in self.shards:
            _check_bytes(self.folder / shard.file, shard)

    def _batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        for shard in self.shards:
            group = 0
            try:
                with pq.ParquetFile(self.folder / shard.file, page_checksum_verification=True) as file:
                    for group in range(file.num_row_groups):
                        yield from file.iter_batches(batch_size=256, row_groups=[group], columns=columns)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.folder / shard.file}, row group {group}: cannot be read ({error})") from error


def is_shard_set(folder: Path) -> bool:
    """Whether a folder holds a finished set (its manifest says so)."""
    try:
        with (folder / MANIFEST).open("rb") as file:
            return FORMAT.encode() in file.read(200)
    except OSError:
        return False


def open_shards(folder: Path | str, *, verify: bool = False) -> ShardSet:
    """Open a finished set; lengths and rows of all shards are checked, and with `verify` every byte.

    Raises:
        DataError: no manifest, another format, or a shard that is missing, cut short or altered.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no {MANIFEST}: no shards here, or writing them was interrupted; prepare again"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of {FORMAT}")
    try:
        found = _from_manifest(folder, manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: incomplete or altered ({error!r}); remove the folder and prepare again") from error
    for shard in found.shards:
        _check_shard(folder / shard.file, shard, verify)
    return found


def write_shards(
    source: Source,
    folder: Path | str,
    rows_per_shard: int = 512,
    *,
    conflicts: Literal["refuse", "drop"] = "refuse",
) -> ShardSet:
    """Write a source as shards, or open those that are there when they were made from the same source.

    The same bytes twice under one identity (or without identity) are kept and listed in `ShardSet.repeats`, so that
    roles can hold them on one side. The same bytes under two identities are label noise or leakage.

    Args:
        source: what to write.
        folder: target; a set made from another digest is replaced, anything else there is not touched.
        rows_per_shard: at most; a shard is also closed at `BYTES_PER_SHARD`.
        conflicts: what to do with the same bytes under two identities: refuse the set, or leave out every such row.

    Raises:
        DataError: no rows, a face_id twice, the same image under two identities, or the source changed while it was read.
        StoreError: the target cannot be written, or holds something else.
    """
    if rows_per_shard < 1:
        raise DataError(f"rows_per_shard is {rows_per_shard}, at least 1 is needed")
    folder = Path(folder)
    digest = source.digest()
    settle_entry(folder)
    try:
        with _lock(folder):
            there = _reusable(folder, source, digest, conflicts)
            if there is not None:
                hold(folder, cache_root())
                return there
            for leftover in folder.parent.glob(f".{folder.name}.writing-*"):
                shutil.rmtree(leftover)  # of a writer that was killed: the lock is ours
            target = Path(tempfile.mkdtemp(prefix=f".{folder.name}.writing-", dir=folder.parent))
            try:
                _write(source, digest, target, rows_per_shard, conflicts)
                _put_in_place(target, folder)
            finally:
                shutil.rmtree(target, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"{folder}: shards cannot be written ({error.strerror or error})") from error
    settle_entry(folder)
    hold(folder, cache_root())
    return open_shards(folder)


def _reusable(folder: Path, source: Source, digest: str, conflicts: str) -> ShardSet | None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not is_shard_set(folder):
        raise StoreError(f"{folder}: holds something that is no set of shards; choose another folder or empty it")
    try:
        there = open_shards(folder)
        if sum(shard.size for shard in there.shards) <= HASHED_BYTES:
            there.verify()
    except DataError:
        return None  # damaged: written again
    same = (there.source_digest, there.name, there.kind) == (digest, source.name, source.kind)
    return there if same and (conflicts == "drop" or not there.dropped) else None


def _write(source: Source, digest: str, target: Path, rows_per_shard: int, conflicts: str) -> None:
    duplicates = _Duplicates()
    if conflicts == "drop":
        # Known only after the last row: a pass of its own, which keeps hashes and no images.
        for row in source.rows():
            duplicates.see(row)
    dropped = frozenset(duplicates.conflicting())
    duplicates = _Duplicates()
    shards: list[Shard] = []
    identities: Counter[str | None] = Counter()
    expressions: Counter[str | None] = Counter()
    for rows in _blocks(source, rows_per_shard, dropped):
        for row in rows:
            duplicates.see(row)
            identities[_text(row["identity"])] += 1
            expressions[_text(row["expression"])] += 1
        shards.append(_write_shard(rows, target / f"faces-{len(shards):05d}.parquet"))
    conflict = duplicates.conflicting()
    if conflict:
        raise DataError(duplicates.message(source.name))
    if not shards:
        raise DataError(f"{source.name}: no rows")
    if source.digest() != digest:
        raise DataError(f"{source.name}: files changed while they were read; wait until they rest and run again")
    unknown_identity, unknown_expression = identities.pop(None, 0), expressions.pop(None, 0)
    manifest = {
        "format": FORMAT,
        "name": source.name,
        "kind": source.kind,
        "licence": source.licence,
        "synthetic": source.synthetic,
        "source_digest": digest,
        "rows": sum(shard.rows for shard in shards),
        "shards": [vars(shard) for shard in shards],
        "identities": dict(sorted((str(name), count) for name, count in identities.items())),
        "expressions": dict(sorted((str(name), count) for name, count in expressions.items())),
        "unknown_identity": unknown_identity,
        "unknown_expression": unknown_expression,
        "single_image": sorted(str(name) for name, count in identities.items() if count == 1),
        "repeats": duplicates.repeats,
        "dropped": sorted(dropped),
        "notes": list(getattr(source, "notes", ())),
    }
    write_whole(target / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))
    sync_folder(target)


def _blocks(source: Source, rows_per_shard: int, dropped: frozenset[str]) -> Iterator[list[dict[str, object]]]:
    block: list[dict[str, object]] = []
    size = 0
    for row in source.rows():
        if row["face_id"] in dropped:
            continue
        block.append(row)
        size += sum(len(value) for value in (row["image"], row["mask"]) if isinstance(value, bytes))
        if len(block) == rows_per_shard or size >= BYTES_PER_SHARD:
            yield block
            block, size = [], 0
    if block:
        yield block


class _Duplicates:
    """Remembers a 16-byte hash and the labels of every image."""

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[str, str | None]] = {}
        self._ids: set[str] = set()
        self._conflicts: dict[bytes, list[tuple[str, str | None]]] = {}
        self.repeats: dict[str, str] = {}

    def see(self, row: Mapping[str, object]) -> None:
        face_id, identity, image = str(row["face_id"]), _text(row["identity"]), row["image"]
        if face_id in self._ids:
            raise DataError(f"face_id {face_id!r} stands for two rows; it must be unique in the data set")
        self._ids.add(face_id)
        if not isinstance(image, bytes) or not image:
            return
        key = hashlib.blake2b(image, digest_size=16, key=str(row["encoding"]).encode()).digest()
        first = self._first.setdefault(key, (face_id, identity))
        if first[0] == face_id:
            return
        self.repeats[face_id] = first[0]
        self._conflicts.setdefault(key, [first]).append((face_id, identity))

    def conflicting(self) -> list[str]:
        """face_ids whose bytes stand under more than one known identity."""
        return [face_id for group in self._groups() for face_id, _ in group]

    def message(self, name: str) -> str:
        groups = self._groups()
        shown = [
            "  " + " = ".join(f"{face_id} ({identity or 'unknown'})" for face_id, identity in group[:4])
            for group in groups[:10]
        ]
        more = [f"  ... and {len(groups) - 10} more"] if len(groups) > 10 else []
        images = "1 image stands" if len(groups) == 1 else f"{len(groups)} images stand"
        head = (
            f"{name}: {images} under two identities, byte for byte; who they show is not known. "
            "Correct the labels, remove them, or have a sweep leave them out (conflicts=drop)"
        )
        return "\n".join([head, *shown, *more])

    def _groups(self) -> list[list[tuple[str, str | None]]]:
        known = {key: {identity for _, identity in group} - {None} for key, group in self._conflicts.items()}
        return [group for key, group in self._conflicts.items() if len(known[key]) > 1]


def _write_shard(rows: list[dict[str, object]], path: Path) -> Shard:
    try:
        table = pa.Table.from_pylist(rows, schema=face_schema())
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"rows {rows[0]['face_id']} to {rows[-1]['face_id']} do not fit the face schema ({error})"
        ) from error
    nulls = [column.name for column in face_schema() if not column.nullable and table[column.name].null_count]
    if nulls:
        raise DataError(f"rows {rows[0]['face_id']} to {rows[-1]['face_id']}: null in {', '.join(nulls)}")
    # Raw pixels shrink by zstd, files that are compressed already pass through it at little cost.
    dictionary = ["identity", "expression", "encoding"]
    pq.write_table(
        table,
        path,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        compression_level=1,
        use_dictionary=dictionary,
        write_statistics=False,
        write_page_checksum=True,
    )
    sync_file(path)
    return Shard(path.name, len(rows), path.stat().st_size, _sha256(path))


def _put_in_place(target: Path, folder: Path) -> None:
    """Exchange the old set, if any, for the new one; a reader finds the old one, none for a moment, or the new one."""
    target.chmod(0o700)  # faces stay with their owner
    old = None
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.writing-", dir=folder.parent))
        os.replace(folder, old)
    os.replace(target, folder)
    sync_folder(folder.parent)
    if old is not None:
        shutil.rmtree(old)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One writer at a time per target; the lock falls with the process that holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _check_bytes(path: Path, shard: Shard) -> None:
    if _sha256(path) != shard.sha256:
        raise DataError(f"{path}: altered since it was written; remove the folder and prepare again")


def _check_shard(path: Path, shard: Shard, verify: bool) -> None:
    again = "remove the folder and prepare again"
    try:
        size = path.stat().st_size
        if size != shard.size:
            raise DataError(f"{path}: {size} bytes where {shard.size} were written; {again}")
        if verify:
            _check_bytes(path, shard)
        rows = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: missing or damaged ({error}); {again}") from error
    if rows != shard.rows:
        raise DataError(f"{path}: {rows} rows where {shard.rows} were written; {again}")


def _from_manifest(folder: Path, manifest: Mapping[str, Any]) -> ShardSet:
    shards = tuple(
        Shard(str(entry["file"]), int(entry["rows"]), int(entry["size"]), str(entry["sha256"]))
        for entry in manifest["shards"]
    )
    for shard in shards:
        if Path(shard.file).name != shard.file:
            raise ValueError(f"shard name {shard.file!r} leaves the folder")
    if sum(shard.rows for shard in shards) != manifest["rows"]:
        raise ValueError("rows of the shards do not sum up")
    return ShardSet(
        folder=folder,
        name=str(manifest["name"]),
        kind=str(manifest["kind"]),
        licence=str(manifest["licence"]),
        synthetic=bool(manifest["synthetic"]),
        source_digest=str(manifest["source_digest"]),
        shards=shards,
        identities=dict(manifest["identities"]),
        expressions=dict(manifest["expressions"]),
        unknown_identity=int(manifest["unknown_identity"]),
        unknown_expression=int(manifest["unknown_expression"]),
        single_image=tuple(manifest["single_image"]),
        repeats=dict(manifest["repeats"]),
        dropped=tuple(manifest["dropped"]),
        notes=tuple(manifest["notes"]),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
