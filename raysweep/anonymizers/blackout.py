"""Blackout: the strongest and least useful anonymizer, a fixed point of every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from raysweep.anonymizers.base import Anonymizer

if TYPE_CHECKING:
    from raysweep.schema import FaceBatch

__all__ = ["Blackout"]


class Blackout(Anonymizer):
    """Every pixel of the crop becomes black, not only those of the face: no outline is left to attack. No parameters."""

    name = "blackout"
    reference = "control of perfect privacy without utility"

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """(n, 3, S, S) uint8 -> zeros of the same shape."""
        return torch.zeros_like(faces.image)
