"""The record of a sweep: an append-only file of finished trials, one line each, with length and checksum.

A line is `<length> <crc32> <json>\\n`: length in bytes and crc32 (8 hex digits) of the JSON text. A torn last line, as a
kill in the middle of an append leaves it, is cut off on opening; damage anywhere else is refused.

Each process that appends first writes a line with the format and the number of its lease (`raysweep.engine.lease`), and every record
carries that number. A record with a lower number than one before it comes from a process that had lost its lease: it does not count.
Ledgers of format 1 have neither; they are read, and continued in format 2.

A run whose place is an object store has its ledger on both sides (`Copy`): a record is on this machine's disk first and in the store before
`append` returns. Where the store does not answer, the sweep goes on and sends later. What the store has is what counts: lines that only
this machine has, behind which another one has gone on, are set aside.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from raysweep.engine.faults import fault_point
from raysweep.engine.interrupts import StopNow
from raysweep.engine.lease import Lease, LeaseLostError, Slots
from raysweep.engine.record import TrialRecord
from raysweep.errors import StoreError
from raysweep.storage.files import write_whole

__all__ = ["FORMAT", "Copy", "Ledger", "read_ledger"]

FORMAT = 2
_FORMAT_KEY, _LEASE_KEY = "ledger_format", "lease"


def _encode(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return b"%d %08x %s\n" % (len(text), zlib.crc32(text), text)


def _decode(line: bytes) -> dict[str, Any] | None:
    """The content of one line (without its newline), or None when it is damaged."""
    parts = line.split(b" ", 2)
    # The very digits that `_encode` writes: int() would also take a sign, blanks or another number of zeros.
    if len(parts) != 3 or parts[0] != b"%d" % len(parts[2]) or parts[1] != b"%08x" % zlib.crc32(parts[2]):
        return None
    content = json.loads(parts[2])
    return content if isinstance(content, dict) else None


def _scan(data: bytes, path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each intact line with the offset behind it; stops before a torn tail.

    Raises:
        StoreError: a line that is not the last one is damaged.
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


class _Reading:
    """What counts of the lines of a ledger, in their order.

    Attributes:
        records: the first of each key, without those of processes that had lost their lease.
        lease: the highest number seen.
        passed_over: how many lines did not count.
    """

    def __init__(self, path: Path) -> None:
        self.records: dict[str, TrialRecord] = {}
        self.lease = 0
        self.passed_over = 0
        self._path = path

    def take(self, content: dict[str, Any]) -> None:
        """One line.

        Raises:
            StoreError: a later raysweep wrote it, or it is no record of a trial.
        """
        found = content.get(_FORMAT_KEY, FORMAT)
        if not isinstance(found, int) or found > FORMAT:
            raise StoreError(
                f"{self._path}: written in format {found} by a later raysweep, this one reads up to {FORMAT}. "
                "Update raysweep, or start a new run with --fresh"
            )
        lease = int(content.pop(_LEASE_KEY, 0))
        if lease < self.lease:
            self.passed_over += 1
            return
        self.lease = lease
        if _FORMAT_KEY in content:
            return
        try:
            record = TrialRecord.from_dict(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"{self._path}: an intact line is no record of a trial ({type(error).__name__}: {error}). Another "
                "version of raysweep wrote it: use that one, or start a new run with --fresh"
            ) from error
        if record.key in self.records:
            self.passed_over += 1
        else:
            self.records[record.key] = record


def _read(path: Path) -> tuple[_Reading, int, int]:
    """What counts, the offset behind the last intact line, and the size of the file."""
    return _take_all(path.read_bytes(), path)


def _take_all(data: bytes, path: Path) -> tuple[_Reading, int, int]:
    reading, intact = _Reading(path), 0
    for content, end in _scan(data, path):
        reading.take(content)
        intact = end
    return reading, intact, len(data)


def read_ledger(path: Path) -> list[TrialRecord]:
    """All records that count, without locking or repairing the file.

    Raises:
        StoreError: it is damaged, or of a later format.
    """
    return list(_read(path)[0].records.values())


class Copy(Protocol):
    """The other side of a run folder, `raysweep.storage.copy.RunCopy`; errors are `StoreError`."""

    @property
    def url(self) -> str: ...  # noqa: D102
    def slots(self) -> Slots: ...  # noqa: D102
    def read_ledger(self) -> bytes: ...  # noqa: D102
    def append(self, lines: bytes) -> str: ...  # noqa: D102
    def settle_files(self, *, ours: bool) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Ledger:
    """Opened for one writer at a time; a context manager.

    Args:
        path: of the file; made when it does not exist. Its lease is kept beside it, in `<name without ending>.lease`.
        timeout_s: see `raysweep.engine.lease.TIMEOUT_S`.
        tell: called with one line when there is something to wait for, or something is amiss that stops nothing.
        copy: the other side of the run folder; None where the folder is all there is.

    Raises:
        StoreError: another process writes to it, it cannot be opened, or an inner record is damaged.

    Attributes:
        records: by key, in the order of the file.
        passed_over: lines that do not count (a process wrote them after it had lost its lease).
    """

    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float | None = None,
        tell: Callable[[str], None] | None = None,
        copy: Copy | None = None,
    ) -> None:
        self.path = path
        self.records: dict[str, TrialRecord] = {}
        self.passed_over = 0
        self.lease = Lease(path.with_suffix(".lease"), timeout_s=timeout_s, tell=tell)
        self._tell = tell or (lambda line: None)
        self._copy = copy
        self._far_lease = None if copy is None else Lease(copy.slots(), timeout_s=timeout_s, tell=tell)
        self._away = False
        self._handle = -1
        self._size = 0
        self._opened = False

    def __enter__(self) -> Ledger:
        try:
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot write the ledger {self.path}: {error.strerror}") from error
        try:
            self.lease.acquire(after=_read(self.path)[0].lease)
            if self._copy is not None and self._far_lease is not None:
                there = self._copy.read_ledger()
                self._far_lease.acquire(after=max(self.lease.number - 1, _take_all(there, self.path)[0].lease))
                self._join(self._copy)
            self._read()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Not after whoever took over has written there, and not when the user wants to leave at once.
            if self._copy is not None and not isinstance(error, LeaseLostError | StopNow):
                self._copy.close()
        except FileExistsError as problem:
            if error is None:
                raise LeaseLostError((self._far_lease or self.lease).lost()) from problem
        except StoreError as problem:
            if error is None:
                raise
            self._tell(str(problem))
        finally:
            self._close()

    @property
    def number(self) -> int:
        """Of the lease that records carry: the one held in the object store, where there is one."""
        return self.lease.number if self._far_lease is None else self._far_lease.number

    def check(self) -> None:
        """Make sure that this process may still write.

        Raises:
            LeaseLostError: another process has taken over.
        """
        self.lease.check()
        if self._far_lease is not None:
            try:
                self._far_lease.check()
            except LeaseLostError:
                raise
            except StoreError as error:
                self._note_away(str(error))  # the store itself decides when the next piece is sent

    def append(self, record: TrialRecord) -> bool:
        """Write one record and wait until it is on disk; False when its key is recorded already.

        Raises:
            LeaseLostError: another process has taken over.
            StoreError: it cannot be written; nothing of it is left in the file.
        """
        if self._handle < 0:
            raise StoreError(f"{self.path}: the ledger is not open")
        if record.key in self.records:
            return False
        fault_point("ledger.before_append")
        self.check()
        line = _encode({**record.to_dict(), _LEASE_KEY: self.number})
        lines = line
        if not self._opened:
            # Only now: a run that has nothing to add leaves the file as it is. The holder before us may have added a line meanwhile.
            if os.fstat(self._handle).st_size != self._size:
                self._read()
                if record.key in self.records:
                    return False
            opening = _encode({_FORMAT_KEY: FORMAT, _LEASE_KEY: self.number})
            if self._copy is not None:
                self._open_far(self._copy, opening)
                if record.key in self.records:
                    return False
            lines = opening + line
        self._write(lines)
        self._opened = True
        self.records[record.key] = record
        if self._copy is not None:
            self._send(self._copy, line)
        return True

    # ---------------------------------------------------------------- inside
    def _read(self) -> None:
        """Take in what is there, and cut off a torn tail."""
        try:
            reading, intact, size = _read(self.path)
            if intact < size:
                os.ftruncate(self._handle, intact)
        except OSError as error:
            raise StoreError(f"cannot read the ledger {self.path}: {error.strerror}") from error
        self.records, self.passed_over, self._size = reading.records, reading.passed_over, intact

    def _join(self, copy: Copy) -> None:
        """Bring this side and the store's to the same; the lease of both is held, nobody else writes.

        Raises:
            StoreError: the store does not answer, or the file cannot be written.
        """
        there = copy.read_ledger()
        try:
            here = self.path.read_bytes()
            here = here[: _take_all(here, self.path)[1]]
            ours = here.startswith(there)
            if not ours and not there.startswith(here):
                aside = self.path.with_name(f"{self.path.stem}.before-{self.number}{self.path.suffix}")
                write_whole(aside, here, private=True)
                self._tell(
                    f"another machine has gone on with this sweep: what only this one had recorded is set aside in {aside.name}"
                )
            if not ours:
                os.ftruncate(self._handle, 0)
                self._write(there, known=0)
        except OSError as error:
            raise StoreError(f"cannot write the ledger {self.path}: {error.strerror}") from error
        copy.settle_files(ours=ours)
        if ours and len(here) > len(there):
            self._send(copy, here[len(there) :])

    def _open_far(self, copy: Copy, opening: bytes) -> None:
        """Put this process's first line into the store. A piece that the holder before us sent after we had read them all counts."""
        while True:
            try:
                self._send(copy, opening)
                return
            except LeaseLostError:
                if _take_all(copy.read_ledger(), self.path)[0].lease >= self.number:
                    raise
            self._join(copy)
            self._read()

    def _send(self, copy: Copy, lines: bytes) -> None:
        try:
            problem = copy.append(lines)
        except FileExistsError as error:
            raise LeaseLostError((self._far_lease or self.lease).lost()) from error
        if problem:
            self._note_away(problem)
        else:
            self._away = False

    def _note_away(self, problem: str) -> None:
        """Say once that the store does not answer."""
        if not self._away:
            self._tell(f"{problem}; the sweep goes on, its results are kept here and sent when the store answers")
        self._away = True

    def _write(self, lines: bytes, known: int | None = None) -> None:
        """All of the bytes in one append, forced to disk; on failure the file is cut back to what it was."""
        if known is not None:
            self._size = known
        try:
            written = 0
            while written < len(lines):  # once, unless the disk fills up within a line: the next round then says why
                written += os.write(self._handle, lines[written:])
            fault_point("ledger.after_write")
            os.fsync(self._handle)
            fault_point("ledger.after_fsync")
        except OSError as error:
            try:
                self.lease.check()
                os.ftruncate(self._handle, self._size)
            except (OSError, StoreError):
                self._close()  # the torn line stays, and is cut off when the ledger is opened again
            raise StoreError(
                f"cannot write the ledger {self.path}: {error.strerror} ({len(lines)} bytes were to be added). "
                "Mend the disk; the same command then goes on"
            ) from error
        self._size += len(lines)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        if self._far_lease is not None:
            self._far_lease.release()
        self.lease.release()
