"""What all parts of the referee share: labels, clear embeddings, and who is compared with whom."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace
from typing import Any

from raysweep.attackers import AttackView, Embeddings
from raysweep.metrics.uncertainty import Resampling
from raysweep.objective.protocol import Protocol
from raysweep.schema import FaceTable, FloatArray, IntArray

__all__ = ["Ground", "rounded"]

FEWEST_TO_CHOOSE = 3
"""People of S: of two who are both recognised, Wilson's interval still reaches below the chance of one half, so that every attacker would pass
for one who sees nothing."""


class Ground:
    """The clear side, fixed for all trials.

    Args:
        table: labels of the N faces.
        clear: per embedder (N, D) embeddings of the clear faces.
        protocol: how to judge.

    Attributes:
        clear: the same, with equal images kept equal.
        views: (role, embedder) -> who is enrolled and probed.
        gallery: role -> q of the standard rank-1, 0 when nobody can be identified there.
        plan: how intervals are made.
    """

    def __init__(self, table: FaceTable, clear: Mapping[str, FloatArray], protocol: Protocol) -> None:
        self.table = table
        self.protocol = protocol
        self.plan: Resampling = protocol.resampling
        self.clear = {name: Embeddings.of(rows, f"clear faces, {name}") for name, rows in clear.items()}
        self.views = {
            (role, name): AttackView.of(table, role, rows, rows, protocol.seed)
            for role in ("S", "E")
            for name, rows in self.clear.items()
        }
        self.gallery = {role: self._gallery_size(role) for role in ("S", "E")}

    def scene(
        self,
        faces: Mapping[str, Embeddings],
        extra: Mapping[str, Mapping[str, Embeddings]] | None = None,
        absent: Mapping[str, str] | None = None,
        known: Collection[str] = (),
    ) -> dict[tuple[str, str], AttackView]:
        """All views of one release by (role, embedder); what is learned or scored in one is there for the others.

        Args:
            faces: per embedder, of the released faces.
            extra: per name and embedder, see `AttackView.extra`.
            absent: why an extra is not there.
            known: embedders that the anonymizer was trained with, or relatives of theirs.
        """
        views: dict[tuple[str, str], AttackView] = {}
        for name, rows in faces.items():
            learned: dict[Hashable, Any] = {}
            for role in ("S", "E"):
                views[role, name] = replace(
                    self.views[role, name],
                    anonymized=rows,
                    extra={what: found[name] for what, found in (extra or {}).items() if name in found},
                    absent=absent or {},
                    known=name in known,
                    assignment=self.protocol.assignment,
                    company=views,
                    learned=learned,
                )
        return views

    def clear_scene(self, extra: Mapping[str, Mapping[str, Embeddings]]) -> dict[tuple[str, str], AttackView]:
        """The views of a release that changed nothing: the controls of all attackers.

        Args:
            extra: what restorers made of clear faces; where one is missing, a restorer that left them alone.
        """
        whole: dict[str, Mapping[str, Embeddings]] = dict.fromkeys(self.protocol.extras, self.clear)
        return self.scene(self.clear, whole | dict(extra))

    def _gallery_size(self, role: str) -> int:
        """q of a role; 0 when nobody can be identified there."""
        if not self.clear:
            return 0
        view = next(view for (side, _), view in self.views.items() if side == role)
        people = len(view.classes)
        if view.problem():
            return 0
        if role == "E":
            wanted = self.protocol.gallery_size
            return min(20, people) if wanted is None else wanted if wanted <= people else 0
        whole = self._gallery_size("E") or self.protocol.gallery_size or 20
        return min(whole, people) if people >= FEWEST_TO_CHOOSE else 0

    def why_not(self, role: str) -> str:
        """Why nobody can be identified in a role, or empty."""
        if not self.clear:
            return "no embedder"
        view = next(view for (side, _), view in self.views.items() if side == role)
        problem = view.problem()
        if not problem and role == "S" and len(view.classes) < FEWEST_TO_CHOOSE:
            return f"{len(view.classes)} identities in role S: too few to choose by"
        if not problem and not self.gallery[role]:
            return f"gallery size {self.protocol.gallery_size} with {len(view.classes)} identities in role {role}"
        return problem

    def rows(self, role: str) -> IntArray:
        """Row numbers of one role."""
        return self.table.rows(role)


def rounded(value: float) -> float | None:
    """A number for a table: None instead of NaN."""
    return None if math.isnan(value) else float(value)
