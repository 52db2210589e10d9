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
import shutil
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raysweep.engine.faults import fault_point
from raysweep.errors import StoreError
from raysweep.storage.files import sync_folder

__all__ = [
    "BEAT_S",
    "TIMEOUT_S",
    "FileSlots",
    "Lease",
    "LeaseLostError",
    "Slots",
    "is_held_here",
    "refuse_bad_folder",
    "store_problems",
]

BEAT_S = 2.0
"""Between two signs of life."""
TIMEOUT_S = 30.0
"""Without a sign of life a holder counts as dead or suspended: many beats, so that a machine that swaps is not mistaken for it."""
LOOK_S = 0.25
HELD = (errno.EWOULDBLOCK, errno.EACCES)
BYTES = 256
CLOCK_S = 60.0
FULL_BYTES, TIGHT_BYTES = 16 << 20, 1 << 30
"""A sweep without generators writes some hundred kB a trial."""


class LeaseLostError(StoreError):
    """Another process has taken over the run folder: this one must write nothing more."""


class Slots(ABC):
    """A place of numbers, each of which one process can claim; the holder of the newest is the writer.

    Attributes:
        name: of what is written to, for messages.
        beat_s: between two signs of life.
        timeout_s: without a sign of life for so long a holder counts as dead or suspended.
        look_s: between two looks at a holder.
    """

    name: str
    beat_s: float
    timeout_s: float
    look_s: float

    @abstractmethod
    def open(self) -> None:
        """Make the place."""

    @abstractmethod
    def numbers(self) -> list[int]:
        """All that are claimed, in any order."""

    @abstractmethod
    def claim(self, number: int, content: Mapping[str, Any]) -> None:
        """Make a number this process's own.

        Raises:
            FileExistsError: another process has it.
        """

    @abstractmethod
    def write(self, content: Mapping[str, Any]) -> None:
        """Replace what stands under the claimed number."""

    @abstractmethod
    def read(self, number: int) -> dict[str, Any]:
        """What its holder wrote last; empty when it wrote nothing (yet)."""

    @abstractmethod
    def exists(self, number: int) -> bool:
        """Whether a number is claimed."""

    @abstractmethod
    def remove(self, number: int) -> None:
        """Forget a number, if it is there."""

    @abstractmethod
    def vanished(self) -> bool:
        """Whether the place itself has gone."""

    @abstractmethod
    def holder_lives(self, number: int, seen: Mapping[str, Any]) -> bool | None:
        """Whether the holder of a number is alive, as far as that can be known without watching it; None when it cannot."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the claimed number; it stays claimed."""


class FileSlots(Slots):
    """Numbers as files of a folder. The holder locks its file, where there are locks.

    Args:
        folder: made when it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder.parent)
        self.beat_s, self.timeout_s, self.look_s = BEAT_S, TIMEOUT_S, LOOK_S
        self._handle = -1
        self._locks = False

    def open(self) -> None:
        """See `Slots`."""
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def numbers(self) -> list[int]:
        """See `Slots`."""
        return _numbers(self.folder)

    def claim(self, number: int, content: Mapping[str, Any]) -> None:
        """See `Slots`."""
        path = self._path(number)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Tried, not believed: some stores grant a lock to everybody.
            self._locks = _lock(handle) is True and _is_unlocked(path) is False
            self._handle = handle
            self.write(content)
            sync_folder(self.folder)
        except BaseException:
            path.unlink(missing_ok=True)
            self.close()
            raise

    def write(self, content: Mapping[str, Any]) -> None:
        """See `Slots`."""
        data = json.dumps({**content, "host": _host(), "pid": os.getpid(), "locks": self._locks}).encode()
        os.pwrite(self._handle, data.ljust(BYTES - 1) + b"\n", 0)
        os.fsync(self._handle)

    def read(self, number: int) -> dict[str, Any]:
        """See `Slots`."""
        try:
            content = json.loads(self._path(number).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def exists(self, number: int) -> bool:
        """See `Slots`."""
        return self._path(number).exists()

    def remove(self, number: int) -> None:
        """See `Slots`."""
        self._path(number).unlink(missing_ok=True)

    def vanished(self) -> bool:
        """See `Slots`."""
        return not self.folder.exists()

    def holder_lives(self, number: int, seen: Mapping[str, Any]) -> bool | None:
        """See `Slots`: on the same machine the lock tells."""
        if not seen.get("locks") or seen.get("host") != _host():
            return None
        unlocked = _is_unlocked(self._path(number))
        if unlocked:
            return False
        return True if unlocked is False and _runs(seen.get("pid")) else None

    def close(self) -> None:
        """See `Slots`."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"


class Lease:
    """The right to write to a run folder.

    Args:
        place: the folder of the numbered files, made when it does not exist; or other `Slots`.
        timeout_s: see `TIMEOUT_S`; None for that of the place.
        tell: called with one line when the newcomer has to wait.

    Attributes:
        number: what is held, or was held last.
    """

    def __init__(
        self, place: Path | Slots, *, timeout_s: float | None = None, tell: Callable[[str], None] | None = None
    ) -> None:
        self._slots = place if isinstance(place, Slots) else FileSlots(place)
        self.number = 0
        self._timeout_s = self._slots.timeout_s if timeout_s is None else timeout_s
        self._tell = tell or (lambda line: None)
        self._held = False
        self._beats = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, after: int = 0) -> None:
        """Take the next number.

        Args:
            after: the highest number known from elsewhere: the folder may have been left behind when a run was copied.

        Raises:
            StoreError: another process is alive and writes, or the place cannot be written.
        """
        try:
            self._slots.open()
            newest = self._newest()
            if newest:
                self._wait_until_free(newest)
            self._claim(max(newest, after) + 1)
        except FileExistsError as error:
            raise self._busy() from error
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(f"cannot write the lease of {self._slots.name}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._beat_on, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that this process still holds the newest number; two looks at the place, no reading.

        Raises:
            LeaseLostError: another process took over, or the folder has gone.
            StoreError: nobody knows.
        """
        if not self._held:
            raise LeaseLostError(f"{self._slots.name}: no lease is held")
        if not self._slots.exists(self.number):
            raise LeaseLostError(
                f"{self._slots.name}: the run folder has vanished while the sweep was writing to it; the same command starts it again"
                if self._slots.vanished()
                else self.lost()
            )
        if self._slots.exists(self.number + 1):
            raise LeaseLostError(self.lost())

    def lost(self) -> str:
        """What is said when another process has taken over."""
        return (
            f"{self._slots.name}: another process has taken this sweep over while this one stood still; "
            "nothing more is written here. Let the other one finish"
        )

    def release(self) -> None:
        """Give the number back, so that the next process need not wait. Does nothing when none is held."""
        if not self._held:
            return
        fault_point("lease.before_release")
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._write(released=True)
        except (OSError, StoreError):
            # A full disk or a vanished folder: the next process then finds the lock free, or waits for the time-out.
            self._tell(f"{self._slots.name}: the lease could not be given back")
        finally:
            self._held = False
            self._slots.close()

    # ---------------------------------------------------------------- inside
    def _newest(self) -> int:
        return max(self._slots.numbers(), default=0)

    def _claim(self, number: int) -> None:
        fault_point("lease.before_claim")
        self._slots.claim(number, self._content())
        try:
            self._held, self.number = True, number
            fault_point("lease.after_claim")
            # Between looking and making, somebody may have claimed this number, a higher one after it, and removed the first.
            if self._newest() != number:
                raise self._busy()
        except BaseException:
            self._held = False
            self._slots.remove(number)
            self._slots.close()
            raise
        for old in self._slots.numbers():
            if old < number:
                self._slots.remove(old)

    def _wait_until_free(self, newest: int) -> None:
        seen = self._slots.read(newest)
        if seen.get("released"):
            return
        lives = self._slots.holder_lives(newest, seen)
        if lives is False:
            return
        if lives:
            raise self._busy(seen.get("pid"))
        self._tell(
            f"another process holds {Path(self._slots.name).name}: watching for {self._timeout_s:.0f} s whether it is alive"
        )
        started, pause = time.monotonic(), threading.Event()
        while time.monotonic() - started < self._timeout_s:
            pause.wait(min(self._slots.look_s, self._timeout_s))
            if self._newest() != newest:
                raise self._busy()
            now = self._slots.read(newest)
            if now.get("released"):
                return
            if now != seen:
                raise self._busy(now.get("pid"))

    def _busy(self, pid: object = None) -> StoreError:
        who = f" (process {pid})" if isinstance(pid, int) else ""
        return StoreError(
            f"another process{who} is running this sweep in {self._slots.name}: wait for it, or stop it first"
        )

    def _beat_on(self) -> None:
        failing = False
        while not self._stop.wait(self._slots.beat_s):
            try:
                if self._slots.exists(self.number + 1):
                    return  # lost: a sign of life would bring the old number back
                self._write()
                failing = False
            except (OSError, StoreError) as error:
                # The next append meets the same disk and says so; a beat alone ends no sweep.
                if not failing:
                    reason = error.strerror if isinstance(error, OSError) else str(error)
                    self._tell(f"{self._slots.name}: no sign of life could be written ({reason})")
                failing = True

    def _write(self, *, released: bool = False) -> None:
        self._slots.write(self._content(released=released))

    def _content(self, *, released: bool = False) -> dict[str, Any]:
        self._beats += 1
        return {"beat": self._beats, "released": released}


def is_held_here(folder: Path) -> bool:
    """Whether a process of this machine that is alive holds the newest number of a folder; False also when that cannot be known."""
    slots = FileSlots(folder)
    try:
        newest = max(slots.numbers(), default=0)
        return bool(newest) and slots.holder_lives(newest, slots.read(newest)) is True
    except OSError:
        return False


def _numbers(folder: Path) -> list[int]:
    return [int(name) for name in os.listdir(folder) if name.isascii() and name.isdecimal()]


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
            _look_at_clock(place, notes)
    except OSError as error:
        wrong.append(f"cannot be written ({error.strerror})")
    free = shutil.disk_usage(folder).free
    if free < FULL_BYTES:
        wrong.append(f"only {free >> 20} MB are free")
    elif free < TIGHT_BYTES:
        notes.append(f"{free >> 20} MB free: a sweep with generators may need more")
    return wrong, notes


def refuse_bad_folder(folder: Path) -> None:
    """Before a sweep begins.

    Args:
        folder: of runs, or where it will be made.

    Raises:
        StoreError: names what the place does not keep, and what to do.
    """
    existing = folder.absolute()
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    wrong, _ = store_problems(existing)
    if wrong:
        raise StoreError(
            f"runs cannot be kept in {folder}: {'; '.join(wrong)}. Name another place with --runs; `python -m raysweep doctor` tries a place"
        )


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


def _look_at_clock(place: Path, notes: list[str]) -> None:
    path = place / "clock"
    path.touch()
    ahead = path.stat().st_mtime - time.time()
    if abs(ahead) > CLOCK_S:
        notes.append(
            f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's: set the clock, or runs are sorted wrongly"
        )


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
