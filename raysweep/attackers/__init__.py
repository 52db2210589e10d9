"""The ladder of attackers, from one who knows nothing of the anonymization to one who trains on its output."""

from __future__ import annotations

from raysweep.attackers.base import Attacker, AttackView, Embeddings
from raysweep.attackers.registry import ATTACKERS, attacker, attackers_of, label

__all__ = ["ATTACKERS", "AttackView", "Attacker", "Embeddings", "attacker", "attackers_of", "label"]
