"""The reference store: aligned crops and what no trial changes, found again by content.

A folder per (faces, frame, weights, code), written aside and renamed into place as a whole with the manifest last: it is
there and complete, or not there. Embeddings are biometric data: folders are readable by their owner only.

| file | content |
|------|---------|
| crop.npy, points.npy, landmarks.npy, mask.npy | (N, ...) arrays, raw, for memory maps; the last two only where known |
| embedding.<i>.npy, probability.<i>.npy | per model, names in the manifest |
| rows.parquet | face_id, identity, expression, attributes, source, note; sorted by face_id, the order of all arrays |
| quarantine.jsonl | face_id, source, reason, detail of every row that is not in the arrays |
| manifest.json | format, key and what it is made of, frame, counts, model names, length and sha256 of the other files |

Roles are not in it: they follow from the names at loading, so that another study seed needs no other store.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raysweep.data.roles import face_table
from raysweep.data.strings import Texts, shared_strings
from raysweep.engine.cache import cache_root, hold
from raysweep.errors import DataError, StoreError
from raysweep.schema import AlignedFaces, Frame, Measurements
from raysweep.storage.entries import settle_entry
from raysweep.storage.files import sha256_of, sync_file, sync_folder, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

    from raysweep.models.zoo import Zoo

__all__ = [
    "FORMAT",
    "ReferenceStore",
    "ReferenceWriter",
    "References",
    "RowLabels",
    "cache_root",
    "code_digest",
    "take_faces",
]

FORMAT = "raysweep-references-1"
MANIFEST = "manifest.json"
HASHED_BYTES = 64 << 20
"""Files up to this size are held against their sha256 each time a store is looked for; larger ones against their length, and against
their sha256 by `raysweep cache verify`."""
EMBEDDING, PROBABILITY = "embedding:", "probability:"
COPY_ROWS = 1024
CODE = ("preprocess", "models", "data/images.py", "schema.py")
"""Source files that decide what is in a store; weights and their specification enter by the zoo's digest."""

RESIDENT_BYTES = 256 << 20
"""Pixels of chosen rows that are copied into memory; more are copied into a file without a name and mapped."""

Array = np.ndarray[Any, Any]


def code_digest() -> str:
    """sha256 of the source files of `CODE`, 64 digits: changed code never answers with old crops."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for name in CODE:
        place = package / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class References:
    """A store, loaded.

    Attributes:
        faces: N aligned clear faces (memory maps), sorted by face_id.
        clear: what the judging models say of them, row by row.
        quarantine: face_id, source, reason, detail of every row that could not be used.
        manifest: of the store.
        source: (N,) where each face came from.
        attributes: JSON text or None per face.
        note: (N,) what else was seen, mostly empty.
    """

    faces: AlignedFaces
    clear: Measurements
    quarantine: list[dict[str, str]]
    manifest: dict[str, Any]
    source: Sequence[str | None]
    attributes: Sequence[str | None]
    note: Sequence[str | None]


@dataclass(frozen=True)
class RowLabels:
    """The columns of a data set that need no image, row by row in any order."""

    face_id: Sequence[str]
    identity: Sequence[str | None]
    expression: Sequence[str | None]
    attributes: Sequence[str | None]
    source: Sequence[str | None]

    @classmethod
    def of(cls, table: pa.Table) -> RowLabels:
        """The columns of a table, in as little memory as may be."""
        return cls(
            face_id=[str(name) for name in Texts(table["face_id"])],
            identity=shared_strings(table["identity"]),
            expression=shared_strings(table["expression"]),
            attributes=Texts(table["attributes"]),
            source=Texts(table["source"]),
        )


@dataclass(frozen=True)
class ReferenceStore:
    """One store on disk, finished or still to be written.

    Attributes:
        folder: of the store; its name is the key.
        basis: what the key is made of; empty for a store that is only read.
    """

    folder: Path
    basis: Mapping[str, Any] | None = None

    @classmethod
    def at(cls, faces: Any, frame: Frame, zoo: Zoo, root: Path | None = None) -> ReferenceStore:
        """The store of a data set in a frame, measured by the models of a zoo.

        Args:
            faces: a source or set of shards with `digest()`, or the digest itself.
            frame: of the crops.
            zoo: restricted to this kind of faces (`Zoo.for_data`).
            root: parent of all stores; `cache_root() / "references"` when None.
        """
        from raysweep.preprocess.tools import tool_names

        tools = tool_names(zoo)
        judges = [item.name for task in ("embedder", "expression") for item in zoo.judges(task)]
        weights = sorted({*judges, *(name for name in tools.values() if name in zoo.found)})
        basis = {
            "faces": faces if isinstance(faces, str) else faces.digest(),
            "frame": [frame.size, frame.margin],
            "weights": weights,
            "weights_digest": zoo.digest(weights),
            "tools": tools,
            "code": code_digest(),
        }
        key = hashlib.sha256(json.dumps([FORMAT, basis], sort_keys=True).encode()).hexdigest()[:32]
        return cls((root or cache_root() / "references") / key, basis)

    @property
    def key(self) -> str:
        """Name of the folder: a hash of (faces, frame, weights, code)."""
        return self.folder.name

    def exists(self) -> bool:
        """Whether it is finished and undamaged as far as a quick look tells; a damaged one counts as not there, and is made again.

        One that lies in the object store of the cache only is copied here first.

        Raises:
            StoreError: that store does not answer.
        """
        settle_entry(self.folder)
        if not (self.folder / MANIFEST).is_file():
            return False
        try:
            self.verify(HASHED_BYTES)
        except StoreError:
            return False
        return True

    def verify(self, hashed_bytes: int | None = None) -> None:
        """Hold the files against the manifest.

        Args:
            hashed_bytes: look at the length alone of files larger than this; None to read every byte.

        Raises:
            StoreError: names the file that is missing, cut short or altered.
        """
        for name, (size, sha256) in dict(self.manifest().get("files") or {}).items():
            path = self.folder / name
            try:
                found = path.stat().st_size
                altered = found == size and (hashed_bytes is None or size <= hashed_bytes) and sha256_of(path) != sha256
            except OSError as error:
                raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
            if found != size:
                raise StoreError(f"{path}: {found} bytes where {size} were written")
            if altered:
                raise StoreError(f"{path}: altered since it was written")

    def manifest(self) -> dict[str, Any]:
        """What is in it.

        Raises:
            StoreError: not there, unreadable, or of another format.
        """
        path = self.folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.folder}: no finished reference store there; run `raysweep prepare` again"
            ) from error
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read ({error}); remove the folder and prepare again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise StoreError(f"{path}: not a manifest of {FORMAT}; remove the folder and prepare again")
        return content

    def load(
        self,
        *,
        dataset: str,
        seed: int,
        shares: Mapping[str, float] | None = None,
        need_privacy: bool = True,
    ) -> References:
        """Memory-map the arrays and give every identity its role.

        Args:
            dataset, seed, shares, need_privacy: as for `data.roles.face_table`.

        Raises:
            StoreError: not there, or not what its manifest says.
            DataError, ConfigError: of `face_table`.
        """
        if not (self.folder / MANIFEST).is_file():
            settle_entry(self.folder)  # a worker on another machine than the one that prepared
        hold(self.folder, cache_root())
        manifest = self.manifest()
        count, models = int(manifest["rows"]), manifest["models"]
        labels, note = self._labels(count)
        frame = Frame(*manifest["frame"])
        kept = set(manifest["arrays"])
        faces = AlignedFaces(
            table=face_table(
                labels.face_id,
                labels.identity,
                labels.expression,
                dataset=dataset,
                seed=seed,
                shares=shares,
                need_privacy=need_privacy,
                repeats=manifest["repeats"],
                attributes=labels.attributes,
            ),
            frame=frame,
            crop=self._array("crop", count),
            points=self._array("points", count),
            landmarks=self._array("landmarks", count) if "landmarks" in kept else None,
            mask=self._array("mask", count) if "mask" in kept else None,
            synthetic=bool(manifest["synthetic"]),
        )
        clear = Measurements(
            {name: self._array(file, count) for name, file in models["embedding"].items()},
            {name: self._array(file, count) for name, file in models["probability"].items()},
            {},
        )
        quarantine = [json.loads(line) for line in self._text("quarantine.jsonl").splitlines()]
        if len(quarantine) != manifest["quarantined"]:
            raise StoreError(f"{self.folder}: {len(quarantine)} quarantine records, {manifest['quarantined']} expected")
        return References(faces, clear, quarantine, manifest, labels.source, labels.attributes, note)

    @contextmanager
    def writing(
        self, labels: RowLabels, frame: Frame, *, synthetic: bool, about: Mapping[str, Any]
    ) -> Iterator[ReferenceWriter | None]:
        """Write the store, or yield None when it is finished already (perhaps by another process that we waited for).

        The store appears when the block ends and every row was added; an exception leaves nothing behind.

        Args:
            labels: of all rows of the data set.
            frame, synthetic: of the faces.
            about: further facts for the manifest, JSON-safe (`name`, `repeats`...).

        Raises:
            StoreError: rows lost or twice, or the disk refuses.
        """
        parent = self.folder.parent
        with self._disk_errors():
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (parent / f".{self.key}.lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # falls with the process
            if self.exists():
                yield None
                return
            with self._disk_errors():
                for leftover in parent.glob(f".{self.key}.writing-*"):
                    shutil.rmtree(leftover)  # of a writer that was killed: the lock is ours
                target = Path(tempfile.mkdtemp(prefix=f".{self.key}.writing-", dir=parent))  # mode 0700
            try:
                writer = ReferenceWriter(target, labels, frame)
                yield writer
                with self._disk_errors():
                    writer.finish({**about, "key": self.key, "basis": dict(self.basis or {}), "synthetic": synthetic})
                    if self.folder.exists():
                        shutil.rmtree(self.folder)  # damaged, or no store; who has its files open keeps them
                    os.replace(target, self.folder)
                    sync_folder(parent)
            finally:
                shutil.rmtree(target, ignore_errors=True)
        settle_entry(self.folder)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be written ({error.strerror or error})") from error

    def _array(self, name: str, count: int) -> Any:
        path = self.folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read ({error}); remove the folder and prepare again") from error
        if len(array) != count:
            raise StoreError(
                f"{path}: {len(array)} rows where {count} were written; remove the folder and prepare again"
            )
        return array

    def _text(self, name: str) -> str:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.folder / name}: cannot be read ({error}); remove the folder and prepare again"
            ) from error

    def _labels(self, count: int) -> tuple[RowLabels, list[str | None]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.folder / "rows.parquet"
        try:
            table = pq.read_table(path)
            labels, note = RowLabels.of(table), shared_strings(table["note"])
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            raise StoreError(f"{path}: cannot be read ({error}); remove the folder and prepare again") from error
        if len(note) != count:
            raise StoreError(
                f"{path}: {len(note)} rows where {count} were written; remove the folder and prepare again"
            )
        return labels, note


def take_faces(faces: AlignedFaces, rows: Array, resident_bytes: int = RESIDENT_BYTES) -> AlignedFaces:
    """`faces.take(rows)` for any number of rows: the same arrays, in memory where they are few, else in a file that the kernel may page out.

    Args:
        faces: memory maps of a store, or arrays.
        rows: numbers of the rows.
        resident_bytes: of pixels and masks together that are still copied into memory.

    Raises:
        StoreError: there is no room for the file.
    """
    large = {"crop": faces.crop} | ({} if faces.mask is None else {"mask": faces.mask})
    if sum(len(rows) * array[:1].nbytes for array in large.values()) <= resident_bytes:
        return faces.take(rows)
    # Beside the store, where there is room for faces; the system's folder for temporary files may itself be memory.
    store = getattr(faces.crop, "filename", None)
    folder = Path(store).parent if store is not None and os.access(Path(store).parent, os.W_OK) else None
    mapped: dict[str, Array] = {}
    for name, array in large.items():
        shape = (len(rows), *array.shape[1:])
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, len(rows) * array[:1].nbytes)
                copy = np.memmap(file, dtype=array.dtype, mode="r+", shape=shape)
        except OSError as error:
            raise StoreError(f"no room to copy {shape} {array.dtype} of clear faces ({error.strerror})") from error
        for start in range(0, len(rows), COPY_ROWS):
            copy[start : start + COPY_ROWS] = array[rows[start : start + COPY_ROWS]]
        mapped[name] = copy
    return replace(
        faces,
        table=faces.table.take(rows),
        points=faces.points[rows],
        landmarks=None if faces.landmarks is None else faces.landmarks[rows],
        crop=mapped["crop"],
        mask=mapped.get("mask"),
    )


class ReferenceWriter:
    """Takes rows in any order, each once; `finish` is called by `ReferenceStore.writing`."""

    def __init__(self, folder: Path, labels: RowLabels, frame: Frame) -> None:
        self._folder, self._labels, self._frame = folder, labels, frame
        total = len(labels.face_id)
        order = sorted(range(total), key=lambda row: labels.face_id[row])
        self._order = order
        self._place = {labels.face_id[row]: place for place, row in enumerate(order)}
        if len(self._place) != total:
            repeated = [face for face, count in Counter(labels.face_id).items() if count > 1]
            raise DataError(f"{len(repeated)} face_id stand twice, such as {repeated[0]!r}; they must be unique")
        self._arrays: dict[str, Array] = {}
        self._state = np.zeros(total, dtype=np.uint8)  # 0 missing, 1 result, 2 quarantined
        self._notes: dict[int, str] = {}
        self._quarantine: dict[int, dict[str, str]] = {}

    @property
    def done(self) -> int:
        """Rows added so far."""
        return int(np.count_nonzero(self._state))

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were quarantined, by reason, the most frequent first."""
        return dict(Counter(record["reason"] for record in self._quarantine.values()).most_common())

    def add(self, columns: Mapping[str, Array]) -> None:
        """Columns of `crop_rows` and `measure_columns`, n rows.

        Raises:
            StoreError: a row that is not of this data set, or came before.
        """
        face_id = [str(item) for item in columns["face_id"]]
        try:
            places = np.array([self._place[item] for item in face_id], dtype=np.int64)
        except KeyError as error:
            raise StoreError(f"row {error} is not of this data set") from error
        if self._state[places].any() or len(np.unique(places)) != len(places):
            raise StoreError(f"a row among {face_id[:3]}... came twice")
        good = np.asarray(columns["reason"]) == ""
        for name, values in columns.items():
            if np.issubdtype(values.dtype, np.number):
                self._array(name, values)[places[good]] = values[good]
        self._state[places] = np.where(good, 1, 2)
        for row, place in enumerate(places.tolist()):
            if good[row]:
                if columns["note"][row]:
                    self._notes[place] = str(columns["note"][row])
            else:
                texts = ("face_id", "source", "reason", "detail")
                self._quarantine[place] = {name: str(columns[name][row]) for name in texts}

    def finish(self, about: Mapping[str, Any]) -> None:
        """Close the gaps of quarantined rows and write everything, the manifest last.

        Raises:
            StoreError: rows are missing.
            DataError: not one row could be used.
        """
        total, kept = len(self._state), np.flatnonzero(self._state == 1)
        if self.done != total:
            lost = [self._labels.face_id[self._order[place]] for place in np.flatnonzero(self._state == 0)[:3]]
            raise StoreError(
                f"{total - self.done} of {total} rows did not come back from preparation, such as {', '.join(lost)}"
            )
        if len(kept) == 0:
            first = next(iter(self._quarantine.values()), {"face_id": "", "detail": "no rows"})
            counts = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
            raise DataError(
                f"none of {total} faces can be used: {counts}; for example {first['face_id']}: {first['detail']}"
            )
        models: dict[str, dict[str, str]] = {"embedding": {}, "probability": {}}
        arrays = []
        for name in list(self._arrays):
            file = _file_name(name, models)
            arrays.append(file)
            self._close(name, kept, file)
        self._write_rows(kept)
        lines = [json.dumps(self._quarantine[place], ensure_ascii=False) for place in sorted(self._quarantine)]
        write_whole(self._folder / "quarantine.jsonl", "".join(line + "\n" for line in lines))
        manifest = {
            "format": FORMAT,
            **about,
            "frame": [self._frame.size, self._frame.margin],
            "rows_in": total,
            "rows": len(kept),
            "quarantined": len(self._quarantine),
            "reasons": self.reasons,
            "notes": len(self._notes),
            "arrays": arrays,
            "models": models,
        }
        manifest.setdefault("repeats", {})
        manifest["files"] = {
            path.name: [path.stat().st_size, sha256_of(path)]
            for path in sorted(self._folder.iterdir())
            if path.is_file()
        }
        sync_folder(self._folder)
        write_whole(self._folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))
        sync_folder(self._folder)

    def _array(self, name: str, like: Array) -> Array:
        found = self._arrays.get(name)
        if found is None:
            shape = (len(self._state), *like.shape[1:])
            found = self._arrays[name] = self._open(f"{len(self._arrays)}.part", like.dtype, shape)
        return found

    def _open(self, file: str, dtype: Any, shape: tuple[int, ...]) -> Array:
        path = self._folder / file
        try:
            array: Array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            with path.open(
                "rb+"
            ) as handle:  # a full disk is an error here, not a bus error at the first page beyond it
                os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise StoreError(f"{path}: no room for {shape} {dtype} ({error.strerror or error})") from error
        return array

    def _close(self, name: str, kept: Array, file: str) -> None:
        array = self._arrays.pop(name)
        part, target = Path(array.filename), self._folder / f"{file}.npy"  # type: ignore[attr-defined]
        if len(kept) == len(array):
            array.flush()  # type: ignore[attr-defined]
            part.rename(target)
        else:
            dense = self._open(target.name, array.dtype, (len(kept), *array.shape[1:]))
            for start in range(0, len(kept), COPY_ROWS):
                dense[start : start + COPY_ROWS] = array[kept[start : start + COPY_ROWS]]
            dense.flush()  # type: ignore[attr-defined]
            part.unlink()
        sync_file(target)

    def _write_rows(self, kept: Array) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [self._order[place] for place in kept.tolist()]
        columns: dict[str, Any] = {}
        for name in RowLabels.__dataclass_fields__:
            values = getattr(self._labels, name)
            some = values.take(rows).column if isinstance(values, Texts) else pa.array([values[row] for row in rows])
            columns[name] = some.cast(pa.string())
        columns["note"] = pa.array([self._notes.get(place, "") for place in kept.tolist()], pa.string())
        path = self._folder / "rows.parquet"
        pq.write_table(pa.table(columns), path)
        sync_file(path)


def _file_name(column: str, models: dict[str, dict[str, str]]) -> str:
    """File of a column without its ending; model names may hold any character, their files are numbered."""
    for prefix in (EMBEDDING, PROBABILITY):
        if column.startswith(prefix):
            kind = prefix[:-1]
            models[kind][column[len(prefix) :]] = file = f"{kind}.{len(models[kind])}"
            return file
    if not re.fullmatch(r"[a-z]+", column):
        raise StoreError(f"column {column!r} is not known to the reference store")
    return column
