"""A6: adds up what all the others think, over all embedders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raysweep.attackers.adaptive_head import AdaptiveHead
from raysweep.attackers.base import MISSING, Attacker, AttackView, lacking
from raysweep.attackers.ignorant import Ignorant
from raysweep.attackers.lazy import Lazy
from raysweep.attackers.semi_informed import SemiInformed
from raysweep.schema import FloatArray

__all__ = ["Fused"]


@dataclass(frozen=True)
class Fused:
    """Mean of z-normalised scores, z from the impostor scores of role S; over all members and embedders.

    A member that says nothing (cannot run, or scores all impostors of S alike) is left out.

    Args:
        members: whom it asks; the protocol puts in its other attackers.
    """

    members: tuple[Attacker, ...] = (Ignorant(), Lazy(), SemiInformed(), AdaptiveHead())

    id: ClassVar[str] = "A6"
    name: ClassVar[str] = "fused"
    knowledge: ClassVar[str] = "mean of the normalised scores of the other attackers, over all embedders"
    needs: ClassVar[frozenset[str]] = frozenset({"company"})
    reference: ClassVar[str] = "score-level fusion: Jain, Nandakumar and Ross 2005 (z-score)"

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        reason = lacking(self.needs, view)
        if reason:
            return reason
        if any(other.problem() for (role, _), other in view.company.items() if role == "S") or not any(
            role == "S" for role, _ in view.company
        ):
            return "no people in role S to normalise scores with"
        return "" if next(self._voices(view), None) is not None else "no member can run"

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) mean of normalised scores."""
        total = np.zeros((len(view.probe), len(view.classes)))
        for member, here, selection in self._voices(view):
            level, spread = _impostors(selection.scores_of(member), selection)
            if spread > 1e-9:
                total += (here.scores_of(member).astype(np.float64) - level) / spread
        if not total.any():
            return np.full(total.shape, MISSING, dtype=np.float32)
        # Rounded, so that sums that are equal on paper are equal here.
        return np.asarray(np.round(total, 6), dtype=np.float32)

    def _voices(self, view: AttackView) -> Iterator[tuple[Attacker, AttackView, AttackView]]:
        """(member, its view of this role, its view of role S)."""
        for (role, embedder), here in view.company.items():
            selection = view.company.get(("S", embedder))
            if role != view.role or selection is None:
                continue
            for member in self.members:
                if not member.problem(here) and not member.problem(selection):
                    yield member, here, selection


def _impostors(scores: FloatArray, view: AttackView) -> tuple[float, float]:
    """Mean and standard deviation of the impostor scores, over probes that could be embedded."""
    usable = (scores != scores[:, :1]).any(axis=1)
    if not usable.any():
        return 0.0, 0.0
    kept = scores[usable].astype(np.float64)
    impostor = np.ones(kept.shape, dtype=bool)
    impostor[np.arange(len(kept)), view.probe_class[usable]] = False
    values = kept[impostor]
    return float(values.mean()), float(values.std())
