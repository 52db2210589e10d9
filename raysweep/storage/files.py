"""Files that are there whole or not at all, after a power cut too.

A file is written under another name beside its own, forced to disk, and renamed. The name itself is on disk when its folder is
(`sync_folder`), which the caller asks for where it matters.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Moments", "replacing", "sha256_of", "sync_file", "sync_folder", "write_whole"]


def _nothing() -> None:
    """Between two steps, usually."""


@dataclass(frozen=True)
class Moments:
    """What to call between the steps of `replacing`; tests end the process there.

    Attributes:
        written: all bytes are handed over, not yet forced to disk.
        synced: they are on disk under the temporary name.
        replaced: they are in place.
    """

    written: Callable[[], None] = _nothing
    synced: Callable[[], None] = _nothing
    replaced: Callable[[], None] = _nothing


@contextmanager
def replacing(
    path: Path, *, aside: Path | None = None, private: bool = False, moments: Moments | None = None
) -> Iterator[IO[bytes]]:
    """Write a file so that a reader sees the old one or the new one, never half of it; an exception leaves the old one.

    Args:
        path: of the file; its folder must be there.
        aside: where it is written first, on the same file system; a hidden name of its own beside it when None.
        private: readable by its owner only.
        moments: see there.

    Raises:
        OSError: of the disk.
    """
    moments = moments or Moments()
    temporary = aside or path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600 if private else 0o666)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            moments.written()
            os.fsync(file.fileno())
        moments.synced()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    moments.replaced()


def write_whole(
    path: Path,
    content: bytes | memoryview | str,
    *,
    aside: Path | None = None,
    private: bool = False,
    moments: Moments | None = None,
) -> None:
    """`replacing` for content that is at hand; text is written as UTF-8.

    Raises:
        OSError: of the disk.
    """
    with replacing(path, aside=aside, private=private, moments=moments) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync_file(path: Path) -> None:
    """Force a file that somebody else wrote to disk.

    Raises:
        OSError: of the disk.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk, where the store knows such a thing.

    Raises:
        OSError: of the disk.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some stores know no such thing for folders
            raise
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """64 hex digits of a file's bytes.

    Raises:
        OSError: of the disk.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
