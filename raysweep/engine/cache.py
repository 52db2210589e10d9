"""What lies in the cache: shards of sources and reference stores, who uses them, and how they are removed.

Clear crops and embeddings are biometric data: `purge` takes them away, and only them. It removes entries of the two kinds below in the
cache root, never follows a link, and leaves alone what another process holds (`hold`, a shared lock that falls with the process).

| place | content |
|-------|---------|
| shards/<digest> | the photographs of a source, as they were |
| references/<key> | aligned crops, embeddings, probabilities, and what attackers learned on clear faces |
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from raysweep.errors import ConfigError, StoreError
from raysweep.storage.objects import is_url

__all__ = ["KINDS", "Entry", "Freed", "age_s", "cache_root", "entries", "hold", "local_cache", "parse_age", "purge"]

KINDS = ("shards", "references")
MANIFEST = "manifest.json"
USED = "used"
"""An empty file in an entry, touched at each use: reading alone leaves no reliable trace."""
_NAME = re.compile(r"[0-9a-f]{8,64}")
_LEFTOVER = re.compile(r"\.(?P<name>[0-9a-f]{8,64})\.(?:writing|purging)-\w+")

_held: dict[Path, IO[bytes]] = {}


@dataclass(frozen=True)
class Entry:
    """One entry of the cache.

    Attributes:
        kind: of `KINDS`, or `unfinished` for what a killed process left.
        folder: where it lies.
        dataset: name of the data set, empty when not known.
        rows: faces.
        frame: of the crops, as `112 x 112, margin 0`; empty for shards.
        models: that measured them.
        size: bytes on disk.
        used_at: last use, seconds since the epoch.
        held: another process, or this one, uses it now.
    """

    kind: str
    folder: Path
    dataset: str
    rows: int
    frame: str
    models: tuple[str, ...]
    size: int
    used_at: float
    held: bool

    @property
    def name(self) -> str:
        """As `references/0123abcd`."""
        return f"{self.folder.parent.name}/{self.folder.name}"


@dataclass(frozen=True)
class Freed:
    """What `purge` did: entries removed with their bytes, and entries that stay with the reason."""

    removed: tuple[Entry, ...]
    kept: tuple[tuple[Entry, str], ...]

    @property
    def size(self) -> int:
        """Bytes freed."""
        return sum(entry.size for entry in self.removed)


def cache_root() -> Path:
    """Where stores and shards are kept: `RAYSWEEP_CACHE`, else `raysweep` in the user's cache folder (`XDG_CACHE_HOME`).

    Where `RAYSWEEP_CACHE` is the address of an object store, this is where entries are copied to on this machine.
    """
    given = os.environ.get("RAYSWEEP_CACHE")
    if given and not is_url(given):
        return Path(given).expanduser().absolute()
    return local_cache()


def local_cache() -> Path:
    """`raysweep` in the user's cache folder on this machine."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "raysweep"


def parse_age(text: str) -> float:
    """Seconds of `30d`, `12h`, `0d`.

    >>> parse_age("30d")
    2592000.0

    Raises:
        ConfigError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dh])", text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not an age; write 30d or 12h")
    return float(match[1]) * {"h": 3600, "d": 86400}[match[2]]


def hold(folder: Path, root: Path) -> None:
    """Let no `purge` remove an entry while this process lives, and note that it was used.

    Nothing outside of the cache is touched, and a cache that may not be written to needs no lock: nobody can purge it from here.

    Args:
        folder: of the entry.
        root: of the cache.

    Raises:
        StoreError: it is being removed at this moment.
    """
    folder = folder.absolute()
    if folder in _held or folder.parent.parent != root.absolute() or not os.access(folder.parent, os.W_OK):
        return
    lock = _lock_path(folder).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StoreError(f"{folder}: is being removed by another process; run the same command again") from error
    except OSError:
        lock.close()  # a store without locks: `purge` there goes by the last use alone
        return
    _held[folder] = lock
    if folder.is_dir() and os.access(folder, os.W_OK):
        (folder / USED).touch(mode=0o600)


def entries(root: Path) -> list[Entry]:
    """Everything that raysweep put into a cache, the largest first; links and foreign files are passed over.

    Raises:
        StoreError: the cache cannot be read.
    """
    found = []
    try:
        for kind in KINDS:
            parent = root / kind
            if parent.is_symlink() or not parent.is_dir():
                continue
            for path in sorted(parent.iterdir()):
                if path.is_symlink() or not path.is_dir():
                    continue
                if _NAME.fullmatch(path.name):
                    found.append(_entry(kind, path))
                elif _LEFTOVER.fullmatch(path.name):
                    found.append(_leftover(path))
    except OSError as error:
        raise StoreError(f"{root}: the cache cannot be read ({error.strerror})") from error
    return sorted(found, key=lambda entry: -entry.size)


def purge(root: Path, chosen: Sequence[Entry]) -> Freed:
    """Remove entries.

    An entry is renamed before it is taken apart: whoever looks for it meanwhile finds it whole or not at all.

    Args:
        root: of the cache.
        chosen: of `entries`.

    Raises:
        StoreError: an entry does not lie in the cache.
    """
    removed, kept = [], []
    for entry in chosen:
        folder = entry.folder
        inside = folder.parent.parent == root and folder.parent.name in KINDS
        if not inside or folder.is_symlink() or folder.parent.is_symlink():
            raise StoreError(f"{folder}: does not lie in the cache {root}; nothing more is removed")
        # A writer holds another lock than a reader.
        lock = folder.with_name(f".{_owner(folder)}.lock") if entry.kind == "unfinished" else _lock_path(folder)
        with _exclusive(lock) as free:
            if not free:
                kept.append((entry, "in use"))
                continue
            try:
                doomed = folder.with_name(f".{_owner(folder)}.purging-{secrets.token_hex(4)}")
                os.rename(folder, doomed)
                shutil.rmtree(doomed)  # does not follow links
            except OSError as error:
                kept.append((entry, f"cannot be removed ({error.strerror})"))
                continue
        removed.append(entry)
    return Freed(tuple(removed), tuple(kept))


# ------------------------------------------------------------------ inside
def _lock_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.use")


def _owner(folder: Path) -> str:
    match = _LEFTOVER.fullmatch(folder.name)
    return match["name"] if match else folder.name


@contextmanager
def _exclusive(path: Path) -> Iterator[bool]:
    """Whether nobody else holds the lock; the file stays, since a removed lock file would let two in."""
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    with _exclusive(path) as free:
        return not free


def _entry(kind: str, folder: Path) -> Entry:
    about = _manifest(folder)
    used = [path for path in (folder / USED, folder / MANIFEST) if path.exists()] or [folder]
    frame = about.get("frame")
    models = about.get("models")
    names = [name for task in ("embedding", "probability") for name in dict((models or {}).get(task) or {})]
    return Entry(
        kind=kind,
        folder=folder,
        dataset=str(about.get("name") or "damaged"),
        rows=int(about.get("rows") or 0),
        frame=f"{frame[0]} x {frame[0]}, margin {frame[1]}" if isinstance(frame, list) and len(frame) == 2 else "",
        models=tuple(names),
        size=_size(folder),
        used_at=max(path.stat().st_mtime for path in used),
        held=_is_held(_lock_path(folder)),
    )


def _leftover(folder: Path) -> Entry:
    held = _is_held(folder.with_name(f".{_owner(folder)}.lock"))
    return Entry("unfinished", folder, "", 0, "", (), _size(folder), folder.stat().st_mtime, held)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _size(folder: Path) -> int:
    """Bytes on disk; holes and links do not count."""
    total = 0
    for place, _, files in os.walk(folder, followlinks=False):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # removed while we look
    return total


def age_s(entry: Entry) -> float:
    """Seconds since the last use."""
    return max(0.0, time.time() - entry.used_at)
