"""A sweep's numbers as one file that may be passed on: records, ranks, decisions and codes; no faces, no embeddings, no names of people,
no paths. From it privacy, utility, intervals and the ranking can be computed again (`recompute`).

A bundle is a zip with `manifest.json` (format, and the sha256 of every other member), `sweep.json`, `trials.jsonl`, `scores/common.npz` and
`scores/<key>.npz`. Reading never writes to disk: members are checked by name, number, size and digest, and held in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from raysweep import __version__
from raysweep.engine.evidence import COMMON, DIGEST_NOTE, digest_of, pack, unpack
from raysweep.engine.record import TrialRecord
from raysweep.errors import StoreError
from raysweep.storage.files import replacing
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.stored import StoredRun
from raysweep.tracking.text import plain

__all__ = ["read_bundle", "scrubbed", "write_bundle"]

FORMAT = "raysweep score bundle"
VERSION = 1
ALLOWED = ("rank/", "clear/", "expression/", "draws/", "roc/")
"""Names of evidence that hold no face and no embedding; nothing else leaves."""
MEMBER = re.compile(r"sweep\.json|trials\.jsonl|scores/[A-Za-z0-9_-]{1,200}\.npz")
MAX_MEMBERS = 100_000
MAX_BYTES = 2 << 30
MAX_MEMBER_BYTES = 512 << 20
FIXED_DATE = (1980, 1, 1, 0, 0, 0)

QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|‘[^’]*’|“[^”]*”|`[^`]*`")
FILE_LIKE = re.compile(r"\.(?:jpe?g|png|gif|bmp|webp|npy|npz|py|parquet|csv)\b", re.IGNORECASE)
PATH_LIKE = re.compile(
    r"(?:file:|~|\.{1,2}|[A-Za-z]:)?[/\\][^\s;,)]*|[^\s;,(]+[/\\][^\s;,)]*[/\\][^\s;,)]*|[^\s/;,(]+:/[^\s;,)]*|[^\s;,(]+\.(?:jpe?g|png|gif|bmp|webp|npy|npz|py|parquet|csv)\b",
    re.IGNORECASE,
)
"""Something like a path, an address or a file name."""
PATH_CLAUSE = re.compile(f"(?:{PATH_LIKE.pattern})[^;,)]*", re.IGNORECASE)


def scrubbed(text: object) -> str:
    """A reason or remark without what it quotes and without anything like a path or a file name.

    >>> scrubbed("face 'Ann/0001.jpg' not found in /home/ann/faces; 3 of 7 gone")
    'face … not found in …; 3 of 7 gone'
    """
    # A path may hold blanks: where one begins, the rest of its clause goes with it.
    return plain(PATH_CLAUSE.sub("…", QUOTED.sub("…", plain(text, 1000))), 500)


def write_bundle(run: StoredRun, path: Path) -> int:
    """Write the bundle; returns its size in bytes.

    Raises:
        StoreError: no record has evidence, or the file cannot be written.
    """
    with_evidence = [record for record in run.records if record.evidence]
    if not with_evidence or not run.common:
        raise StoreError(
            f"{plain(run.source) or 'this run'} has no evidence to bundle ({_why(run)}): run the sweep again with this release"
        )
    members: dict[str, bytes] = {}
    records = []
    for record in run.records:
        notes: dict[str, Any] = {}
        if record.evidence:
            data = pack(_allowed(record.evidence))
            members[f"scores/{record.key}.npz"] = data
            notes[DIGEST_NOTE] = digest_of(data)
        records.append(_shareable(record, notes).to_dict())
    members[f"scores/{COMMON}.npz"] = pack(_allowed(run.common))
    members["sweep.json"] = _json(
        {"info": _shareable_info(run.info), "run": _shareable_run(run), "basis": _tree(run.basis)}
    )
    members["trials.jsonl"] = b"".join(_json(record) + b"\n" for record in records)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    manifest = _json({"format": FORMAT, "version": VERSION, "raysweep": __version__, "members": digests})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {"manifest.json": manifest, **members}.items():
                entry = zipfile.ZipInfo(name, FIXED_DATE)
                # Arrays are packed already.
                entry.compress_type = zipfile.ZIP_STORED if name.endswith(".npz") else zipfile.ZIP_DEFLATED
                archive.writestr(entry, data)
        return path.stat().st_size
    except OSError as error:
        raise StoreError(f"cannot write the bundle {path}: {error.strerror}") from error


def read_bundle(path: Path) -> StoredRun:
    """The run in a bundle that anybody may have made.

    Raises:
        StoreError: it cannot be read, is no bundle, of a later format, too large, or not as its manifest says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _read_members(archive, path.name)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file") from error
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise StoreError(f"{path.name}: not a readable zip ({plain(error, 120) or type(error).__name__})") from error
    try:
        content = json.loads(members["sweep.json"])
        info = SweepInfo.from_dict(content["info"], Path())
        records = [TrialRecord.from_dict(json.loads(line)) for line in members["trials.jsonl"].splitlines()]
        run, basis = dict(content["run"]), dict(content["basis"])
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path.name}: its records cannot be read ({type(error).__name__}: {plain(error, 120)})"
        ) from error
    missing: dict[str, str] = {}
    attached = []
    for record in records:
        data = members.get(f"scores/{record.key}.npz")
        if data is not None:
            record = replace(record, evidence=unpack(data, f"{path.name}: scores of {plain(record.key, 40)}"))
        elif record.state == "complete":
            missing[record.key] = "not in the bundle"
        attached.append(record)
    common = (
        unpack(members[f"scores/{COMMON}.npz"], f"{path.name}: {COMMON}") if f"scores/{COMMON}.npz" in members else {}
    )
    return StoredRun(info, tuple(attached), run, basis, common, missing, path.name)


def _read_members(archive: zipfile.ZipFile, name: str) -> dict[str, bytes]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()) or len(entries) > MAX_MEMBERS:
        raise StoreError(f"{name}: a member stands in it twice, or there are more than {MAX_MEMBERS:,}")
    if sum(entry.file_size for entry in entries.values()) > MAX_BYTES or any(
        entry.file_size > MAX_MEMBER_BYTES for entry in entries.values()
    ):
        raise StoreError(
            f"{name}: unpacks to more than {MAX_BYTES >> 20} MB (or a member to more than {MAX_MEMBER_BYTES >> 20} MB)"
        )
    if "manifest.json" not in entries:
        raise StoreError(f"{name}: not a score bundle (no manifest.json)")
    strange = [item for item in entries if item != "manifest.json" and not MEMBER.fullmatch(item)]
    if strange:
        raise StoreError(f"{name}: holds {plain(strange[0], 80)!r}, which is no part of a score bundle")
    try:
        manifest = json.loads(_take(archive, entries["manifest.json"]))
        digests = dict(manifest["members"])
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            raise StoreError(
                f"{name}: format {plain(manifest['format'], 60)!r} version {plain(manifest['version'], 20)}; this release reads {FORMAT!r} version {VERSION}"
            )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{name}: its manifest cannot be read ({type(error).__name__})") from error
    if set(digests) != set(entries) - {"manifest.json"}:
        raise StoreError(f"{name}: its members are not those of its manifest")
    members = {}
    for item, digest in digests.items():
        data = _take(archive, entries[item])
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"{name}: {item} is not what the manifest says (its digest differs)")
        members[item] = data
    return members


def _take(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of a member: never more than its checked size, whatever the packed stream holds."""
    with archive.open(entry) as file:
        return file.read(entry.file_size)


# ------------------------------------------------------------------ what may leave
def _allowed(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Whole numbers and rates in one dimension: nothing that could be a picture or an embedding."""
    return {
        name: array
        for name, array in arrays.items()
        if name.startswith(ALLOWED) and array.ndim == 1 and array.dtype.kind in "biuf"
    }


def _shareable(record: TrialRecord, notes: Mapping[str, Any]) -> TrialRecord:
    """The record without words that could name a file or a person."""
    kept = {name: value for name, value in record.notes.items() if isinstance(value, bool | int | float)}
    if record.notes.get("guarantee") in ("holds", "violated"):
        kept["guarantee"] = record.notes["guarantee"]
    return replace(
        record,
        anonymizer=_name(record.anonymizer),
        setting={name: _leaf(value) for name, value in record.setting.items()},
        reason=scrubbed(record.reason),
        metrics={name: replace(value, reason=scrubbed(value.reason)) for name, value in record.metrics.items()},
        attackers=tuple(
            {key: scrubbed(value) if key == "reason" else _leaf(value) for key, value in row.items()}
            for row in record.attackers
        ),
        notes={**kept, **notes},
        evidence={},
    )


def _shareable_info(info: SweepInfo) -> dict[str, Any]:
    """The sweep without its command line (it may hold paths) and without remarks on the data set."""
    record = info.to_dict()
    record["command"] = ""
    record["card"] = {name: value for name, value in info.card.items() if name != "notes"}
    record["anonymizer"] = ", ".join(_name(part) for part in info.anonymizer.split(", "))
    record["quarantined"] = {scrubbed(reason): count for reason, count in info.quarantined.items()}
    for value in record["clear"].values():
        value["reason"] = scrubbed(value["reason"])
    tree = _tree({name: record[name] for name in ("space", "card")})
    return {**record, **tree, "dataset": _name(info.dataset)}


def _shareable_run(run: StoredRun) -> dict[str, Any]:
    return dict(_tree(run.run))


def _tree(value: Any) -> Any:
    """A JSON tree in which no text looks like a path."""
    if isinstance(value, Mapping):
        return {_name(str(key)): _tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tree(item) for item in value]
    return _leaf(value)


def _leaf(value: Any) -> Any:
    return _name(value) if isinstance(value, str) else value


def _name(text: str) -> str:
    """A name as it is (`vendor/name` among them); of a file's anonymizer its class, and nothing of any path.

    >>> _name("acme/eye-mask"), _name("file:/home/ann/masks.py:EyeMask"), _name("../faces/x")
    ('acme/eye-mask', 'file:EyeMask', '…')
    """
    if text.startswith("file:"):
        last = text.rpartition(":")[2]
        return f"file:{last}" if last.isidentifier() else "file:…"
    vendor_and_name = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and not FILE_LIKE.search(text)
    return text if vendor_and_name else scrubbed(text)


def _why(run: StoredRun) -> str:
    return plain(next(iter(run.missing.values()), "it has no complete trial"), 200)


def _json(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, allow_nan=False, default=str).encode()
