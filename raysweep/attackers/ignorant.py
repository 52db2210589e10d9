"""A0: knows nothing of the anonymization. Compares anonymized probes with clear photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from raysweep.attackers.base import AttackView, cosine, lacking, per_identity
from raysweep.schema import FloatArray

__all__ = ["Ignorant"]


@dataclass(frozen=True)
class Ignorant:
    """Frozen embedder, clear enrolment, best cosine over a person's images."""

    id: ClassVar[str] = "A0"
    name: ClassVar[str] = "ignorant"
    knowledge: ClassVar[str] = "trained on clear faces; enrolment clear, probes anonymized"
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = "Newton, Sweeney and Malin 2005 (naive recognition); VoicePrivacy Challenge (ignorant)"

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) best cosine."""
        pairs = cosine(view.anonymized.take(view.probe), view.clear.take(view.enrol))
        return per_identity(pairs, view.enrol_class, len(view.classes))
