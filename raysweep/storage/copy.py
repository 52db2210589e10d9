"""The other side of a run folder, in an object store: its ledger, its lease, its files.

| object | content |
|--------|---------|
| ledger/00000001, ... | the ledger in pieces, in order; each was created by one process, none is ever changed |
| lease/000001, ... | as the files of `raysweep.engine.lease`; the holder's sign of life |
| everything else | the files of the run folder, under their names |

A piece is made only where there is none of that number (`Objects.create`), by a process that has read all before it. So two processes
never both append: the second is told by the store itself, whatever clocks, networks or suspended machines do. The files that a record speaks
of (`scores`, `states`) are sent before the piece that holds it.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raysweep.engine.lease import Slots
from raysweep.errors import StoreError
from raysweep.storage.files import write_whole
from raysweep.storage.objects import Found, Objects, UnreachableError

__all__ = ["ObjectSlots", "RunCopy"]

BEAT_S, TIMEOUT_S, LOOK_S = 5.0, 60.0, 2.0
"""As in `raysweep.engine.lease`, slower: each sign of life is paid for, and networks pause longer than disks."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""After a store did not answer, appends go on without it for so long before it is asked again."""
AT_ONCE = 16
"""Requests at a time."""
LEDGER = "ledger.jsonl"
OWN = ("ledger", "lease")
"""Folders of objects that are no files of the run folder."""
PASSED_OVER = ("tune",)
"""Folders of the run folder that nobody needs elsewhere."""


class RunCopy:
    """What an object store keeps of a run folder.

    Args:
        folder: of this machine.
        objects: those of the run.
    """

    def __init__(self, folder: Path, objects: Objects) -> None:
        self.folder, self.url = folder, objects.url
        self._objects, self._pieces = objects, objects.at("ledger")
        self._count = 0
        self._unsent = b""
        self._sent: dict[str, tuple[int, int]] = {}
        self._pause_s, self._again_at = FIRST_PAUSE_S, 0.0

    def slots(self) -> ObjectSlots:
        """For a lease that is held in the store."""
        return ObjectSlots(self._objects.at("lease"), self.url)

    # ---------------------------------------------------------------- the ledger
    def read_ledger(self) -> bytes:
        """All pieces, one after the other; appends go on behind them.

        Raises:
            StoreError: the store does not answer, or a piece is missing.
        """
        found = self._pieces.find()
        numbers = [int(item.key) if item.key.isdecimal() else -1 for item in found]
        if numbers != list(range(1, len(found) + 1)):
            raise StoreError(
                f"{self._pieces.url}: pieces of the ledger are missing or do not belong there; put them back, or start a new run with --fresh"
            )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pieces = list(pool.map(self._pieces.read, [item.key for item in found]))
        self._count = len(found)
        return b"".join(piece or b"" for piece in pieces)

    def append(self, lines: bytes) -> str:
        """Send lines of the ledger, and before them the files that changed; what did not get through goes first.

        Returns:
            Empty, or why it did not get through this time: the store does not answer. The lines are kept.

        Raises:
            FileExistsError: another process has appended meanwhile; the lines are given up.
            StoreError: the store refuses.
        """
        self._unsent += lines
        if time.monotonic() < self._again_at:
            return ""
        try:
            self._send()
        except UnreachableError as error:
            self._again_at = time.monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return str(error)
        self._pause_s = FIRST_PAUSE_S
        return ""

    def close(self) -> None:
        """Send what is left, the last changes of all files too.

        Raises:
            FileExistsError: as `append`.
            StoreError: it cannot be sent; the run folder has it all, and the next process that goes on with it sends it.
        """
        try:
            self._send()
        except UnreachableError as error:
            raise StoreError(
                f"not everything is in {self.url} ({error}). Nothing is lost: it lies in {self.folder}, and the same command on this "
                "machine sends it"
            ) from error

    def _send(self) -> None:
        self.send_files()
        while self._unsent:
            # Until the store has answered nobody knows whether it has them: they stay what is to be sent.
            name = f"{self._count + 1:08d}"
            sent = len(self._unsent)
            if not self._pieces.create(name, self._unsent):
                there = self._pieces.read(name) or b""
                if not there or not self._unsent.startswith(there):
                    self._unsent = b""
                    raise FileExistsError(f"{self.url}: another process has appended to the ledger")
                sent = len(there)  # ours, of a request whose answer was lost
            self._count += 1
            self._unsent = self._unsent[sent:]

    # ---------------------------------------------------------------- files
    def send_files(self) -> None:
        """Send every file that is new or has changed since it was sent or fetched, and remove what was removed here.

        Raises:
            StoreError: the store does not answer, or refuses.
        """
        now = self._files()
        for name in sorted(now):
            if self._sent.get(name) != now[name]:
                path = self.folder / name
                try:
                    self._objects.write(name, path)
                except FileNotFoundError:
                    if path.exists():
                        raise
                    continue  # removed since it was listed
                self._sent[name] = now[name]
        for name in sorted(set(self._sent) - set(now)):
            self._objects.delete(name)
            del self._sent[name]

    def settle_files(self, *, ours: bool) -> None:
        """Make both sides equal before a sweep goes on.

        Args:
            ours: what lies here is as new as what lies there, or newer: it stays, and what is only there is fetched. Otherwise what lies
                there replaces what lies here.

        Raises:
            StoreError: the store does not answer, or the folder cannot be written.
        """
        here, there = self._files(), {item.key: item for item in self._there()}
        wanted = [item for name, item in there.items() if name not in here or (not ours and not self._is_same(item))]
        self._fetch(wanted)
        now = self._files()
        # Files that are on both sides and of one size were sent by a process that was ended before it could note so.
        self._sent = {
            name: now[name] for name in there if name in now and (not ours or there[name].size == now[name][0])
        }

    def fetch_all(self) -> None:
        """Everything that is not here, or is here in another size; files that only lie here stay.

        Raises:
            StoreError: the store does not answer, or the folder cannot be written.
        """
        self._fetch([item for item in self._there() if not self._is_same(item)])
        self.fetch_ledger()

    def fetch_ledger(self) -> None:
        """Write the ledger of the store into the run folder, unless the one there goes on where that ends.

        Raises:
            StoreError: the store does not answer, or the folder cannot be written.
        """
        path = self.folder / LEDGER
        try:
            here = path.read_bytes() if path.is_file() else b""
            if sum(item.size for item in self._pieces.find()) == len(here):
                return
            there = self.read_ledger()
            if not here.startswith(there):
                write_whole(path, there, private=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written ({error.strerror})") from error

    def _there(self) -> list[Found]:
        """Objects that are files of the run folder; names that lead out of it are nobody's."""
        found = []
        for item in self._objects.find():
            parts = item.key.split("/")
            if parts[0] not in OWN and not any(part.startswith(".") or not part for part in parts):
                found.append(item)
        return found

    def _is_same(self, item: Found) -> bool:
        """Whether a file is here in the size that it has there; small text may change without changing its size."""
        path = self.folder / item.key
        return "/" in item.key and path.is_file() and path.stat().st_size == item.size

    def _fetch(self, wanted: list[Found]) -> None:
        def one(item: Found) -> None:
            path = self.folder / item.key
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._objects.fetch(item.key, path):  # else it was removed there since it was listed
                os.utime(path, (item.modified_at, item.modified_at))

        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(one, wanted))
        except OSError as error:
            raise StoreError(f"{self.folder}: cannot be written ({error.strerror or error})") from error

    def _files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file of the run folder that belongs to the copy."""
        found = {}
        for place, folders, files in os.walk(self.folder):
            at_root = Path(place) == self.folder
            folders[:] = [
                name
                for name in folders
                if not name.startswith(".") and not (at_root and (name in PASSED_OVER or name.endswith(".lease")))
            ]
            for name in files:
                path = Path(place) / name
                if name.startswith(".") or (at_root and name == LEDGER) or path.is_symlink():
                    continue
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue  # removed while we look
                found[path.relative_to(self.folder).as_posix()] = (status.st_size, status.st_mtime_ns)
        return found


class ObjectSlots(Slots):
    """Numbers of a lease as objects. There are no locks: only signs of life tell."""

    def __init__(self, objects: Objects, name: str) -> None:
        self.beat_s, self.timeout_s, self.look_s = BEAT_S, TIMEOUT_S, LOOK_S
        self._objects, self.name = objects, name
        self._holder = secrets.token_hex(8)
        self._key = ""

    def open(self) -> None:
        """Nothing to make."""

    def numbers(self) -> list[int]:
        """See `Slots`."""
        return [int(item.key) for item in self._objects.find() if item.key.isascii() and item.key.isdecimal()]

    def claim(self, number: int, content: Mapping[str, Any]) -> None:
        """See `Slots`."""
        if not self._objects.create(f"{number:06d}", self._encode(content)):
            raise FileExistsError(f"{self.name}: lease {number} is taken")
        self._key = f"{number:06d}"

    def write(self, content: Mapping[str, Any]) -> None:
        """See `Slots`."""
        self._objects.write(self._key, self._encode(content))

    def read(self, number: int) -> dict[str, Any]:
        """See `Slots`."""
        try:
            content = json.loads(self._objects.read(f"{number:06d}") or b"")
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def exists(self, number: int) -> bool:
        """See `Slots`."""
        return self._objects.look(f"{number:06d}") is not None

    def remove(self, number: int) -> None:
        """See `Slots`."""
        self._objects.delete(f"{number:06d}")

    def vanished(self) -> bool:
        """See `Slots`: a bucket does not vanish under its objects."""
        return False

    def holder_lives(self, number: int, seen: Mapping[str, Any]) -> bool | None:
        """See `Slots`: nobody knows before the signs of life were watched."""
        return None

    def close(self) -> None:
        """Nothing to close."""

    def _encode(self, content: Mapping[str, Any]) -> bytes:
        return json.dumps({**content, "holder": self._holder}).encode()
