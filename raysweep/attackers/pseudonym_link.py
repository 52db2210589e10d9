"""A7: links the pseudonyms of a person, where each person keeps one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from raysweep.attackers.base import AttackView, Template, checked_template, lacking
from raysweep.attackers.lazy import Lazy
from raysweep.schema import FloatArray

__all__ = ["PseudonymLink"]


@dataclass(frozen=True)
class PseudonymLink:
    """The lazy attacker on a release with `assignment=per_identity`: it measures linkage, not who it is.

    Args:
        template: `best` of a person's enrolled images, or their `mean`.
    """

    template: Template = "best"

    id: ClassVar[str] = "A7"
    name: ClassVar[str] = "pseudonym_link"
    knowledge: ClassVar[str] = "as A1, where each person keeps one pseudonym (assignment=per_identity)"
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = "Article 29 Working Party, Opinion 05/2014 (linkability)"

    def __post_init__(self) -> None:
        checked_template(self.name, self.template)

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        if view.assignment != "per_identity":
            return "each image draws its own randomness: set assignment=per_identity to release pseudonyms"
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) cosine."""
        return view.scores_of(Lazy(self.template))
