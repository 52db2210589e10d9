"""Plain Parquet: one file or a folder of shards with the columns of `face_schema`, or at least `image` and `identity`.

Nothing in a Parquet file is ever executed: columns of extension types (pickled objects, tensors of another library) are
refused by looking at the footer's bytes, before pyarrow or a registered extension type sees them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.data.files import ADAPTER_VERSION, blank_row, files_digest, list_files
from raysweep.data.images import ENCODINGS, MAX_BYTES, sniff
from raysweep.errors import DataError
from raysweep.schema import EXPRESSIONS, face_schema

__all__ = ["ParquetFaces", "check_footer"]

ROWS_AT_ONCE = 256
EXPECTED = "expected the columns `image` (bytes of a JPEG, PNG...) and `identity`, or all of the face schema"

_BASE64 = re.compile(rb"[A-Za-z0-9+/=]{64,}")


def check_footer(path: Path, name: str) -> None:
    """Refuse a file that is no whole Parquet file, or carries extension types, without parsing it.

    Raises:
        DataError: with the file's name and what was found.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - 8, 0))
            tail = file.read()
            length = int.from_bytes(tail[:4], "little")
            if size < 12 or tail[4:] != b"PAR1" or length > size - 12:
                raise DataError(
                    f"{name}: not a whole Parquet file ({size} bytes; truncated, encrypted, or another format)"
                )
            file.seek(size - 8 - length)
            footer = file.read(length)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from error
    texts = [footer]
    for run in _BASE64.findall(footer):
        # The run may begin with a byte or two of the length that stands before it: try all alignments.
        for start in range(4):
            whole = run[start : start + (len(run) - start) // 4 * 4]
            texts.append(base64.b64decode(whole + b"=" * (-len(whole) % 4), validate=False))
    for text in texts:
        if b"ARROW:extension:name" in text:
            raise DataError(
                f"{name}: has a column of an Arrow extension type (pickled object or tensor), which is never loaded; "
                "write the images as plain bytes"
            )


class ParquetFaces:
    """Rows of Parquet files; the image may also be a struct with a field `bytes`, as Hugging Face writes it.

    Missing columns are null, `face_id` is then `<file>#<row>`, `encoding` is told by the bytes. A row without image
    bytes, or with more than `MAX_BYTES`, stays as an empty image with the attribute `problem`.

    Args:
        root: a `.parquet` file, or a folder with such files at any depth.

    Raises:
        DataError: no files, no rows, a wrong schema, a damaged file or row group (named).
    """

    kind = "parquet"
    licence = "not stated"
    synthetic = False

    def __init__(self, root: Path) -> None:
        root = root.resolve()
        self.files: tuple[str, ...]
        if root.is_file():
            self.folder, self.files, notes = root.parent, (root.name,), []
            self.name = root.stem
        else:
            listing = list_files(root, lambda name: name.lower().endswith(".parquet"))
            self.folder, self.files, notes = listing.root, listing.files, list(listing.notes)
            self.name = root.name
        if not self.files:
            raise DataError(f"{root}: no .parquet files; {EXPECTED}")
        self._length = 0
        for name in self.files:
            check_footer(self.folder / name, name)
            rows, extra = _check_schema(self.folder / name, name)
            self._length += rows
            if extra:
                notes.append(f"{name}: columns ignored: {', '.join(extra)}")
        if not self._length:
            raise DataError(f"{root}: no rows in {len(self.files)} Parquet file(s)")
        self.notes: tuple[str, ...] = tuple(notes)

    def __len__(self) -> int:
        return self._length

    def digest(self) -> str:
        """Changes when a file changes (see `files_digest`)."""
        return files_digest(self.folder, self.files, self.kind, ADAPTER_VERSION)

    def rows(self) -> Iterator[dict[str, object]]:
        """Rows in the order of the files, sorted by name.

        Raises:
            DataError: a row group cannot be read, or its values do not fit the schema.
        """
        for name in self.files:
            yield from _rows(self.folder / name, name)


def _check_schema(path: Path, name: str) -> tuple[int, list[str]]:
    """Number of rows, and columns that are not ours."""
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read as Parquet ({_one_line(error)})") from error
    problems = [f"no column {column!r}" for column in ("image", "identity") if column not in schema.names]
    if len(set(schema.names)) < len(schema.names):
        problems.append("two columns of the same name")
    for field in schema:
        if field.name == "image" and not (_is_bytes(field.type) or _bytes_field(field.type)):
            problems.append(f"image is {field.type}, not binary")
        elif field.name in ("identity", "expression") and not (_is_text(field.type) or pa.types.is_integer(field.type)):
            problems.append(f"{field.name} is {field.type}, not string or integer")
        elif field.name in ("face_id", "encoding", "attributes", "source") and not _is_text(field.type):
            problems.append(f"{field.name} is {field.type}, not string")
        elif field.name in ("height", "width") and not pa.types.is_integer(field.type):
            problems.append(f"{field.name} is {field.type}, not integer")
        elif field.name == "mask" and not (_is_bytes(field.type) or pa.types.is_null(field.type)):
            problems.append(f"mask is {field.type}, not binary")
        elif field.name in ("points", "landmarks") and not (_is_numbers(field.type) or pa.types.is_null(field.type)):
            problems.append(f"{field.name} is {field.type}, not a list of floats")
    if problems:
        raise DataError(f"{name}: wrong schema: {'; '.join(problems)}. Columns: {', '.join(schema.names)}; {EXPECTED}")
    return rows, [column for column in schema.names if column not in face_schema().names]


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_field(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _is_numbers(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _rows(path: Path, name: str) -> Iterator[dict[str, object]]:
    number = 0
    columns = list(face_schema().names)
    group = 0
    try:
        with pq.ParquetFile(path) as file:
            present = [column for column in columns if column in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group], columns=present):
                    for values in batch.to_pylist():
                        where = f"{name}, row group {group}, row {number}"
                        yield _row(values, f"{name}#{number}", where)
                        number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}, row group {group}: damaged ({_one_line(error)})") from error


def _row(values: dict[str, object], fallback: str, where: str) -> dict[str, object]:
    row = blank_row(str(values.get("face_id") or fallback), str(values.get("source") or fallback))
    if values.get("identity") is not None:
        row["identity"] = str(values["identity"])
    row["expression"] = _expression(values.get("expression"), where)
    problem = ""
    image = values.get("image")
    if isinstance(image, dict):
        image = image.get("bytes")
    if not isinstance(image, bytes):
        image, problem = b"", "empty: no image bytes"
    elif len(image) > MAX_BYTES:
        image, problem = b"", f"too_large: {len(image)} bytes, at most {MAX_BYTES} are read"
    row["image"] = image
    encoding = values.get("encoding")
    if encoding == "raw":
        row["height"], row["width"] = values.get("height") or 0, values.get("width") or 0
    elif encoding is not None and encoding not in ENCODINGS:
        raise DataError(f"{where}: encoding {str(encoding)[:40]!r}; allowed: {', '.join(ENCODINGS)}")
    else:
        row["encoding"] = sniff(image) or encoding or ("jpeg" if image else "raw")
    for column in ("points", "landmarks"):
        row[column] = _numbers(values.get(column), column, where)
    row["mask"] = values.get("mask")
    row["attributes"] = _attributes(values.get("attributes"), problem, where)
    return row


def _expression(value: object, where: str) -> str | None:
    if value is None or value in EXPRESSIONS:
        return None if value is None else str(value)
    if isinstance(value, int) and 0 <= value < len(EXPRESSIONS):
        return EXPRESSIONS[value]
    raise DataError(
        f"{where}: expression {str(value)[:40]!r}; allowed: {', '.join(EXPRESSIONS)}, their number, or null"
    )


def _numbers(value: object, column: str, where: str) -> list[float] | None:
    if value is None:
        return None
    numbers = np.asarray(value, dtype=np.float32)
    right = numbers.size == 10 if column == "points" else numbers.size > 0 and numbers.size % 2 == 0
    if not right or not np.isfinite(numbers).all():
        expected = "10 finite numbers" if column == "points" else "pairs of finite numbers"
        raise DataError(f"{where}: {column} has {numbers.size} numbers; expected {expected} (x, y, x, y...), or null")
    return [float(number) for number in numbers]


def _attributes(value: object, problem: str, where: str) -> str | None:
    facts: object = {}
    if isinstance(value, str) and value:
        try:
            facts = json.loads(value)
        except ValueError as error:
            raise DataError(f"{where}: attributes are not JSON ({error})") from error
    if not isinstance(facts, dict):
        raise DataError(f"{where}: attributes are not a JSON object")
    if problem:
        facts["problem"] = problem
    return json.dumps(facts, sort_keys=True) if facts else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
