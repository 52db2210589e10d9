"""From a crop to what the generator sees, and back: box, window, mask, latents.

The published order (arXiv 2211.09454, and its inference code): a detector's box, a square window around it that may leave the picture
(black there), resized to the generator's side; the box is a rectangle of zeros in the mask, and mid-grey in the condition. The painted
window is resized back and only the pixels under the rectangle are written, with a hard edge.

No detector runs here: crops are aligned, so the box follows from the five points. `TEMPLATE_BOX` is where a detector trained on WIDER FACE puts
its box when the five points lie on the ArcFace template (median of SCRFD over aligned photographs); a face's own box is that rectangle shifted and
scaled as its points are, upright as a detector's. On frontal photographs it lies within 7 of 160 pixels of SCRFD's own box; on heads turned
far aside, whose points move more than their outline, up to 14 pixels towards the side they look to.

Both resizings are matrix products along rows and along columns, one matrix per face, so that faces of different windows share a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from raysweep.errors import TrialError
from raysweep.preprocess.align import similarity
from raysweep.schema import ARCFACE_POINTS, FloatArray, IntArray

__all__ = [
    "TEMPLATE_BOX",
    "WINDOW",
    "Places",
    "compose",
    "condition",
    "face_boxes",
    "latent_index",
    "latents",
    "masks",
    "pictures",
    "place",
    "rectangles",
]

TEMPLATE_BOX = (16.0, 10.0, 96.0, 119.0)
"""x0, y0, x1, y1, edges in template pixels."""

WINDOW = 1.4
"""Side of the window over the longer side of the box, for the network of 256 pixels."""

MIN_BOX = 4.0
"""Pixels of the crop; less is no face."""

REACH = 1
"""How many crop sides a window may reach beyond the crop; 1.7 times a box within the crop stays below."""


@dataclass(frozen=True)
class Places:
    """Where n pictures lie in their crops.

    Attributes:
        box: (n, 4) int64 x0, y0, x1, y1 edges in crop pixels: what is removed; within the crop.
        window: (n, 3) int64 x0, y0, side: the generator's picture, may leave the crop.
    """

    box: IntArray
    window: IntArray

    def __len__(self) -> int:
        return len(self.box)


def face_boxes(points: FloatArray, scale: float = 1.0) -> npt.NDArray[np.float64]:
    """The detector's box of each face, by its five points.

    Args:
        points: (n, 5, 2) crop pixels, order of `ARCFACE_POINTS`.
        scale: of the box about its centre.

    Returns:
        (n, 4) float64 x0, y0, x1, y1 edges in crop pixels (a crop of side S has its edges at 0 and S); NaN where points are not usable.
    """
    matrix = similarity(np.broadcast_to(ARCFACE_POINTS, points.shape), points)
    growth = np.hypot(matrix[:, 0, 0], matrix[:, 1, 0])
    x0, y0, x1, y1 = TEMPLATE_BOX
    # Points count from the centre of the first pixel, edges from its corner.
    centre = matrix[:, :, :2] @ np.array([(x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5]) + matrix[:, :, 2] + 0.5
    half = np.array([(x1 - x0) / 2, (y1 - y0) / 2]) * (scale * growth[:, None])
    # The last bits may differ with the batch; what follows must not.
    return np.asarray(np.concatenate([centre - half, centre + half], axis=1).round(6))


def place(boxes: npt.NDArray[np.float64], side: int, ratio: float = WINDOW) -> Places:
    """Clip boxes to the crop, round them to whole pixels, and put the window around.

    Args:
        boxes: (n, 4) float64 of `face_boxes`.
        side: of the crop.
        ratio: window over box.

    Raises:
        TrialError: a box is not finite or lies outside its crop.
    """
    clipped = np.clip(boxes, 0, side)
    # A comparison with NaN is false.
    unusable = np.flatnonzero(~(clipped[:, 2:] - clipped[:, :2] >= MIN_BOX).all(axis=1))
    if len(unusable):
        row = int(unusable[0])
        raise TrialError(
            f"deepprivacy2: face {row} of the batch has no face box within its crop (box {boxes[row].tolist()}): "
            "its five points are wrong; prepare the data again"
        )
    box = np.rint(clipped).astype(np.int64)
    size = box[:, 2:] - box[:, :2]
    centre = box[:, :2] + size // 2
    half = (ratio * size.max(axis=1)).round(6).astype(np.int64) // 2
    return Places(box, np.concatenate([centre - half[:, None], 2 * half[:, None]], axis=1))


def rectangles(places: Places, size: int) -> IntArray:
    """(n, 4) int64: the box in the generator's picture of `size` pixels, truncated as published."""
    origin = np.tile(places.window[:, :2], 2)
    return np.asarray((places.box - origin) * size // places.window[:, 2:])


def pictures(images: torch.Tensor, places: Places, size: int) -> torch.Tensor:
    """The windows as pictures, black beyond the crop.

    Args:
        images: (n, 3, S, S) uint8 RGB.
        places: of these crops.
        size: side of the pictures.

    Returns:
        (n, 3, size, size) float32 in [-1, 1], whole grey levels.
    """
    window = torch.from_numpy(places.window).to(images.device)
    side = images.shape[-1]
    rows, columns = (_into(window[:, axis], window[:, 2], side, size) for axis in (1, 0))
    seen = rows[:, None] @ images.float() @ columns[:, None].mT
    return seen.round().clamp(0, 255).sub(127.5).div(127.5)


def masks(places: Places, size: int, device: torch.device) -> torch.Tensor:
    """(n, 1, size, size) float32 of the windows as pictures: 1 keeps, 0 paints."""
    return 1.0 - _inside(rectangles(places, size), torch.arange(size, device=device)).float()


def condition(images: torch.Tensor, places: Places, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The generator's input.

    Args:
        images: (n, 3, S, S) uint8 RGB.
        places: of these crops.
        size: side of the generator's picture.

    Returns:
        condition (n, 3, size, size) float32 in [-1, 1], 0 (mid-grey) where the mask is 0; mask (n, 1, size, size) float32, 1 keeps, 0 paints.
    """
    mask = masks(places, size, images.device)
    return pictures(images, places, size) * mask, mask


def compose(images: torch.Tensor, painted: torch.Tensor, places: Places) -> torch.Tensor:
    """Write what was painted into the crops.

    Args:
        images: (n, 3, S, S) uint8 RGB.
        painted: (n, 3, size, size) float32, the generator's picture, about [-1, 1].
        places: of these crops.

    Returns:
        (n, 3, S, S) uint8: other pixels only where the mask, brought back by nearest pixel, is 0.
    """
    window = torch.from_numpy(places.window).to(images.device)
    side, size = images.shape[-1], painted.shape[-1]
    rows, columns = (_out_of(window[:, axis], window[:, 2], side, size) for axis in (1, 0))
    pixels = painted.float().add(1.0).div(2.0).clamp(0.0, 1.0).mul(255.0)
    back = (rows[:, None] @ pixels @ columns[:, None].mT).round().clamp(0, 255).to(torch.uint8)
    # Which pixel of the mask a pixel of the crop shows.
    nearest = [
        torch.div(
            (torch.arange(side, device=images.device) - window[:, axis, None]) * size,
            window[:, 2, None],
            rounding_mode="floor",
        )
        for axis in (0, 1)
    ]
    return torch.where(_inside(rectangles(places, size), nearest[0], nearest[1]), back, images)


def latent_index(seed: IntArray) -> IntArray:
    """(n,) seeds of any size -> numbers that a `RandomState` takes, 0 to 2 ** 32 - 1."""
    return seed % 2**32


def latents(index: IntArray, length: int) -> torch.Tensor:
    """(n, length) float32 standard normal: each row the first draw of the legacy generator with that seed, as published."""
    rows = [np.random.RandomState(int(number)).normal(size=(1, length)) for number in index]
    return torch.from_numpy(np.concatenate([np.empty((0, length)), *rows]).astype(np.float32))


# ---------------------------------------------------------------- resampling along one axis


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' cubic with a = -0.5, the kernel of antialiased bicubic resizing in Pillow and torch."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))


def _into(start: torch.Tensor, length: torch.Tensor, side: int, size: int) -> torch.Tensor:
    """Weights of the crop's pixels in the pixels of a resized window, per face.

    Antialiased bicubic where the window is smaller than the picture, else area; the filter stays within the window, beyond the crop is black.

    Args:
        start, length: (n,) int64, the window along this axis.
        side: of the crop.
        size: of the picture.

    Returns:
        (n, size, side) float32.
    """
    step = (length.double() / size)[:, None, None]
    # Pixels of the crop and of the black around it: filters are normalised over the window, wherever it lies.
    pixel = torch.arange(-REACH * side, (REACH + 1) * side, device=start.device)
    offset = (pixel[None, :] - start[:, None]).double()[:, None, :]
    within = (offset >= 0) & (offset < length[:, None, None])
    number = torch.arange(size, device=start.device, dtype=torch.float64)[None, :, None]
    cubic = _cubic(offset + 0.5 - (number + 0.5) * step)
    area = (torch.minimum(offset + 1.0, (number + 1.0) * step) - torch.maximum(offset, number * step)).clamp_min(0.0)
    weight = torch.where(step < 1.0, cubic, area) * within
    weight = weight / weight.sum(dim=2, keepdim=True)
    return weight[:, :, REACH * side : (REACH + 1) * side].float()


def _out_of(start: torch.Tensor, length: torch.Tensor, side: int, size: int) -> torch.Tensor:
    """Weights of the picture's pixels in the crop's, per face: antialiased bicubic to the window's size; 0 outside of the window.

    Returns:
        (n, side, size) float32.
    """
    step = (size / length.double())[:, None, None]
    offset = (torch.arange(side, device=start.device) - start[:, None])[:, :, None]
    within = (offset >= 0) & (offset < length[:, None, None])
    pixel = torch.arange(size, device=start.device, dtype=torch.float64)[None, None, :]
    weight = _cubic((pixel + 0.5 - (offset.double() + 0.5) * step) / step.clamp_min(1.0)) * within
    return (weight / weight.sum(dim=2, keepdim=True).where(within, 1.0)).float()


def _inside(rectangle: IntArray, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """(n, 1, H, W) bool: columns x (W,) or (n, W) and rows y (default: x) within x0, y0, x1, y1."""
    y = x if y is None else y
    x0, y0, x1, y1 = torch.from_numpy(rectangle).to(x.device).T[:, :, None]
    across, down = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    inside: torch.Tensor = down[:, :, None] & across[:, None, :]
    return inside[:, None]
