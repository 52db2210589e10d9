"""Entries of the cache (shards, reference stores) in an object store: made by one machine, copied by the others.

`RAYSWEEP_CACHE=s3://bucket/prefix` says where. An entry never changes once it is finished, and its name is made of its content, so there is
nothing to keep in step: who lacks it copies it, who has it sends it. The manifest goes last, in both directions: an entry is
there and complete, or not there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raysweep.errors import StoreError
from raysweep.storage.files import sync_folder
from raysweep.storage.objects import Objects, is_url

__all__ = ["far_cache", "settle_entry"]

MANIFEST = "manifest.json"
AT_ONCE = 8


def far_cache() -> Objects | None:
    """The object store of `RAYSWEEP_CACHE`, None where that is a folder or not set.

    Raises:
        ConfigError: see `Objects.open`.
    """
    given = os.environ.get("RAYSWEEP_CACHE", "")
    return Objects.open(given) if is_url(given) else None


def settle_entry(folder: Path) -> None:
    """Copy an entry here when only the object store has it, and send it when only this machine has it.

    Args:
        folder: `<cache>/<kind>/<name>`; anything else belongs to nobody but this machine, and nothing happens.

    Raises:
        StoreError: the store does not answer, or the folder cannot be written.
    """
    from raysweep.engine.cache import KINDS, cache_root

    objects = far_cache()
    if objects is None or folder.parent.name not in KINDS or folder.absolute().parent.parent != cache_root():
        return
    far = objects.at(f"{folder.parent.name}/{folder.name}")
    if (folder / MANIFEST).is_file():
        if far.look(MANIFEST) is None:
            _send(folder, far)
        return
    manifest = far.read(MANIFEST)
    if manifest is not None:
        _fetch(folder, far, manifest)


def _send(folder: Path, far: Objects) -> None:
    manifest = (folder / MANIFEST).read_bytes()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda name: far.write(name, folder / name), _files(manifest, far)))
    far.create(MANIFEST, manifest)  # another machine may have been quicker, with the same


def _fetch(folder: Path, far: Objects, manifest: bytes) -> None:
    """Written aside and renamed as a whole; whoever opens it holds its files against the manifest."""

    def one(name: str) -> None:
        if not far.fetch(name, target / name):
            raise StoreError(f"{far.url}/{name}: is missing; remove {far.url}, it is then made again")

    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = Path(tempfile.mkdtemp(prefix=f".{folder.name}.writing-", dir=folder.parent))  # mode 0700
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(one, _files(manifest, far)))
            (target / MANIFEST).write_bytes(manifest)
            sync_folder(target)
            if folder.is_dir() and not (folder / MANIFEST).exists():
                shutil.rmtree(folder)  # no entry: what a `purge` or a failed write left
            os.rename(target, folder)
        except OSError:
            if not (folder / MANIFEST).is_file():  # else another process of this machine was quicker
                raise
        finally:
            shutil.rmtree(target, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _files(manifest: bytes, far: Objects) -> list[str]:
    """Names of an entry's files, without the manifest.

    Raises:
        StoreError: not a manifest, or a name leads out of the folder.
    """
    try:
        content: Mapping[str, Any] = json.loads(manifest)
        names = [*dict(content.get("files") or {}), *(shard["file"] for shard in content.get("shards") or ())]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{far.url}/{MANIFEST}: cannot be read; remove {far.url}, it is then made again") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.startswith("."):
            raise StoreError(f"{far.url}/{MANIFEST}: the name {name!r} leads out of its folder")
    return names
