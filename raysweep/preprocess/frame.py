"""Cut the part that a network wants out of an aligned crop."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raysweep.schema import Frame

if TYPE_CHECKING:
    import torch

__all__ = ["extract"]

Region = tuple[float, float, float, float]


def extract(images: torch.Tensor, frame: Frame, region: Region, size: int) -> torch.Tensor:
    """Cut `region` out of the crops and bring it to `size`.

    An integer window that already has the right size is an exact slice: bit identical, nothing is resampled. Anything else is an
    antialiased bilinear (triangle filter) resampling, for a window of whole pixels the same as
    `torch.nn.functional.interpolate(mode="bilinear", antialias=True)` on that window. What lies beyond the crop is black.
    Differentiable for floating point input.

    Args:
        images: (n, 3, S, S) with S == frame.size, uint8 0 to 255 or floating point of any range.
        frame: geometry of the crops.
        region: (x0, y0, x1, y1) edges in template pixels; (0, 0, 112, 112) is the ArcFace crop.
        size: side of the result in pixels.

    Returns:
        (n, 3, size, size), the dtype and device of `images` (uint8 is rounded to nearest).

    Raises:
        ValueError: the images are not of this frame, or the region or the size is empty.
    """
    import torch

    if images.ndim != 4 or images.shape[-1] != frame.size or images.shape[-2] != frame.size:
        raise ValueError(f"extract: images of shape {tuple(images.shape)} are not (n, 3, {frame.size}, {frame.size})")
    if region[2] <= region[0] or region[3] <= region[1] or size < 1:
        raise ValueError(f"extract: empty region {region} or size {size}")
    # Edges (not centres) of the window in crop pixels; 1e-6 swallows the rounding of the scale's division.
    x0, y0, x1, y1 = (_snap((edge + frame.margin) * frame.scale) for edge in region)

    exact = all(edge.is_integer() for edge in (x0, y0, x1, y1)) and x1 - x0 == size and y1 - y0 == size
    if exact:
        return _window(images, int(x0), int(y0), size)

    floating = images if images.is_floating_point() else images.to(torch.float32)
    rows = torch.tensor(_weights(frame.size, y0, y1, size), dtype=floating.dtype, device=images.device)
    columns = torch.tensor(_weights(frame.size, x0, x1, size), dtype=floating.dtype, device=images.device)
    resized = rows @ floating @ columns.T
    return resized if images.is_floating_point() else resized.round().clamp(0, 255).to(images.dtype)


def _snap(edge: float) -> float:
    nearest = round(edge)
    return float(nearest) if abs(edge - nearest) < 1e-6 else float(edge)


def _window(images: torch.Tensor, x: int, y: int, size: int) -> torch.Tensor:
    """The window of whole pixels with its top-left pixel at (x, y), black beyond the image."""
    import torch

    side = images.shape[-1]
    left, top = max(x, 0), max(y, 0)
    right, bottom = max(min(x + size, side), left), max(min(y + size, side), top)
    inside = images[..., top:bottom, left:right]
    if inside.shape[-1] == size and inside.shape[-2] == size:
        return inside
    # A window wholly outside has an empty inside, and any padding that adds up is right.
    before_x, before_y = min(left - x, size), min(top - y, size)
    padding = (
        before_x,
        size - before_x - inside.shape[-1],
        before_y,
        size - before_y - inside.shape[-2],
    )
    return torch.nn.functional.pad(inside, padding)


@lru_cache(maxsize=256)
def _weights(side: int, start: float, stop: float, size: int) -> npt.NDArray[np.float64]:
    """(size, side) weights of the triangle filter along one axis; a row sums to 1 unless it reaches beyond the image.

    The filter sees only pixels that the window touches: black ones where the window leaves the image.
    """
    first, last = math.floor(start), math.ceil(stop)
    step = (stop - start) / size
    support = max(step, 1.0)
    centres = start + (np.arange(size) + 0.5) * step
    pixels = np.arange(first, last) + 0.5
    weights = np.clip(1.0 - np.abs(pixels[None, :] - centres[:, None]) / support, 0.0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    inside = np.zeros((size, side))
    low, high = max(first, 0), min(last, side)
    if high > low:
        inside[:, low:high] = weights[:, low - first : high - first]
    inside.setflags(write=False)
    return inside
