"""Pixelation (mosaic) in whole numbers: the same pixel on any device and in any batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from raysweep.anonymizers.base import Anonymizer
from raysweep.search.parameters import Int, Parameter

if TYPE_CHECKING:
    from raysweep.schema import FaceBatch

__all__ = ["Pixelate", "pixelate"]


def pixelate(images: torch.Tensor, block_size: int) -> torch.Tensor:
    """Replace each block by its mean, rounded half up.

    Blocks start at the top left; where a side is no multiple of the block, the last block is smaller and its mean is over its own pixels.

    Args:
        images: (n, C, H, W) uint8, any device.
        block_size: side of a block in pixels, at least 1.

    Returns:
        (n, C, H, W) uint8.

    Raises:
        ValueError: block below 1, or images not uint8.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, not {block_size}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, not {images.dtype}")
    n, channels, height, width = images.shape
    down, across = -(-height // block_size), -(-width // block_size)
    padded = F.pad(images, (0, across * block_size - width, 0, down * block_size - height))
    blocks = padded.view(n, channels, down, block_size, across, block_size)
    total = blocks.sum(5, dtype=torch.int32).sum(3, dtype=torch.int32)
    rows = _lengths(height, block_size, down, images.device)
    columns = _lengths(width, block_size, across, images.device)
    count = rows[:, None] * columns[None, :]
    mean = torch.div(2 * total + count, 2 * count, rounding_mode="floor").to(torch.uint8)
    spread = mean[:, :, :, None, :, None].expand(n, channels, down, block_size, across, block_size)
    return spread.reshape(n, channels, down * block_size, across * block_size)[..., :height, :width].contiguous()


def _lengths(side: int, block_size: int, blocks: int, device: torch.device) -> torch.Tensor:
    """(blocks,) int32: pixels of each block along one side."""
    lengths = torch.full((blocks,), block_size, dtype=torch.int32, device=device)
    lengths[-1] = side - (blocks - 1) * block_size
    return lengths


def _means(side: int, block_size: int) -> torch.Tensor:
    """(blocks, side): rows of equal weights within a block, of length 1, so that `.T @` spreads the mean again."""
    blocks = -(-side // block_size)
    member = torch.arange(side) // block_size == torch.arange(blocks)[:, None]
    return member / member.sum(dim=1, keepdim=True).sqrt()


class Pixelate(Anonymizer):
    """Mosaic of the whole crop."""

    name = "pixelate"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "block_size": Int(4, 32, 12, unit="crop pixels", why="side of a block; at 112 pixels, 8 leaves 14 x 14")
    }
    strength = ("block_size",)
    reference = "classical baseline"

    def operator(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The mosaic in floats."""
        block = int(self.setting["block_size"])

        def mosaic(images: torch.Tensor) -> torch.Tensor:
            down, across = (_means(side, block).to(images) for side in images.shape[-2:])
            return (down.T @ down) @ images @ (across.T @ across)

        return mosaic

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """(n, 3, S, S) uint8 -> mosaic, same shape."""
        return pixelate(faces.image, int(self.setting["block_size"]))
