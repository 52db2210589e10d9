"""A4: undoes the anonymization as well as it can, then compares the restored face with clear photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from raysweep.attackers.base import RESTORED, AttackView, Template, checked_template, compare, lacking
from raysweep.errors import ConfigError
from raysweep.schema import FloatArray

__all__ = ["RestorerKind", "Reversal"]

RestorerKind = Literal["ridge", "autoencoder", "unet", "operator"]


@dataclass(frozen=True)
class Reversal:
    """A restorer learned on the pixels of T (see `raysweep.attackers.restorers`), then the ignorant attacker on what it restored.

    Args:
        restorer: `ridge` regression on 64 x 64, conv `autoencoder`, small `unet`, or `operator`: optimisation through the known operator.
        epochs: of the networks.
        images: most faces of T that are learned from, taken evenly from all people.
        iterations: of the optimisation through the operator.
        template: as of the ignorant attacker.
    """

    restorer: RestorerKind = "ridge"
    epochs: int = 12
    images: int = 1500
    iterations: int = 80
    template: Template = "best"

    id: ClassVar[str] = "A4"
    name: ClassVar[str] = "reversal"
    knowledge: ClassVar[str] = (
        "restorer trained on pixels of pairs (anonymized, clear) of other people; enrolment clear, probes restored"
    )
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = "Todt, Hanisch and Strufe 2024 (Fantomas); McPherson, Shokri and Shmatikov 2016"
    variant: ClassVar[str] = "restorer"

    def __post_init__(self) -> None:
        checked_template(self.name, self.template)
        problems = []
        if self.restorer not in get_args(RestorerKind):
            problems.append(f"{self.name}: restorer={self.restorer!r}; allowed: {', '.join(get_args(RestorerKind))}")
        problems += [
            f"{self.name}: {name}={value}; allowed: {least} or more"
            for name, value, least in (
                ("epochs", self.epochs, 0),
                ("images", self.images, 2),
                ("iterations", self.iterations, 0),
            )
            if value < least
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def extra(self) -> str:
        """The embeddings that must be measured for it."""
        return RESTORED + self.restorer

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        return lacking(self.needs, view) or view.without(self.extra)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) cosine of the restored probe with clear enrolment."""
        probe, enrol = view.extra[self.extra].take(view.probe), view.clear.take(view.enrol)
        return compare(probe, enrol, view.enrol_class, len(view.classes), self.template)
