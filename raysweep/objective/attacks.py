"""Every attacker through every embedder against one release, counted; and the same on clear faces, which no trial changes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.attackers import Attacker, AttackView, Embeddings, attacker, label
from raysweep.metrics.identification import IdentificationSums, cmc, rank1_at_gallery, ranks
from raysweep.metrics.uncertainty import ClusterSums, Estimate, Resampling
from raysweep.objective.ground import Ground

__all__ = ["ALL", "Attack", "Attacks", "Outcome", "Remember", "settings_text"]

NAIVE = "A0"
ALL = "all"
"""In place of an embedder, for an attacker that joins them."""

Arrays = Mapping[str, npt.NDArray[Any]]
Remember = Callable[[str, Callable[[], Arrays]], Arrays]
"""(key, how to make it) -> arrays, from a store where they lie already."""


@dataclass(frozen=True)
class Outcome:
    """One attack on one role.

    Attributes:
        sums: counted hits, None when it could not be done.
        above, equal: (P,) per probe: impostors above, and as high as, the true person.
        reason: why it could not be done.
    """

    sums: IdentificationSums | None
    above: npt.NDArray[np.int64]
    equal: npt.NDArray[np.int64]
    reason: str = ""

    @classmethod
    def missing(cls, reason: str) -> Outcome:
        """It could not be done."""
        return cls(None, np.empty(0, np.int64), np.empty(0, np.int64), reason)

    @classmethod
    def counted(
        cls, above: npt.NDArray[np.int64], equal: npt.NDArray[np.int64], view: AttackView, gallery: int
    ) -> Outcome:
        """From the ranks of the probes of a view."""
        classes = len(view.classes)
        hits = np.column_stack([rank1_at_gallery(above, equal, classes, gallery), cmc(above, equal, classes)])
        return cls(IdentificationSums(classes, gallery, ClusterSums.of(view.probe_class, hits)), above, equal)

    def rank1(self, plan: Resampling) -> Estimate:
        """Rank-1 at the standard gallery."""
        return Estimate(math.nan, reason=self.reason) if self.sums is None else self.sums.standard(plan)


@dataclass(frozen=True)
class Attack:
    """One attacker through one embedder (or `ALL`)."""

    attacker: Attacker
    embedder: str

    @property
    def key(self) -> tuple[str, str]:
        """(label, embedder): one row of the attacker table."""
        return label(self.attacker), self.embedder


class Attacks:
    """The attackers of a protocol and what each can do on clear faces.

    Args:
        ground: the clear side.
        extra: what restorers made of clear faces, per name and embedder.
        remember: where the clear side is stored, so that it is not trained again by another worker or after a restart.

    Attributes:
        all: one per row of the attacker table.
        clear: (role, label, embedder) -> on clear faces.
        backbone: (role, embedder) -> the frozen embedder on clear faces.
    """

    def __init__(
        self, ground: Ground, extra: Mapping[str, Mapping[str, Embeddings]], remember: Remember | None = None
    ) -> None:
        self.ground = ground
        names = list(ground.clear)
        self.all = [
            Attack(each, name)
            for each in ground.protocol.make_attackers()
            for name in (names if "company" not in each.needs else [ALL][: len(names)])
        ]
        naive = [Attack(attacker(NAIVE), name) for name in names]
        views = ground.clear_scene(extra)
        found = self._remembered([*self.all, *naive], views, extra, remember or (lambda _, make: make()))
        self.clear = {(role, *key): outcome for (role, key), outcome in found.items()}
        self.backbone = {(role, name): self.clear[role, NAIVE, name] for role in ("S", "E") for name in names}
        for role in ("S", "E"):
            if names:
                self.backbone[role, ALL] = max(
                    (self.backbone[role, name] for name in names),
                    key=lambda outcome: np.nan_to_num(outcome.rank1(ground.plan).value, nan=-1.0),
                )

    def run(self, attack: Attack, role: str, views: Mapping[tuple[str, str], AttackView]) -> Outcome:
        """One attack on one role of a release."""
        name = next(iter(self.ground.clear)) if attack.embedder == ALL else attack.embedder
        view = views[role, name]
        reason = self.ground.why_not(role) or attack.attacker.problem(view)
        if reason:
            return Outcome.missing(reason)
        above, equal = ranks(view.scores_of(attack.attacker), view.probe_class)
        return Outcome.counted(above, equal, view, self.ground.gallery[role])

    def _remembered(
        self,
        attacks: list[Attack],
        views: Mapping[tuple[str, str], AttackView],
        extra: Mapping[str, Mapping[str, Embeddings]],
        remember: Remember,
    ) -> dict[tuple[str, tuple[str, str]], Outcome]:
        """Outcomes on clear faces, by (role, row)."""
        unique = {attack.key: attack for attack in attacks}
        found: dict[tuple[str, tuple[str, str]], Outcome] = {}

        def make() -> Arrays:
            arrays: dict[str, npt.NDArray[Any]] = {}
            for role in ("S", "E"):
                for (name, embedder), attack in unique.items():
                    outcome = self.run(attack, role, views)
                    place = f"{role}/{name}/{embedder}"
                    if outcome.sums is None:
                        arrays[f"{place}/reason"] = np.array([outcome.reason])
                    else:
                        arrays[f"{place}/ranks"] = np.stack([outcome.above, outcome.equal])
            return arrays

        arrays = remember(self._digest(list(unique.values()), extra), make)
        for role in ("S", "E"):
            for (name, embedder), attack in unique.items():
                place = f"{role}/{name}/{embedder}"
                if f"{place}/reason" in arrays:
                    outcome = Outcome.missing(str(arrays[f"{place}/reason"][0]))
                else:
                    above, equal = arrays[f"{place}/ranks"]
                    first = next(iter(self.ground.clear)) if attack.embedder == ALL else attack.embedder
                    outcome = Outcome.counted(above, equal, views[role, first], self.ground.gallery[role])
                found[role, attack.key] = outcome
        return found

    def _digest(self, attacks: list[Attack], extra: Mapping[str, Mapping[str, Embeddings]]) -> str:
        """Of everything that decides the clear side: code, settings, embeddings, and who has which role."""
        table, protocol = self.ground.table, self.ground.protocol
        digest = hashlib.sha256(_code())
        about = [
            [(attack.key, repr(attack.attacker)) for attack in attacks],
            protocol.seed,
            protocol.assignment,
            self.ground.gallery,
        ]
        digest.update(json.dumps(about, default=str).encode())
        for column in (table.identity, table.role.astype("U1"), table.side.astype("U5")):
            digest.update(np.ascontiguousarray(column).tobytes())
        for what, models in {"": self.ground.clear, **extra}.items():
            for name, rows in models.items():
                digest.update(f"\0{what}\0{name}\0".encode())
                digest.update(rows.row.tobytes() + rows.index.tobytes())
        return digest.hexdigest()[:32]


def settings_text(each: Attacker) -> str:
    """Parameters of an attacker in a line: `epochs=60 penalty=0.001`."""
    given: dict[str, Any] = {item.name: getattr(each, item.name) for item in fields(each)} if is_dataclass(each) else {}
    return " ".join(
        f"{name}={'+'.join(label(member) for member in value) if isinstance(value, tuple) else value}"
        for name, value in given.items()
    )


def _code() -> bytes:
    """Source of the attackers and of how hits are counted."""
    package = Path(__file__).resolve().parent.parent
    files = [*sorted((package / "attackers").rglob("*.py")), package / "metrics" / "identification.py", Path(__file__)]
    return b"\0".join(file.name.encode() + b"\0" + file.read_bytes() for file in files)
