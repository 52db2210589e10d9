"""What a trial's numbers can be computed from again: small arrays without photographs, embeddings or names, one file per trial beside the ledger.

`scores/<key>.npz` holds what belongs to one trial, `scores/common.npz` what all trials of a sweep share. The digest of a file stands in the
ledger (`notes["evidence"]` of its record), so that damage is noticed. A missing or damaged file never harms the sweep: the record is the result,
the evidence is its proof.

| name | content |
|------|---------|
| `rank/<role>/<attacker>/<embedder>/above`, `.../equal` | per probe, how many other people score above, and as high as, the true one |
| `expression/<role>/<model>/clear`, `.../anonymized` | per image, the class that the model answers; 7 is none |
| `draws/privacy`, `draws/utility` | the objective in each bootstrap draw, the same draws for all trials |
| `roc/<embedder>/fmr`, `.../fnmr` | error rates over falling thresholds |
| `sheet/released` | (n, S, S, 3) uint8, a few released faces; of drawn faces only, and never passed on |

A file is an ordinary NumPy archive. Names are percent-encoded inside it: they hold names of models, which come from other people.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt

from raysweep.engine.faults import fault_point
from raysweep.errors import StoreError
from raysweep.storage.files import Moments, write_whole

__all__ = ["COMMON", "DIGEST_NOTE", "SHEET", "Arrays", "EvidenceStore", "digest_of", "pack", "unpack"]

Arrays = Mapping[str, npt.NDArray[Any]]

COMMON = "common"
"""Name of the file that all trials share."""
DIGEST_NOTE = "evidence"
"""Key in `TrialRecord.notes` under which the digest of a trial's file stands."""

SHEET = "sheet/released"
"""A few released faces, when the faces are drawn."""
KINDS = "biufU"
"""Kinds of arrays that may be stored: numbers and text, never objects."""
MAX_ARRAYS = 20_000
MAX_BYTES = 512 << 20
"""More than this is refused on reading, before anything is unpacked."""
SAFE = "/ .@+=-_~()"
MOMENTS = Moments(
    written=lambda: fault_point("evidence.after_write"),
    synced=lambda: fault_point("evidence.before_replace"),
    replaced=lambda: fault_point("evidence.after_replace"),
)


def pack(arrays: Arrays) -> bytes:
    """The bytes of a NumPy archive: the same arrays give the same bytes.

    Raises:
        StoreError: an array holds objects.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            array = np.asarray(arrays[name])
            if array.dtype.kind not in KINDS:
                raise StoreError(f"evidence {name!r} has type {array.dtype}; only numbers and text can be stored")
            # A fixed date (the default of ZipInfo), so that equal arrays give equal digests.
            entry = zipfile.ZipInfo(quote(name, safe=SAFE, errors="surrogatepass") + ".npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack(data: bytes, where: str = "evidence") -> dict[str, npt.NDArray[Any]]:
    """The inverse of `pack`, for bytes that anybody may have written.

    Raises:
        StoreError: not such an archive, damaged, or far too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ARRAYS or sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise StoreError(f"{where}: more than {MAX_ARRAYS} arrays or {MAX_BYTES >> 20} MB")
            found: dict[str, npt.NDArray[Any]] = {}
            for entry in entries:
                with archive.open(entry) as file:
                    # The declared size is what was checked above: not a byte more is taken.
                    array = np.load(io.BytesIO(file.read(entry.file_size)), allow_pickle=False)
                name = unquote(entry.filename.removesuffix(".npy"), errors="surrogatepass")
                if not isinstance(array, np.ndarray) or array.dtype.kind not in KINDS or name in found:
                    raise StoreError(
                        f"{where}: {entry.filename!r} is not an array of numbers or text, or is there twice"
                    )
                found[name] = array
            return found
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, RuntimeError, MemoryError) as error:
        raise StoreError(f"{where}: damaged or not a NumPy archive ({type(error).__name__})") from error


def digest_of(data: bytes) -> str:
    """sha256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


class EvidenceStore:
    """The folder `scores` of a run.

    Args:
        run_folder: of the sweep; the folder is made by the first write.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "scores"

    def path(self, key: str) -> Path:
        """File of a trial's key, or of `COMMON`.

        Raises:
            StoreError: a key that is no plain file name.
        """
        if not key or not all(char.isalnum() or char in "-_" for char in key):
            raise StoreError(f"{key!r} cannot name a file of evidence")
        return self.folder / f"{key}.npz"

    def write(self, key: str, arrays: Arrays) -> str:
        """Store the arrays so that a reader sees all of them or none; returns the digest.

        Raises:
            StoreError: they cannot be written.
        """
        data = pack(arrays)
        path = self.path(key)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fault_point("evidence.before_write")
            write_whole(path, data, moments=MOMENTS)
        except OSError as error:
            raise StoreError(f"cannot write the evidence {path.name}: {error.strerror}") from error
        return digest_of(data)

    def read(self, key: str, digest: str = "") -> dict[str, npt.NDArray[Any]]:
        """The arrays of a key, checked against the digest when one is given.

        Raises:
            StoreError: not there, not as it was written, or not readable.
        """
        path = self.path(key)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise StoreError(f"{path.name}: larger than {MAX_BYTES >> 20} MB")
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise StoreError(f"{path.name} is not there") from error
        except OSError as error:
            raise StoreError(f"{path.name}: {error.strerror}") from error
        if digest and digest_of(data) != digest:
            raise StoreError(f"{path.name} is not what the ledger says (its digest differs)")
        return unpack(data, path.name)
