"""A1: anonymizes its own photographs too, and compares like with like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from raysweep.attackers.base import AttackView, Template, checked_template, compare, lacking
from raysweep.schema import FloatArray

__all__ = ["Lazy"]


@dataclass(frozen=True)
class Lazy:
    """Frozen embedder, anonymized enrolment, cosine.

    Args:
        template: `best` of a person's enrolled images, or their `mean`.
    """

    template: Template = "best"

    id: ClassVar[str] = "A1"
    name: ClassVar[str] = "lazy"
    knowledge: ClassVar[str] = "trained on clear faces; enrolment and probes anonymized"
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = (
        "Newton, Sweeney and Malin 2005 (parrot recognition); VoicePrivacy Challenge (lazy-informed)"
    )

    def __post_init__(self) -> None:
        checked_template(self.name, self.template)

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) cosine."""
        probe, enrol = view.anonymized.take(view.probe), view.anonymized.take(view.enrol)
        return compare(probe, enrol, view.enrol_class, len(view.classes), self.template)
