"""The record of a sweep: an append-only file of finished trials, one line each, with length and checksum.

A line is `<length> <crc32> <json>\\n`: length in bytes and crc32 (8 hex digits) of the JSON text. A torn last line, as a
kill in the middle of an append leaves it, is cut off on opening; damage anywhere else is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from raysweep.engine.record import TrialRecord
from raysweep.errors import StoreError

__all__ = ["Ledger", "read_ledger"]


def _encode(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return b"%d %08x %s\n" % (len(text), zlib.crc32(text), text)


def _decode(line: bytes) -> dict[str, Any] | None:
    """The content of one line (without its newline), or None when it is damaged."""
    parts = line.split(b" ", 2)
    if len(parts) != 3 or not parts[0].isdigit() or int(parts[0]) != len(parts[2]):
        return None
    if parts[1] != b"%08x" % zlib.crc32(parts[2]):
        return None
    content = json.loads(parts[2])
    return content if isinstance(content, dict) else None


def _scan(data: bytes, path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each intact record with the offset behind it; stops before a torn tail.

    Raises:
        StoreError: a record that is not the last one is damaged.
    """
    start = number = 0
    while start < len(data):
        number += 1
        end = data.find(b"\n", start)
        content = None if end < 0 else _decode(data[start:end])
        if content is None:
            if end < 0 or end == len(data) - 1:
                return
            raise StoreError(
                f"{path}: record {number} is damaged. Put the file back from a copy, or delete it to start the sweep afresh."
            )
        start = end + 1
        yield content, start


def read_ledger(path: Path) -> list[TrialRecord]:
    """All intact records of a ledger, without locking or repairing it."""
    return [TrialRecord.from_dict(content) for content, _ in _scan(path.read_bytes(), path)]


class Ledger:
    """Opened for one writer at a time; a context manager.

    Args:
        path: of the file; made when it does not exist.

    Raises:
        StoreError: another process writes to it, it cannot be opened, or an inner record is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, TrialRecord] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Ledger:
        try:
            self._file = open(self.path, "a+b")
        except OSError as error:
            raise StoreError(f"cannot write the ledger {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise StoreError(
                f"another process is running this sweep ({self.path} is locked): wait for it, or stop it first"
            ) from error
        self._file.seek(0)
        data = self._file.read()
        intact = 0
        for content, intact in _scan(data, self.path):  # noqa: B007 - the last offset is used below
            record = TrialRecord.from_dict(content)
            self.records.setdefault(record.key, record)
        if intact < len(data):
            self._file.truncate(intact)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, record: TrialRecord) -> bool:
        """Write one record and wait until it is on disk; False when its key is recorded already."""
        if self._file is None:
            raise StoreError(f"{self.path}: the ledger is not open")
        if record.key in self.records:
            return False
        try:
            self._file.write(_encode(record.to_dict()))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"cannot write the ledger {self.path}: {error.strerror}") from error
        self.records[record.key] = record
        return True
