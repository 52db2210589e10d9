"""How trials are judged, and what a judgement is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy.typing as npt

from raysweep.attackers import Attacker, attackers_of
from raysweep.attackers.registry import Settings
from raysweep.errors import ConfigError
from raysweep.metrics.uncertainty import Resampling
from raysweep.metrics.value import MetricValue

__all__ = ["Assignment", "Judgement", "Part", "Protocol"]

Assignment = Literal["per_image", "per_identity"]


@dataclass(frozen=True)
class Protocol:
    """How trials are judged: one per study, part of every record's key.

    Attributes:
        gallery_size: q of the standard rank-1; None takes min(20, identities in E).
        attackers: ids or names of `raysweep.attackers.ATTACKERS`.
        attacker_settings: parameters by attacker id, for example {"A3": {"epochs": 60}}.
        assignment: `per_image`, or `per_identity`: what an anonymizer draws, it draws once for each person, who keeps one pseudonym.
        learning_curve: also train A2 and A3 on a quarter and on half of their faces, to see whether more would help them.
        bootstrap: draws; 0 for no intervals.
        seed: of draws, samples and controls.
        minimum_support: fewest images of an expression class that counts.
        minimum_identities: fewest identities for which an interval is stated.
        controls: also run the null and random controls on each trial.
    """

    gallery_size: int | None = None
    attackers: tuple[str, ...] = ("A0", "A1", "A3")
    attacker_settings: Settings = field(default_factory=dict)
    assignment: Assignment = "per_image"
    learning_curve: bool = False
    bootstrap: int = 1000
    seed: int = 0
    minimum_support: int = 5
    minimum_identities: int = 10
    controls: bool = True

    def __post_init__(self) -> None:
        problems = []
        if self.gallery_size is not None and self.gallery_size < 2:
            problems.append(f"gallery_size: {self.gallery_size}; allowed: 2 or more, or none")
        if not self.attackers:
            problems.append("attackers: none given; at least one is needed")
        if self.assignment not in get_args(Assignment):
            problems.append(f"assignment: {self.assignment!r}; allowed: {', '.join(get_args(Assignment))}")
        if self.minimum_support < 1:
            problems.append(f"minimum_support: {self.minimum_support}; allowed: 1 or more")
        if problems:
            raise ConfigError(problems)

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        return Resampling(self.bootstrap, self.seed, self.minimum_identities)

    def make_attackers(self) -> tuple[Attacker, ...]:
        """Instances, with their settings.

        Raises:
            ConfigError: unknown attacker or parameter, one named twice, or settings of one that is not asked.
        """
        return attackers_of(self.attackers, self.attacker_settings)

    def on_rung(self, share: float) -> Protocol:
        """For a share of the people: attackers that train take that share of their epochs, and nothing is judged but the trial itself.

        Like fewer people, fewer epochs can only make an attacker weaker: privacy stays an upper estimate.
        """
        epochs = {each.id: getattr(each, "epochs", 0) for each in self.make_attackers()}
        settings = {key: dict(value) for key, value in self.attacker_settings.items()}
        for key, count in epochs.items():
            if count:
                settings.setdefault(key, {})["epochs"] = max(1, round(count * share))
        return replace(self, controls=False, learning_curve=False, attacker_settings=settings)

    @property
    def extras(self) -> tuple[str, ...]:
        """Names of the embeddings, beside those of the released faces, that attackers need to be measured (`AttackView.extra`)."""
        names = (getattr(each, "extra", "") for each in self.make_attackers())
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True)
class Judgement:
    """What the referee says about one trial.

    Attributes:
        metrics: by name; `privacy` and `utility` are the objectives.
        attackers: one row per attacker and embedder, then the controls: `attacker` (id, with its kind when that is not the usual one),
            `name`, `embedder` (`all` where an attacker joins them), `settings`, `assignment`, `known_to_anonymizer`, `control`, `selected`,
            `selected_on`, `gallery_S`, `rank1_S`, `clear_S`, `advantage_S`, the same for E with `rank1_E_lo` and `rank1_E_hi`, `status`, `reason`.
        evidence: small arrays without faces or embeddings from which the objectives can be computed again, by name.
    """

    metrics: dict[str, MetricValue]
    attackers: list[dict[str, Any]]
    evidence: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What one part of the referee adds to a judgement: `metrics` and `evidence` as there."""

    metrics: dict[str, MetricValue]
    evidence: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
