"""One writer of a run folder at a time, by numbered leases: `lease/000003` belongs to the third process that wrote there.

A number is claimed by making its file, which only one process can do. The holder locks the file and writes to it every few seconds. A
newcomer takes the next number when the lock is free on the same machine (the holder is dead), when the holder has given it back, or when
nothing was written for `TIMEOUT_S` by the newcomer's own monotonic clock: no two clocks are ever compared. So it also works
where locks do not, only slower.

A process that was suspended, and finds on waking that there is a higher number than its own, has lost: `check` refuses, and what it writes
all the same is passed over by readers of the ledger.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from raysweep.engine.faults import fault_point
from raysweep.errors import StoreError
from raysweep.storage.files import sync_folder

__all__ = ["BEAT_S", "TIMEOUT_S", "Lease", "LeaseLostError", "store_problems"]

BEAT_S = 2.0
"""Between two signs of life."""
TIMEOUT_S = 30.0
"""Without a sign of life a holder counts as dead or suspended: many beats, so that a machine that swaps is not mistaken for it."""
LOOK_S = 0.25
HELD = (errno.EWOULDBLOCK, errno.EACCES)
BYTES = 256


class LeaseLostError(StoreError):
    """Another process has taken over the run folder: this one must write nothing more."""


class Lease:
    """The right to write to a run folder.

    Args:
        folder: of the numbered files; made when it does not exist.
        timeout_s: see `TIMEOUT_S`.
        tell: called with one line when the newcomer has to wait.
    """

    def __init__(
        self, folder: Path, *, timeout_s: float | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        self.folder = folder
        self.number = 0
        self._timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        self._tell = tell or (lambda line: None)
        self._handle = -1
        self._beats = 0
        self._locks = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, after: int = 0) -> None:
        """Take the next number.

        Args:
            after: the highest number known from elsewhere: the folder may have been left behind when a run was copied.

        Raises:
            StoreError: another process is alive and writes, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            newest = _newest(self.folder)
            if newest:
                self._wait_until_free(newest)
            self._claim(max(newest, after) + 1)
        except FileExistsError as error:
            raise self._busy() from error
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"cannot write {self.folder}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._beat_on, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that this process still holds the newest number; two looks at the folder, no reading.

        Raises:
            LeaseLostError: another process took over, or the folder has gone.
        """
        if self._handle < 0:
            raise LeaseLostError(f"{self.folder}: no lease is held")
        if not self._path(self.number).exists():
            gone = not self.folder.exists()
            raise LeaseLostError(
                f"{self.folder.parent}: the run folder has vanished while the sweep was writing to it; the same command starts it again"
                if gone
                else self._lost()
            )
        if self._path(self.number + 1).exists():
            raise LeaseLostError(self._lost())

    def release(self) -> None:
        """Give the number back, so that the next process need not wait. Does nothing when none is held."""
        if self._handle < 0:
            return
        fault_point("lease.before_release")
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._write(released=True)
        except OSError:
            # A full disk or a vanished folder: the next process then finds the lock free, or waits for the time-out.
            self._tell(f"{self.folder}: the lease could not be given back")
        finally:
            os.close(self._handle)
            self._handle = -1

    # ---------------------------------------------------------------- inside
    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def _claim(self, number: int) -> None:
        fault_point("lease.before_claim")
        path = self._path(number)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Tried, not believed: some stores grant a lock to everybody.
            self._locks = _lock(handle) is True and _is_unlocked(path) is False
            self._handle, self.number = handle, number
            self._write()
            sync_folder(self.folder)
            fault_point("lease.after_claim")
            # Between looking and making, somebody may have claimed this number, a higher one after it, and removed the first.
            if _newest(self.folder) != number:
                raise self._busy()
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(handle)
            self._handle = -1
            raise
        for old in _numbers(self.folder):
            if old < number:
                self._path(old).unlink(missing_ok=True)

    def _wait_until_free(self, newest: int) -> None:
        path = self._path(newest)
        seen = _read(path)
        if seen.get("released"):
            return
        if seen.get("locks") and seen.get("host") == _host():
            unlocked = _is_unlocked(path)
            if unlocked:
                return
            if unlocked is False and _runs(seen.get("pid")):
                raise self._busy(seen.get("pid"))
        self._tell(
            f"another process holds {self.folder.parent.name}: watching for {self._timeout_s:.0f} s whether it is alive"
        )
        started, pause = time.monotonic(), threading.Event()
        while time.monotonic() - started < self._timeout_s:
            pause.wait(min(LOOK_S, self._timeout_s))
            if _newest(self.folder) != newest:
                raise self._busy()
            now = _read(path)
            if now.get("released"):
                return
            if now != seen:
                raise self._busy(now.get("pid"))

    def _busy(self, pid: object = None) -> StoreError:
        who = f" (process {pid})" if isinstance(pid, int) else ""
        return StoreError(
            f"another process{who} is running this sweep in {self.folder.parent}: wait for it, or stop it first"
        )

    def _lost(self) -> str:
        return (
            f"{self.folder.parent}: another process has taken this sweep over while this one stood still; "
            "nothing more is written here. Let the other one finish"
        )

    def _beat_on(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._write()
            except OSError as error:
                # The next append meets the same disk and says so; a beat alone ends no sweep.
                self._tell(f"{self.folder}: no sign of life could be written ({error.strerror})")

    def _write(self, *, released: bool = False) -> None:
        self._beats += 1
        content = {
            "beat": self._beats,
            "host": _host(),
            "pid": os.getpid(),
            "locks": self._locks,
            "released": released,
        }
        os.pwrite(self._handle, json.dumps(content).encode().ljust(BYTES - 1) + b"\n", 0)
        os.fsync(self._handle)


def _numbers(folder: Path) -> list[int]:
    return [int(name) for name in os.listdir(folder) if name.isascii() and name.isdecimal()]


def _newest(folder: Path) -> int:
    return max(_numbers(folder), default=0)


def _read(path: Path) -> dict[str, object]:
    """What the holder wrote last; empty when it wrote nothing (yet)."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _lock(handle: int) -> bool | None:
    """True: locked. False: another process holds it. None: there are no locks in this place."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in HELD else None
    return True


def _is_unlocked(path: Path) -> bool | None:
    """Whether nobody holds the lock; None where that cannot be known."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _lock(handle)
    finally:
        os.close(handle)


def _runs(pid: object) -> bool:
    """Whether a process of this machine runs and is not suspended; False also when that cannot be known."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("T", "t", "Z", "X")


def _host() -> str:
    """This machine since it was started, told apart from others without naming it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        boot = ""
    return hashlib.sha256(f"{platform.node()}\0{boot}".encode()).hexdigest()[:16]


def store_problems(folder: Path) -> tuple[list[str], list[str]]:
    """Try whether a place keeps what the ledger builds on.

    Args:
        folder: an existing folder that may be written; a temporary one is made in it and removed.

    Returns:
        What is wrong (runs must not be kept there), and what is worth knowing.
    """
    wrong: list[str] = []
    notes: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix=".raysweep-check-", dir=folder) as name:
            place = Path(name)
            _try_exclusive(place, wrong)
            _try_replace(place, wrong)
            _try_append(place, wrong)
            _try_lock(place, notes)
            sync_folder(place)
    except OSError as error:
        wrong.append(f"cannot be written ({error.strerror})")
    return wrong, notes


def _try_exclusive(place: Path, wrong: list[str]) -> None:
    one = place / "000001"
    os.close(os.open(one, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    if one.name not in os.listdir(place):
        wrong.append("a new file is not visible at once")
    try:
        os.close(os.open(one, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    wrong.append("two processes can make the same file, so that two could run one sweep")


def _try_replace(place: Path, wrong: list[str]) -> None:
    old, new = place / "old", place / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    try:
        os.replace(new, old)
    except OSError as error:
        wrong.append(f"a file cannot replace another ({error.strerror})")
        return
    if old.read_bytes() != b"new" or new.exists():
        wrong.append("a file that replaced another is not seen at once")


def _try_append(place: Path, wrong: list[str]) -> None:
    path = place / "ledger"
    handles = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for _ in range(2)]
    try:
        for handle, text in zip((*handles, handles[0]), (b"a\n", b"b\n", b"c\n"), strict=True):
            os.write(handle, text)
            os.fsync(handle)
    finally:
        for handle in handles:
            os.close(handle)
    if path.read_bytes() != b"a\nb\nc\n":
        wrong.append("what two processes append overwrites each other")


def _try_lock(place: Path, notes: list[str]) -> None:
    path = place / "lock"
    path.touch()
    holder = os.open(path, os.O_RDWR)
    try:
        if not _lock(holder):
            notes.append(f"no locks: after a crash the next process waits {TIMEOUT_S:.0f} s before it goes on")
        elif _is_unlocked(path):
            notes.append(
                "locks lock nothing: a run that is used from two machines at once is told apart by signs of life only"
            )
    finally:
        os.close(holder)
