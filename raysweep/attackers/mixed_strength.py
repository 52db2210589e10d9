"""A2m: knows the method but not its setting, and adapts to faces that were anonymized at many strengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from raysweep.attackers.adapters import AdapterKind
from raysweep.attackers.base import MIXED, AttackView, Template, checked_template, lacking
from raysweep.attackers.semi_informed import adapted_scores, checked_adapter
from raysweep.schema import FloatArray

__all__ = ["MixedStrength"]


@dataclass(frozen=True)
class MixedStrength:
    """As `SemiInformed`, but the anonymized faces it learns on were made at strengths drawn at random.

    Args:
        adapter, epochs, template: as of `SemiInformed`.
        settings: how many settings are drawn from the anonymizer's own `strength` parameters.
    """

    adapter: AdapterKind = "whitening"
    epochs: int = 60
    template: Template = "mean"
    settings: int = 8

    id: ClassVar[str] = "A2m"
    name: ClassVar[str] = "mixed_strength"
    knowledge: ClassVar[str] = (
        "adapter trained on faces of other people anonymized at random strengths; enrolment and probes anonymized"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    reference: ClassVar[str] = "Hao et al. 2020 (partial knowledge)"
    variant: ClassVar[str] = "adapter"

    def __post_init__(self) -> None:
        checked_template(self.name, self.template)
        checked_adapter(self.name, self.adapter, self.epochs)
        if self.settings < 1:
            from raysweep.errors import ConfigError

            raise ConfigError(f"{self.name}: settings={self.settings}; allowed: 1 or more")

    @property
    def extra(self) -> str:
        """The embeddings that must be measured for it."""
        return MIXED

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        return lacking(self.needs, view) or view.without(self.extra)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) cosine in the adapted space."""
        return adapted_scores(view, view.extra[self.extra], (self.id, self.adapter, self.epochs), self)
