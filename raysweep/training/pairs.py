"""Conditions and the faces that belong to them: what a conditional generator learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from raysweep.anonymizers.ganonymization.conditioning import condition, resize_mask
from raysweep.anonymizers.ganonymization.picture import FACE, cut, shares
from raysweep.errors import ConfigError
from raysweep.preprocess.frame import extract

if TYPE_CHECKING:
    from raysweep.schema import AlignedFaces, ByteArray, Frame
    from raysweep.training.trainer import Batch

__all__ = ["PairExamples", "Pairs", "mask_of_picture"]

CHUNK = 128


@dataclass(frozen=True)
class Pairs:
    """Conditions and the faces that belong to them.

    Attributes:
        crop: (N, S, S, 3) uint8 RGB clear crops.
        frame: of the crops.
        target: (N, 3, size, size) uint8, what the generator should draw: the picture at its size, on black where a mask tells the background.
        landmarks: (N, K, 2) float32 shares of the picture, or None.
        mask: (N, size, size) uint8 labels, or None.
        size: side of the generator's pictures.
        kind: of condition.
        picture: part of the crop that the picture covers.
    """

    crop: ByteArray
    frame: Frame
    target: torch.Tensor
    landmarks: torch.Tensor | None
    mask: torch.Tensor | None
    size: int
    kind: str
    picture: str = "crop"

    @classmethod
    def of(cls, faces: AlignedFaces, size: int, kind: str, picture: str = "crop") -> Pairs:
        """From aligned faces.

        Raises:
            ConfigError: the faces lack what the condition is drawn from.
        """
        if "landmarks" in kind and faces.landmarks is None:
            raise ConfigError(
                f"ganonymization: conditioning = {kind!r} needs faces with dense landmarks; prepare them first"
            )
        if "mask" in kind and faces.mask is None:
            raise ConfigError(
                f"ganonymization: conditioning = {kind!r} needs faces with a parsing mask; prepare them first"
            )
        mask = None
        if faces.mask is not None:
            mask = mask_of_picture(torch.from_numpy(np.ascontiguousarray(faces.mask)), faces.frame, picture, size)
        landmarks = None
        if faces.landmarks is not None:
            landmarks = shares(torch.from_numpy(np.ascontiguousarray(faces.landmarks)), faces.frame, picture)
        parts = [
            cut(faces.crop[start : start + CHUNK], faces.frame, picture, size) for start in range(0, len(faces), CHUNK)
        ]
        target = torch.cat(parts) if parts else torch.zeros(0, 3, size, size, dtype=torch.uint8)
        if mask is not None:
            target = torch.where(mask[:, None] == 0, 0, target)
        return cls(faces.crop, faces.frame, target, landmarks, mask if "mask" in kind else None, size, kind, picture)

    def __len__(self) -> int:
        return len(self.target)

    def condition(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """(n, C, size, size) float32 for some rows."""
        landmarks = self.landmarks[rows].to(device) if self.landmarks is not None and "landmarks" in self.kind else None
        mask = self.mask[rows].to(device) if self.mask is not None else None
        return condition(landmarks, mask, self.size, self.kind)

    def targets(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """(n, 3, size, size) float32 in [-1, 1] for some rows."""
        return self.target[rows].to(device).float().div_(127.5).sub_(1.0)


@dataclass(frozen=True)
class PairExamples:
    """Pairs as `raysweep.training.trainer.Examples`: `rows`, `condition` and `target` of each batch.

    Attributes:
        pairs: all of them.
        device: where conditions are drawn.
    """

    pairs: Pairs
    device: torch.device

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, rows: torch.Tensor, random: torch.Generator) -> Batch:
        """`rows` (n,) int64, `condition` (n, C, size, size) and `target` (n, 3, size, size), float32 in [-1, 1]; nothing is drawn at random."""
        return {
            "rows": rows,
            "condition": self.pairs.condition(rows, self.device),
            "target": self.pairs.targets(rows, self.device),
        }


def mask_of_picture(mask: torch.Tensor, frame: Frame, picture: str, size: int) -> torch.Tensor:
    """Labels (n, S, S) of crops -> (n, size, size) of the picture, nearest pixel; background beyond the crop."""
    if picture == "crop":
        return resize_mask(mask, size)
    # Numbers of pixels go through the same geometry as pictures do: extracted coordinates tell which pixel is nearest.
    side = frame.size
    ramp = torch.arange(1, side + 1, dtype=torch.float64).expand(side, side)
    inside = torch.ones(side, side, dtype=torch.float64)
    x, y, there = extract(torch.stack([ramp, ramp.T, inside])[None], frame, FACE, size)[0]
    seen = there > 0.5
    safe = there.clamp_min(1e-9)
    column = (x / safe).round().long().clamp(1, side) - 1
    row = (y / safe).round().long().clamp(1, side) - 1
    picked = mask[:, row.to(mask.device), column.to(mask.device)]
    return torch.where(seen.to(mask.device), picked, 0).to(mask.dtype)
