"""How trials are judged, and what a judgement is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from raysweep.attackers import Attacker, attacker
from raysweep.errors import ConfigError
from raysweep.metrics.uncertainty import Resampling
from raysweep.metrics.value import MetricValue

__all__ = ["Judgement", "Part", "Protocol"]


@dataclass(frozen=True)
class Protocol:
    """How trials are judged: one per study, part of every record's key.

    Attributes:
        gallery_size: q of the standard rank-1; None takes min(20, identities in E).
        attackers: ids or names of `raysweep.attackers.ATTACKERS`.
        attacker_settings: parameters by attacker id, for example {"A3": {"epochs": 60}}.
        bootstrap: draws; 0 for no intervals.
        seed: of draws, samples and controls.
        minimum_support: fewest images of an expression class that counts.
        minimum_identities: fewest identities for which an interval is stated.
        controls: also run the null and random controls on each trial.
    """

    gallery_size: int | None = None
    attackers: tuple[str, ...] = ("A0", "A1", "A3")
    attacker_settings: Mapping[str, Mapping[str, int | float]] = field(default_factory=dict)
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
            ConfigError: unknown attacker or parameter, or one named twice.
        """
        made = []
        for name in self.attackers:
            plain = attacker(name)
            settings = {**self.attacker_settings.get(plain.id, {}), **self.attacker_settings.get(plain.name, {})}
            made.append(attacker(name, **settings) if settings else plain)
        ids = [each.id for each in made]
        if len(set(ids)) < len(ids):
            raise ConfigError(f"attackers: {', '.join(ids)}; each may be named once")
        unused = set(self.attacker_settings) - {key for each in made for key in (each.id, each.name)}
        if unused:
            raise ConfigError(
                f"attacker_settings: {', '.join(sorted(unused))} is not among the attackers {', '.join(ids)}"
            )
        return tuple(made)


@dataclass(frozen=True)
class Judgement:
    """What the referee says about one trial.

    Attributes:
        metrics: by name; `privacy` and `utility` are the objectives.
        attackers: one row per attacker and embedder, then the controls: `attacker`, `name`, `embedder`, `control`, `selected`,
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
