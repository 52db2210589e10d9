"""The folder that a release is written to, part by part: a part is there with its receipt, or is done again.

| file | content |
|------|---------|
| faces-00000.parquet | (shards) one part, `schema.face_schema` |
| `<path of the source>` | (images) one image a face, in the tree of the source; labels.csv, checksums.txt |
| quarantine.jsonl | face_id, source, reason, detail of every row that was not released |
| manifest.json | (shards) so that the folder can be given as `--data` |
| release.json | what made it, and the counts: written last |
| .release/ | the plan, and the receipt of each part with length and sha256 of its files |

A file is written under another name, forced to disk and renamed; its receipt follows in the same way. A kill at any moment leaves
finished parts and nothing half-written under its final name. Started again, every receipt is held against the bytes.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysweep.data.shards import FORMAT as SHARDS_FORMAT
from raysweep.data.shards import MANIFEST
from raysweep.errors import ConfigError, StoreError
from raysweep.schema import face_schema
from raysweep.storage.files import sha256_of, sync_folder, write_whole

__all__ = ["RELEASE", "Counts", "Part", "PartsFolder", "image_names"]

RELEASE = "release.json"
FORMAT = "raysweep-release-1"
HIDDEN = ".release"
SUFFIX = {"jpeg": ".jpg", "png": ".png", "raw": ".png"}
MAX_NAME = 180
"""Bytes of one part of a path: all file systems take 255, and a temporary name is longer."""

Kind = Literal["shards", "images"]


@dataclass(frozen=True)
class Part:
    """Some consecutive rows of one source shard: the unit of work, of writing and of going on.

    Attributes:
        number: from 0.
        path: of the source shard.
        start, rows: which.
    """

    number: int
    path: str
    start: int
    rows: int


@dataclass(frozen=True)
class Counts:
    """What became of the rows: `rows_in == released + kept + quarantined`, always."""

    rows_in: int
    released: int
    kept: int
    quarantined: int
    reasons: Mapping[str, int]


class PartsFolder:
    """A release while it is written, and after.

    Args:
        folder: of the user; made when it does not exist.
        kind: how faces are written.
        plan: all that decides what is written, JSON-safe.
        parts: what is to be done.
        names: path of each face's image by face_id (images only).
    """

    def __init__(
        self, folder: Path, kind: Kind, plan: Mapping[str, Any], parts: Sequence[Part], names: Mapping[str, str]
    ) -> None:
        self.folder, self._kind, self._names = folder, kind, names
        self._plan = _plain({**plan, "kind": kind, "rows": [[part.start, part.rows] for part in parts]})
        self._parts = {part.number: part for part in parts}
        self._hidden = folder / HIDDEN
        self._waiting: dict[int, list[pa.Table]] = {}
        self.done: set[int] = set()

    @contextmanager
    def writing(self) -> Iterator[list[Part]]:
        """Hold the folder; yields the parts that are still to be done.

        Raises:
            ConfigError: the folder holds something else, or a release with another plan.
            StoreError: another process writes to it, or the disk refuses.
        """
        self._check()
        with self._disk_errors():
            self._hidden.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self._hidden / "lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # falls with the process
            except OSError as error:
                raise StoreError(f"{self.folder}: another process is writing this release; wait for it") from error
            with self._disk_errors():
                for leftover in self._hidden.glob("*.part"):
                    leftover.unlink()
                self._write(self._hidden / "plan.json", _json(self._plan))
                self.done = {number for number in self._parts if self._is_done(number)}
            yield [part for number, part in sorted(self._parts.items()) if number not in self.done]

    def add(self, table: pa.Table) -> None:
        """Rows of one part, all or some; the part is written when its rows are complete.

        Args:
            table: of `apply.released_schema` with a column `part`.

        Raises:
            StoreError: rows that were not asked for, or a disk that refuses.
        """
        for number in pc.unique(table["part"]).to_pylist():
            some = table.filter(pc.equal(table["part"], number))
            if number not in self._parts or number in self.done:
                raise StoreError(f"part {number} came twice, or is not of this release")
            held = self._waiting.setdefault(number, [])
            held.append(some)
            rows = sum(map(len, held))
            if rows > self._parts[number].rows:
                raise StoreError(f"part {number}: {rows} rows came where {self._parts[number].rows} were asked for")
            if rows == self._parts[number].rows:
                self._commit(number, pa.concat_tables(self._waiting.pop(number)))

    def finish(self, about: Mapping[str, Any], shard_set: Mapping[str, Any]) -> Counts:
        """Count, and write what describes the whole; release.json last.

        Args:
            about: what made it.
            shard_set: name, kind, licence, synthetic, source_digest of the set of shards that it becomes.

        Raises:
            StoreError: parts or rows are missing.
        """
        missing = sorted(set(self._parts) - self.done)
        if missing:
            raise StoreError(f"{self.folder}: {len(missing)} of {len(self._parts)} parts did not come back")
        found = _Found(labels=self._kind == "images")
        for number in sorted(self._parts):
            receipt = self._receipt(number)
            if receipt is None:
                raise StoreError(
                    f"{self.folder}: the receipt of part {number} cannot be read; the same command does it again"
                )
            found.add(receipt)
        quarantine, files = found.quarantine, found.files
        counts = Counts(
            rows_in=sum(part.rows for part in self._parts.values()),
            released=found.released,
            kept=found.kept,
            quarantined=len(quarantine),
            reasons=dict(Counter(row["reason"] for row in quarantine).most_common()),
        )
        if counts.rows_in != counts.released + counts.kept + counts.quarantined:
            raise StoreError(
                f"{self.folder}: {counts.rows_in} rows in, {counts.released} released, {counts.kept} kept, {counts.quarantined} quarantined "
                "do not add up"
            )
        with self._disk_errors():
            lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in quarantine]
            self._write(self.folder / "quarantine.jsonl", "".join(lines).encode())
            described: dict[str, Any] = {"images": len(files)}
            if self._kind == "shards":
                self._write(self.folder / MANIFEST, _json(_shard_manifest(found, shard_set)))
                described = {"shards": files}
            else:
                self._write(self.folder / "labels.csv", _labels(found.labels))
                sums = "".join(f"{file['sha256']}  {file['file']}\n" for file in files).encode()
                self._write(self.folder / "checksums.txt", sums)
            content = {"format": FORMAT, **about, "counts": vars(counts), **described}
            sync_folder(self.folder)
            self._write(self.folder / RELEASE, _json(content))
            sync_folder(self.folder)
        return counts

    # ---------------------------------------------------------------- inside
    def _check(self) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise ConfigError(f"{self.folder}: a file; --out is a folder")
        if not any(self.folder.iterdir()):
            return
        try:
            there = json.loads((self._hidden / "plan.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            there = None
        begun = self._hidden.is_dir() and all(path == self._hidden for path in self.folder.iterdir())
        if there is None and not begun:
            raise ConfigError(f"{self.folder}: holds something that is no release; choose another folder or empty it")
        if there is not None and there != self._plan:
            names = [name for name in self._plan if there.get(name) != self._plan[name]]
            raise ConfigError(
                f"{self.folder}: holds another release (not the same: {', '.join(names) or 'its parts'}); choose another folder or empty it"
            )

    def _receipt_path(self, number: int) -> Path:
        return self._hidden / f"part-{number:06d}.json"

    def _receipt(self, number: int) -> dict[str, Any] | None:
        try:
            content = json.loads(self._receipt_path(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and {"files", "quarantine"} <= set(content) else None

    def _is_done(self, number: int) -> bool:
        """Whether the receipt is there and every file is what it says."""
        receipt = self._receipt(number)
        if receipt is None:
            return False
        return all(_sha256(self.folder / file["file"]) == file["sha256"] for file in receipt["files"])

    def _commit(self, number: int, table: pa.Table) -> None:
        good = table.filter(pc.equal(table["reason"], ""))
        bad = table.filter(pc.not_equal(table["reason"], ""))
        kept = int(pc.sum(pc.equal(good["note"], "kept")).as_py() or 0)
        receipt: dict[str, Any] = {
            "released": len(good) - kept,
            "kept": kept,
            "quarantine": bad.select(["face_id", "source", "reason", "detail"]).to_pylist(),
            "labels": good.select(["face_id", "identity", "expression"]).to_pylist(),
        }
        with self._disk_errors():
            if self._kind == "shards":
                receipt["files"] = self._write_shard(number, good)
            else:
                receipt["files"] = self._write_images(good)
                for row in receipt["labels"]:
                    row["file"] = self._names[row["face_id"]]
            self._write(self._receipt_path(number), _json(receipt))
            sync_folder(self._hidden)
        self.done.add(number)

    def _write_shard(self, number: int, good: pa.Table) -> list[dict[str, Any]]:
        if not len(good):
            return []
        table = good.select(face_schema().names).cast(face_schema())
        sink = io.BytesIO()
        dictionary = ["identity", "expression", "encoding"]
        pq.write_table(
            table, sink, compression="zstd", compression_level=1, use_dictionary=dictionary, write_statistics=False
        )
        file = self._write_file(f"faces-{number:05d}.parquet", sink.getbuffer(), len(good))
        sync_folder(self.folder)
        return [file]

    def _write_images(self, good: pa.Table) -> list[dict[str, Any]]:
        from raysweep.data.images import decode
        from raysweep.engine.apply import encode

        files = []
        for row in good.select(["face_id", "encoding", "height", "width", "image"]).to_pylist():
            data = row["image"]
            if row["encoding"] == "raw":
                data = encode(decode(data, "raw", row["height"], row["width"]), "png")
            files.append(self._write_file(self._names[row["face_id"]], data, 1))
        for parent in {(self.folder / file["file"]).parent for file in files}:
            sync_folder(parent)
        return files

    def _write_file(self, name: str, data: bytes | memoryview, rows: int) -> dict[str, Any]:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(self.folder.resolve()):
            raise StoreError(f"{path}: a link leads out of the folder")
        self._write(path, data)
        return {"file": name, "rows": rows, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def _write(self, path: Path, data: bytes | memoryview) -> None:
        """All or nothing, on disk when it returns; temporary files lie in one place, where a later process finds them."""
        temporary = self._hidden / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.part"
        write_whole(path, data, aside=temporary)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be written ({error.strerror or error}). Mend the disk; the same command then goes on"
            ) from error


def image_names(face_ids: Sequence[str], encodings: Sequence[str], *, lossless: bool) -> dict[str, str]:
    """A relative path for each face: its own name with the ending of what is written, made harmless.

    Args:
        face_ids: unique; usually relative paths.
        encodings: of the source rows.
        lossless: PNG for all.

    Returns:
        By face_id, unique also where letter case does not count; no path leaves its folder or is hidden.

    >>> image_names(["a/x.jpg", "../b.gif"], ["jpeg", "gif"], lossless=False)
    {'a/x.jpg': 'a/x.jpg', '../b.gif': '_/b.png'}
    """
    taken: set[str] = set()
    names: dict[str, str] = {}
    for face_id, encoding in zip(face_ids, encodings, strict=True):
        kind = "jpeg" if encoding in ("jpeg", "webp") and not lossless else "png"
        parts = [_harmless(part) for part in PurePosixPath(face_id.replace("\\", "/").lstrip("/")).parts] or ["_"]
        stem = re.sub(r"\.(jpe?g|png|gif|bmp|webp)$", "", parts[-1], flags=re.IGNORECASE) or "_"
        suffix = SUFFIX[kind]
        if kind == "jpeg" and parts[-1].lower().endswith(".jpeg"):
            suffix = parts[-1][len(stem) :]
        name, number = "/".join([*parts[:-1], stem + suffix]), 2
        while name.lower() in taken or name.lower() in RESERVED:
            name = "/".join([*parts[:-1], f"{stem}~{number}{suffix}"])
            number += 1
        taken.add(name.lower())
        names[face_id] = name
    return names


RESERVED = frozenset({"labels.csv", "checksums.txt", "quarantine.jsonl", MANIFEST, RELEASE})


def _harmless(part: str) -> str:
    """One part of a path: no control characters, not hidden, not a way up, not too long."""
    clean = "".join(char if char.isprintable() and char != ":" else "_" for char in part).strip()
    clean = re.sub(r"^\.+", "_", clean).rstrip(".") or "_"
    if clean == "_" and set(part) <= {"."}:
        return "_"
    data = clean.encode("utf-8", "replace")
    if len(data) > MAX_NAME:
        _, dot, tail = clean.rpartition(".")
        mark = hashlib.sha256(data).hexdigest()[:8]
        ending = f".{tail}" if dot and len(tail) <= 5 else ""
        return data[: MAX_NAME - 20].decode("utf-8", "ignore") + "-" + mark + ending
    return data.decode("utf-8")


class _Found:
    """The receipts of a release, summed up one after the other: what they say of each face is kept only for images, which are listed.

    Args:
        labels: whether to keep it.
    """

    def __init__(self, labels: bool) -> None:
        self.released = self.kept = 0
        self.files: list[dict[str, Any]] = []
        self.quarantine: list[dict[str, Any]] = []
        self.labels: list[dict[str, Any]] = []
        self.identities: Counter[str | None] = Counter()
        self.expressions: Counter[str | None] = Counter()
        self._keeps = labels

    def add(self, receipt: Mapping[str, Any]) -> None:
        """One more."""
        self.released += receipt["released"]
        self.kept += receipt["kept"]
        self.files += receipt["files"]
        self.quarantine += receipt["quarantine"]
        self.identities.update(row["identity"] for row in receipt["labels"])
        self.expressions.update(row["expression"] for row in receipt["labels"])
        if self._keeps:
            self.labels += receipt["labels"]


def _shard_manifest(found: _Found, about: Mapping[str, Any]) -> dict[str, Any]:
    """As `data.shards` writes it, so that what was released can be measured, or released again."""
    identities, expressions = Counter(found.identities), Counter(found.expressions)
    unknown_identity, unknown_expression = identities.pop(None, 0), expressions.pop(None, 0)
    return {
        "format": SHARDS_FORMAT,
        **about,
        "rows": sum(shard["rows"] for shard in found.files),
        "shards": found.files,
        "identities": dict(sorted(identities.items())),
        "expressions": dict(sorted(expressions.items())),
        "unknown_identity": unknown_identity,
        "unknown_expression": unknown_expression,
        "single_image": sorted(name for name, count in identities.items() if count == 1),
        "repeats": {},
        "dropped": [],
        "notes": ["anonymized; see release.json"],
    }


def _labels(rows: Sequence[Mapping[str, Any]]) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(("file", "identity", "expression"))
    for row in rows:
        writer.writerow((row["file"], row["identity"] or "", row["expression"] or ""))
    return sink.getvalue().encode("utf-8", "surrogatepass")


def _sha256(path: Path) -> str:
    """Of a file's bytes; empty where there is none, or a link in its place."""
    try:
        if path.is_symlink():
            return ""
        return sha256_of(path)
    except OSError:
        return ""


def _plain(content: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(content, sort_keys=True))
    return plain


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")
