"""The objective: what a trial is worth, privacy and utility, and how sure that is."""

from __future__ import annotations

from raysweep.objective.protocol import Judgement, Protocol
from raysweep.objective.referee import Referee

__all__ = ["Judgement", "Protocol", "Referee"]
