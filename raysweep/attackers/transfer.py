"""A5: attacks through an embedder that the anonymizer has never seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from raysweep.attackers.base import Attacker, AttackView
from raysweep.attackers.ignorant import Ignorant
from raysweep.attackers.lazy import Lazy
from raysweep.attackers.semi_informed import SemiInformed
from raysweep.errors import ConfigError
from raysweep.schema import FloatArray

__all__ = ["Base", "Transfer"]

Base = Literal["A0", "A1", "A2"]


@dataclass(frozen=True)
class Transfer:
    """A0, A1 or A2 through embedders whose descent no loss term of the trial shares.

    An anonymizer that was trained against an embedder may fool that one alone. Where the base attacker runs as well, nothing is computed
    twice.

    Args:
        base: which of the three.
    """

    base: Base = "A2"

    id: ClassVar[str] = "A5"
    name: ClassVar[str] = "transfer"
    knowledge: ClassVar[str] = "as A0, A1 or A2, through an embedder unknown to the anonymizer"
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = "Kuang et al. 2024 (the false sense of privacy against one known recogniser)"
    variant: ClassVar[str] = "base"
    expands: ClassVar[tuple[str, ...]] = get_args(Base)

    def __post_init__(self) -> None:
        if self.base not in get_args(Base):
            raise ConfigError(f"{self.name}: base={self.base!r}; allowed: {', '.join(get_args(Base))}")

    @property
    def attacker(self) -> Attacker:
        """The base."""
        made: dict[str, Attacker] = {"A0": Ignorant(), "A1": Lazy(), "A2": SemiInformed()}
        return made[self.base]

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        if view.known:
            return "the anonymizer was trained with this embedder or a relative: add one of another descent"
        return self.attacker.problem(view)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) of the base."""
        return view.scores_of(self.attacker)
