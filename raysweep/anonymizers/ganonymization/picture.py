"""Which part of a crop the generator's square picture covers, and the way there and back.

`crop`: all of it, so that nothing of the photograph's surroundings is left over either. `face`: the square that upstream cuts around the
detector's box, without margin (arXiv 2305.02143; `retina-face` with its default margin of 0), which is what the published weights have seen;
what lies beyond is black in the result, as the published faces are on black.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F

from raysweep.preprocess.frame import extract
from raysweep.schema import ARCFACE_SIZE, ByteArray, Frame

__all__ = ["FACE", "PICTURES", "Picture", "as_crops", "cut", "place", "shares"]

Picture = Literal["crop", "face"]
PICTURES: tuple[Picture, ...] = get_args(Picture)

FACE = (1.5, 10.0, 110.5, 119.0)
"""Edges of the square picture in template pixels. A detector's box is higher than wide, so its height decides: the median box of SCRFD on
aligned photographs is (16, 10, 96, 119), here padded to a square. Upstream's own detector (RetinaFace) was not at hand to compare."""


def shares(points: torch.Tensor, frame: Frame, picture: str) -> torch.Tensor:
    """(..., 2) crop pixels (centre of the first pixel at 0) -> shares of the picture (its edges at 0 and 1); beyond them where it is left."""
    if picture == "crop":
        return (points + 0.5) / frame.size
    x0, y0, x1, _ = FACE
    template = (points + 0.5) / frame.scale - frame.margin
    return (template - template.new_tensor([x0, y0])) / (x1 - x0)


def cut(crops: ByteArray, frame: Frame, picture: str, size: int) -> torch.Tensor:
    """(n, S, S, 3) uint8 crops -> (n, 3, size, size) uint8, what the picture shows of them, antialiased; black beyond the crop."""
    images = torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
    if picture == "face":
        return extract(images, frame, FACE, size)
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True).round().to(torch.uint8)


def as_crops(face: torch.Tensor, frame: Frame, picture: str) -> torch.Tensor:
    """(n, 3, size, size) float in [-1, 1] -> crops (n, 3, S, S) float in [0, 1], differentiable; black beyond the picture."""
    pixels = (face.float() + 1.0) / 2.0
    size, side = face.shape[-1], frame.size
    if picture == "face":
        # The crop's edges in units of 1/112 of the picture: then the picture is itself a frame without margin.
        unit = ARCFACE_SIZE / (FACE[2] - FACE[0])
        low, high = -frame.margin, ARCFACE_SIZE + frame.margin
        x0, y0, x1, y1 = (
            (edge - start) * unit for edge, start in zip((low, low, high, high), FACE[:2] * 2, strict=True)
        )
        return extract(pixels, Frame(size), (x0, y0, x1, y1), side)
    if size == side:
        return pixels
    return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=side < size, align_corners=False)


def place(face: torch.Tensor, frame: Frame, picture: str) -> torch.Tensor:
    """As `as_crops`, (n, 3, S, S) uint8."""
    return (as_crops(face, frame, picture) * 255.0).round().clamp(0, 255).to(torch.uint8)
