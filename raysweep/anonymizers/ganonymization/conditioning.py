"""What the generator sees in place of the photograph: landmarks as light dots on black, and optionally the parsing mask."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F

from raysweep.schema import PARTS

__all__ = ["CONDITIONINGS", "DOT", "Conditioning", "condition", "condition_channels", "draw_landmarks", "resize_mask"]

Conditioning = Literal["landmarks", "landmarks+mask", "mask"]
CONDITIONINGS: tuple[Conditioning, ...] = get_args(Conditioning)

DOT = 224
"""Brightness of a dot: what MediaPipe's anti-aliased circle of radius 0 comes to, as measured on the published pictures."""

DRAWING_SIDE = 128
"""Pictures smaller than this are drawn larger and averaged down: five pixels for a dot would melt a mouth of 20 points into a blot."""

PLUS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def draw_landmarks(landmarks: torch.Tensor, size: int) -> torch.Tensor:
    """A plus of 5 pixels, value 224, for each landmark, on black; as GANonymization draws (arXiv 2305.02143, section 3.2).

    Args:
        landmarks: (n, K, 2) float x, y as shares of the picture: 0 is its left or top edge, 1 the right or bottom one. A point
            outside is not drawn; one on the far edge lands on the last pixel.
        size: side of the picture in pixels.

    Returns:
        (n, size, size) uint8, 0 or 224.
    """
    n = len(landmarks)
    inside = ((landmarks >= 0) & (landmarks <= 1)).all(-1)
    pixel = (landmarks.nan_to_num(0.0) * size).floor().clamp(0, size - 1).long()
    # One pixel of border takes the arms that stick out; points that are not drawn go to its corner.
    side = size + 2
    canvas = torch.zeros(n, side * side, dtype=torch.uint8, device=landmarks.device)
    for right, down in PLUS:
        index = (pixel[..., 1] + 1 + down) * side + pixel[..., 0] + 1 + right
        canvas.scatter_(1, torch.where(inside, index, 0), DOT)
    return canvas.view(n, side, side)[:, 1:-1, 1:-1]


def resize_mask(mask: torch.Tensor, size: int) -> torch.Tensor:
    """Labels (n, S, S) -> (n, size, size) of the same type, nearest pixel centre."""
    if mask.shape[-1] == size:
        return mask
    index = ((torch.arange(size, device=mask.device) + 0.5) * (mask.shape[-1] / size)).long()
    return mask[:, index][:, :, index]


def condition_channels(kind: str) -> int:
    """Channels of `condition`."""
    return 3 * ("landmarks" in kind) + len(PARTS) * ("mask" in kind)


def condition(landmarks: torch.Tensor | None, mask: torch.Tensor | None, size: int, kind: str) -> torch.Tensor:
    """The generator's input.

    Args:
        landmarks: (n, K, 2) shares of the picture, as in `draw_landmarks`; may be None for `mask`.
        mask: (n, S, S) uint8 labels of `PARTS`; may be None for `landmarks`.
        size: side of the generator's picture.
        kind: `landmarks` (published; three equal channels), `mask` (one channel per part) or `landmarks+mask`.

    Returns:
        (n, C, size, size) float32: background -1, dots +0.757 (averaged with their surroundings below 128 pixels), a part's pixels +1 in
        its channel.

    Raises:
        ValueError: what `kind` asks for is not given.
    """
    parts = []
    if "landmarks" in kind:
        if landmarks is None:
            raise ValueError(f"conditioning {kind!r} needs landmarks")
        times = max(1, DRAWING_SIDE // size)
        dots = draw_landmarks(landmarks, times * size)[:, None].float() / 127.5 - 1.0
        if times > 1:
            dots = F.avg_pool2d(dots, times)
        parts.append(dots.expand(-1, 3, -1, -1))
    if "mask" in kind:
        if mask is None:
            raise ValueError(f"conditioning {kind!r} needs a parsing mask")
        labels = resize_mask(mask, size).long().clamp(0, len(PARTS) - 1)
        parts.append(F.one_hot(labels, len(PARTS)).permute(0, 3, 1, 2).float() * 2.0 - 1.0)
    return torch.cat(parts, dim=1).contiguous()
