"""Places of runs: a folder, or an address of an object store with a folder of this machine that mirrors it.

The rest of raysweep works on folders. A mirror carries a note of where it belongs (`.place.json`), so that whoever is handed one of its run
folders can find the other side: `remote_of`. What lies there is fetched on demand, `refresh` for the list of runs, `fetched` for a run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raysweep.engine.cache import local_cache
from raysweep.engine.lease import is_held_here, refuse_bad_folder
from raysweep.errors import StoreError
from raysweep.storage.check import refuse_bad_store
from raysweep.storage.copy import RunCopy
from raysweep.storage.files import write_whole
from raysweep.storage.objects import Objects, is_url

__all__ = ["fetched", "open_place", "refuse_bad_place", "remote_of", "run_copy"]

NOTE = ".place.json"
AT_ONCE = 8
SETTINGS, LEASE = "sweep.json", "ledger.lease"


def open_place(name: str) -> Path:
    """The folder of runs; for an address the mirror on this machine, with the list of runs brought up to date.

    Args:
        name: a path, or `s3://bucket/prefix`, `gs://...`, `az://...`.

    Raises:
        ConfigError: an address that cannot be used.
        StoreError: the object store does not answer, or the mirror cannot be written.
    """
    if not is_url(name):
        return Path(name).expanduser()
    objects = Objects.open(name)
    word = re.sub(r"[^A-Za-z0-9]+", "-", objects.url.partition("://")[2]).strip("-")[:60]
    mirror = local_cache() / "mirrors" / f"{word}-{hashlib.sha256(objects.url.encode()).hexdigest()[:8]}"
    try:
        mirror.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(mirror / NOTE, json.dumps({"url": objects.url}), private=True)
    except OSError as error:
        raise StoreError(
            f"{mirror}: the copy of {objects.url} on this machine cannot be written ({error.strerror})"
        ) from error
    refresh(mirror, objects)
    return mirror


def refuse_bad_place(runs: Path) -> None:
    """Before a sweep begins: try whether the place keeps what the ledger builds on.

    Raises:
        StoreError: it does not; names what, and what to do.
    """
    refuse_bad_folder(runs)
    objects = remote_of(runs)
    if objects is not None:
        refuse_bad_store(objects)


def remote_of(runs: Path) -> Objects | None:
    """The object store that a folder of runs mirrors, None for a folder that is all there is.

    Raises:
        StoreError: the note cannot be read.
        ConfigError: see `Objects.open`.
    """
    path = runs / NOTE
    if not path.is_file():
        return None
    try:
        url = str(json.loads(path.read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read; remove the folder, everything in it lies in its store") from error
    return Objects.open(url)


def run_copy(folder: Path) -> RunCopy | None:
    """The other side of a run folder, None where there is none.

    Raises:
        StoreError, ConfigError: of `remote_of`.
    """
    objects = remote_of(folder.parent)
    return None if objects is None else RunCopy(folder, objects.at(folder.name))


def fetched(folder: Path) -> Path:
    """The run folder with everything in it that lies in its object store; as it is, where there is none.

    Raises:
        StoreError: the store does not answer, or the folder cannot be written.
    """
    copy = run_copy(folder)
    if copy is not None and not is_held_here(folder / LEASE):
        copy.fetch_all()
    return folder


def refresh(mirror: Path, objects: Objects) -> None:
    """Settings and ledger of every run of the store, so that runs are found, listed and gone on with.

    Raises:
        StoreError: the store does not answer, or the mirror cannot be written.
    """
    names = [name for name in objects.folders() if Path(name).name == name and not name.startswith(".")]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: _refresh_run(mirror / name, objects.at(name)), names))


def _refresh_run(folder: Path, run: Objects) -> None:
    settings = folder / SETTINGS
    try:
        there, found = run.read(SETTINGS), run.look(SETTINGS)
        if there is None or found is None or is_held_here(folder / LEASE):
            return  # no run (yet), or a sweep of this machine writes there: what it has is newer
        folder.mkdir(exist_ok=True, mode=0o700)
        if not settings.is_file() or settings.read_bytes() != there:
            write_whole(settings, there, private=True)
        # Runs are ordered by when they were written to last.
        os.utime(settings, (found.modified_at, found.modified_at))
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error.strerror or error})") from error
    RunCopy(folder, run).fetch_ledger()
