"""Whom a network may learn from: the faces of a training, prepared once, and the line in the record that says who they were.

People of role G are learned from and never judged, so that is where training takes its faces. Without identities (FER-2013) there are no roles:
all faces are taken, and the record warns against evaluating on the same set. Drawn faces without `--data` come from seeds that no sweep draws.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raysweep.errors import ConfigError
from raysweep.schema import AlignedFaces, IntArray

if TYPE_CHECKING:
    from raysweep.config import RunSettings
    from raysweep.models.zoo import Zoo
    from raysweep.tracking.terminal import LiveView

__all__ = ["DRAWN", "People", "Pupils", "prepare_pupils", "split"]

People = Literal["G", "all"]

DRAWN = "synthetic:identities=150,images_per_identity=14,seed=10077"
"""What is drawn when no data is given: people whose seed no sweep uses (see `raysweep.training.recognisers.TRAINING_SEED`)."""

TEST_WORDS = ("publictest", "privatetest", "test", "val", "validation")
"""What a set calls its own held-out rows (`usage` of FER-2013)."""


@dataclass(frozen=True)
class Pupils:
    """Faces to learn from; small enough to be sent to other processes, which load them from the same disk.

    Attributes:
        store: folder of the reference store.
        dataset, seed, shares: as for `ReferenceStore.load`.
        people: `G`, or `all` of the set.
        crops: file of other crops in place of the clear ones, row by row those of `load` (after an anonymizer); empty for none.
        about: for the record: data set, who was learned from, how many.
        warning: what a person should know of it, empty mostly.
    """

    store: str
    dataset: str
    seed: int
    shares: Mapping[str, float] | None
    people: People
    crops: str
    about: Mapping[str, Any]
    warning: str = ""

    def load(self) -> tuple[AlignedFaces, list[str], list[str]]:
        """The faces, for each the photograph it repeats or its own name, and how the set uses it (lower case, mostly empty)."""
        from raysweep.engine.references import ReferenceStore

        loaded = ReferenceStore(Path(self.store)).load(
            dataset=self.dataset, seed=self.seed, shares=self.shares, need_privacy=False
        )
        rows = _rows(loaded.faces, self.people)
        faces = loaded.faces.take(rows)
        if self.crops:
            faces = replace(faces, crop=np.load(self.crops, mmap_mode="r", allow_pickle=False))
        repeats = loaded.manifest["repeats"]
        photographs = [str(repeats.get(str(face), str(face))) for face in faces.table.face_id]
        usage = [_usage(loaded.attributes[row]) for row in rows.tolist()]
        return faces, photographs, usage


def prepare_pupils(
    run: RunSettings,
    view: LiveView,
    *,
    data: str | None,
    kind: str | None,
    zoo: Zoo,
    people: People,
) -> Pupils:
    """Read, detect and align the faces of a training once; only what geometry needs, no judge is asked.

    Args:
        run: seed, frame, roles.
        view: told of the progress.
        data, kind: as on the command line; without data, `DRAWN`.
        zoo: all weights at hand.
        people: `all` to learn from everybody, also from those whom a sweep with this set would judge.

    Raises:
        DataError, ModelError: the data or the models cannot do.
        ConfigError: role G is empty.
    """
    from raysweep.data.shards import write_shards
    from raysweep.data.source import open_source
    from raysweep.engine.references import ReferenceStore, cache_root
    from raysweep.faces import frame_of, shares_of
    from raysweep.pipeline import prepare_local

    source = open_source(data or DRAWN, kind=kind)
    zoo = zoo.for_data(source.synthetic, needs=() if source.synthetic else ("detector",), reserve=False)
    zoo = zoo.only([name for name, item in zoo.found.items() if item.entry.task not in ("embedder", "expression")])
    frame = frame_of(run, source.synthetic)
    view.stage("reading faces", 0, len(source))
    shards = write_shards(source, cache_root() / "shards" / source.digest()[:32], conflicts=run.conflicts)
    view.stage("reading faces", len(source), len(source))
    store = ReferenceStore.at(shards, frame, zoo)
    if not store.exists():
        prepare_local(shards, zoo, frame, store, progress=lambda done, all_: view.stage("aligning faces", done, all_))
    shares = shares_of(run)
    chosen: People = "all" if data is None else people
    faces = store.load(dataset=source.name, seed=run.seed, shares=shares, need_privacy=False).faces
    rows = _rows(faces, chosen)
    if not len(rows):
        raise ConfigError(
            f"{source.name}: nobody has role G, whom training may learn from; give it a share (roles.G=0.5 roles.T=0.2 ...), "
            "or people=all for a set that no sweep will judge"
        )
    table = faces.table.take(rows)
    identities = len(np.unique(table.identity[table.identity >= 0]))
    warning = ""
    if data is not None and (chosen == "all" or not identities):
        why = "people=all" if chosen == "all" else "the set knows no identities, so there are no roles"
        warning = f"learned from everybody in {source.name} ({why}): a sweep on the same set would judge with what has seen it"
    about = {
        "dataset": source.name,
        "kind": source.kind,
        "licence": source.licence,
        "synthetic": source.synthetic,
        "digest": source.digest(),
        "people": chosen if identities else "all (no identities)",
        "identities": identities,
        "faces": len(rows),
        "roles": {"seed": run.seed, "shares": dict(shares) if shares else "default"},
        "frame": [frame.size, frame.margin],
        "store": store.key,
    }
    return Pupils(str(store.folder), source.name, run.seed, shares, chosen, "", about, warning)


def split(
    faces: AlignedFaces, photographs: list[str], usage: list[str], share: float, seed: int
) -> tuple[IntArray, IntArray, str]:
    """Rows to learn from and rows to check with, which share no person and no photograph.

    Args:
        faces: to be divided.
        photographs, usage: of `Pupils.load`.
        share: of the rows to hold out.
        seed: of the division.

    Returns:
        Rows to learn from, rows held out, and how they were divided. The set's own division wins where it has one.
    """
    own = np.array([word in TEST_WORDS for word in usage], dtype=bool)
    if own.any() and not own.all():
        # A photograph that stands on both sides is only held out.
        held = {photographs[row] for row in np.flatnonzero(own).tolist()}
        learn = [row for row in np.flatnonzero(~own).tolist() if photographs[row] not in held]
        return np.array(learn, dtype=np.int64), np.flatnonzero(own).astype(np.int64), "the set's own division"
    identity = faces.table.identity
    known = bool((identity >= 0).any())
    groups = [
        f"person {faces.table.identity_names[who]}" if who >= 0 else f"photograph {photograph}"
        for who, photograph in zip(identity.tolist(), photographs, strict=True)
    ]
    names = sorted(set(groups), key=lambda name: hashlib.sha256(json.dumps([seed, name]).encode()).hexdigest())
    sizes = Counter(groups)
    held_names: set[str] = set()
    taken = 0
    for name in names[:-1]:
        if taken >= share * len(groups):
            break
        held_names.add(name)
        taken += sizes[name]
    inside = np.array([name in held_names for name in groups], dtype=bool)
    how = "by person" if known else "by photograph (no identities)"
    return np.flatnonzero(~inside).astype(np.int64), np.flatnonzero(inside).astype(np.int64), how


def _rows(faces: AlignedFaces, people: People) -> IntArray:
    """Rows of the people to learn from; all where nobody is known."""
    if people == "all" or not bool((faces.table.identity >= 0).any()):
        return np.arange(len(faces), dtype=np.int64)
    return faces.table.rows("G")


def _usage(attributes: str | None) -> str:
    if not attributes:
        return ""
    facts = json.loads(attributes)
    return str(facts.get("usage", "")).strip().lower() if isinstance(facts, dict) else ""
