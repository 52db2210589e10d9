"""The ladder of attackers, from one who knows nothing of the anonymization to one who trains on its output."""

from __future__ import annotations

from collections.abc import Callable

from raysweep.attackers.adaptive_head import AdaptiveHead
from raysweep.attackers.base import Attacker, AttackView, Embeddings
from raysweep.attackers.ignorant import Ignorant
from raysweep.attackers.lazy import Lazy
from raysweep.attackers.semi_informed import SemiInformed
from raysweep.errors import ConfigError, nearest

__all__ = ["ATTACKERS", "AttackView", "Attacker", "Embeddings", "attacker"]

ATTACKERS: dict[str, Callable[..., Attacker]] = {kind.id: kind for kind in (Ignorant, Lazy, SemiInformed, AdaptiveHead)}
"""By id; `attacker` also takes the long name."""


def attacker(name: str, **parameters: int | float) -> Attacker:
    """Make an attacker by id (`A1`) or name (`lazy`).

    Raises:
        ConfigError: no such attacker, or no such parameter.
    """
    kinds = {**ATTACKERS, **{kind.name: kind for kind in ATTACKERS.values()}}  # type: ignore[attr-defined]
    if name not in kinds:
        raise ConfigError(f"unknown attacker {name!r}{nearest(name, list(kinds))}; known: {', '.join(kinds)}")
    try:
        return kinds[name](**parameters)
    except TypeError as error:
        raise ConfigError(f"attacker {name}: {error}") from error
