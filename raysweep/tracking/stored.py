"""A sweep as it lies on disk: its record, its trials and their evidence, read without Ray, MLflow or the faces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from raysweep.engine.evidence import COMMON, DIGEST_NOTE, EvidenceStore
from raysweep.engine.ledger import read_ledger
from raysweep.engine.record import TrialRecord
from raysweep.errors import ConfigError, StoreError, nearest
from raysweep.metrics.uncertainty import Resampling
from raysweep.storage.place import fetched
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.text import plain

__all__ = ["Protocolled", "StoredRun", "find_run", "load_run", "protocol_in"]

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Protocolled:
    """The part of the referee's protocol that its numbers depend on.

    Attributes:
        attackers: ids.
        bootstrap: draws.
        seed: of the draws.
        minimum_support: fewest images of an expression class that counts.
        minimum_identities: fewest people for which an interval is stated.
    """

    attackers: tuple[str, ...] = ()
    bootstrap: int = 1000
    seed: int = 0
    minimum_support: int = 5
    minimum_identities: int = 10

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        return Resampling(self.bootstrap, self.seed, self.minimum_identities)


@dataclass(frozen=True)
class StoredRun:
    """Everything that is known of a sweep after its end (or while it runs).

    Attributes:
        info: what it was.
        records: of all trials and controls, as in the ledger, evidence attached where there is any.
        run, basis: settings and digests of `sweep.json`; empty when not known.
        common: evidence that all trials share.
        missing: by trial key, why there is no evidence.
        source: what was read, for the page: a folder's or a bundle's name.
    """

    info: SweepInfo
    records: tuple[TrialRecord, ...]
    run: Mapping[str, Any] = field(default_factory=dict)
    basis: Mapping[str, Any] = field(default_factory=dict)
    common: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def protocol(self) -> Protocolled:
        """How trials were judged."""
        return protocol_in(self.run)


def protocol_in(run: Mapping[str, Any]) -> Protocolled:
    """The protocol that the run settings of `sweep.json` ask for."""
    return Protocolled(
        attackers=tuple(str(name) for name in run.get("attackers") or ()),
        bootstrap=int(run.get("bootstrap") or 0) if "bootstrap" in run else 1000,
        seed=int(run.get("seed") or 0),
    )


def find_run(name: str | None, runs: Path) -> Path:
    """The run folder that is meant, with everything in it that its place has.

    Args:
        name: a run folder, or the start of a folder's name or of a sweep's key under `runs`, of several runs of one space the newest;
            None: the newest of all.
        runs: folder of runs.

    Raises:
        ConfigError: none fits, or several of different spaces do; says which there are.
        StoreError: its place does not answer.
    """
    folders = sorted(path.parent for path in runs.glob("*/sweep.json")) if runs.is_dir() else []
    if name is None:
        if not folders:
            raise ConfigError(
                f"no run in {runs}: run a sweep first (python -m raysweep tune blur), or name a run folder"
            )
        return fetched(max(folders, key=_touched))
    path = Path(name).expanduser()
    if (path / "sweep.json").is_file():
        return fetched(path)
    word = name.rstrip("/")
    exact = [folder for folder in folders if folder.name == word]
    fitting = exact or [
        folder for folder in folders if folder.name.startswith(word) or folder.name.rpartition("-")[2].startswith(word)
    ]
    if fitting and len({folder.name.rpartition("-")[0] for folder in fitting}) == 1:
        return fetched(max(fitting, key=_touched))
    names = [folder.name for folder in folders]
    shown = ", ".join(plain(item, 80) for item in names[:20]) or "none"
    if fitting:
        listed = ", ".join(plain(item.name, 80) for item in fitting)
        raise ConfigError(f"run {plain(name)!r} fits {len(fitting)} runs: {listed}; give more of the name")
    raise ConfigError(f"no run {plain(name)!r} in {runs}{nearest(word, names)}; runs there: {shown}")


def _touched(folder: Path) -> float:
    """When a run was last written to: its ledger grows with every trial."""
    ledger = folder / "ledger.jsonl"
    return (ledger if ledger.exists() else folder / "sweep.json").stat().st_mtime


def load_run(folder: Path) -> StoredRun:
    """Read a run folder; a sweep may be writing to it meanwhile.

    Raises:
        StoreError: it is no run folder, or its record is damaged. Missing or damaged evidence is no error, see `StoredRun.missing`.
    """
    path = folder / "sweep.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        info = SweepInfo.from_dict(content["info"], folder)
        run, basis = dict(content.get("run") or {}), dict(content.get("basis") or {})
        digest = str(content.get("common_evidence") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path}: not the record of a sweep ({type(error).__name__}: {plain(error, 160)})") from error
    ledger = folder / "ledger.jsonl"
    records = read_ledger(ledger) if ledger.exists() else []
    store = EvidenceStore(folder)
    return _with_evidence(StoredRun(info, tuple(records), run, basis, source=folder.name), store, digest)


def _with_evidence(stored: StoredRun, store: EvidenceStore, digest: str) -> StoredRun:
    """Attach what the store holds, each file checked against the digest in its record."""
    missing: dict[str, str] = {}
    records = []
    for record in latest(stored.records):
        note = str(record.notes.get(DIGEST_NOTE, ""))
        if record.state == "complete":
            try:
                if not note or " " in note:
                    raise StoreError(note or "none was recorded")
                record = replace(record, evidence=store.read(record.key, note))
            except StoreError as error:
                missing[record.key] = str(error)
        records.append(record)
    common: Arrays = {}
    try:
        common = store.read(COMMON, digest)
    except StoreError as error:
        missing[COMMON] = str(error)
    return replace(stored, records=tuple(records), common=common, missing=missing)


def latest(records: Iterable[TrialRecord]) -> Sequence[TrialRecord]:
    """The last record of each key, in the order of the first ones."""
    return list({record.key: record for record in records}.values())
