"""Gaussian blur in exact arithmetic: the same pixel on any device and in any batch.

The kernel is rounded to 16-bit fixed point and applied as two products with a banded matrix in float64. All sums stay below 2^53, so
they are whole numbers without rounding error, whatever the order of addition; the result is rounded once, half up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from raysweep.anonymizers.base import Anonymizer
from raysweep.search.parameters import Int, Parameter

if TYPE_CHECKING:
    from raysweep.schema import FaceBatch

__all__ = ["GaussianBlur", "gaussian_blur", "gaussian_sigma"]

ONE = 1 << 16
"""Weight 1.0 in the fixed point of the kernel."""


def gaussian_sigma(kernel_size: int) -> float:
    """Standard deviation in pixels that goes with a kernel, by OpenCV's rule 0.3 ((k - 1) / 2 - 1) + 0.8.

    >>> gaussian_sigma(11)
    2.0
    """
    return 0.3 * ((kernel_size - 1) * 0.5 - 1) + 0.8


def gaussian_blur(images: torch.Tensor, kernel_size: int, sigma: float | None = None) -> torch.Tensor:
    """Blur with a square Gaussian kernel, border reflected without repeating the edge pixel (OpenCV's default border).

    Args:
        images: (n, C, H, W) uint8, any device.
        kernel_size: odd; it may exceed the image, the border is then reflected again and again.
        sigma: in pixels; `gaussian_sigma(kernel_size)` when not given.

    Returns:
        (n, C, H, W) uint8, `cv2.GaussianBlur` of the floats rounded once (OpenCV's own byte routine errs by up to 1.5 levels).

    Raises:
        ValueError: the kernel is even or not positive, or the images are not uint8.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, not {kernel_size}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, not {images.dtype}")
    sigma = gaussian_sigma(kernel_size) if sigma is None else sigma
    rows, columns = (
        torch.from_numpy(_blur_matrix(side, kernel_size, sigma)).to(images.device) for side in images.shape[-2:]
    )
    total = rows @ (images.double() @ columns.T)
    return (total * (1.0 / (ONE * ONE)) + 0.5).floor().to(torch.uint8)


def _blur_matrix(side: int, kernel_size: int, sigma: float) -> npt.NDArray[np.float64]:
    """(side, side) matrix of whole numbers, rows summing to `ONE`, that blurs a line of pixels."""
    radius = kernel_size // 2
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = np.rint(kernel / kernel.sum() * ONE)
    weights[radius] += ONE - weights.sum()
    position = np.arange(side)[:, None] + offsets[None, :]
    if side == 1:
        source = np.zeros_like(position)
    else:
        period = 2 * (side - 1)
        source = position % period
        source = np.minimum(source, period - source)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (np.arange(side)[:, None], source), weights[None, :])
    return matrix


class GaussianBlur(Anonymizer):
    """Gaussian blur of the whole crop; sigma follows from the kernel size by OpenCV's rule."""

    name = "blur"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "kernel_size": Int(
            11, 101, 31, step=2, unit="crop pixels", why="odd; sigma = 0.3 ((k - 1) / 2 - 1) + 0.8, 2.0 to 15.5 pixels"
        )
    }
    strength = ("kernel_size",)
    reference = "classical baseline; OpenCV's getGaussianKernel for sigma"

    def operator(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The blur in floats."""
        size = int(self.setting["kernel_size"])

        def blur(images: torch.Tensor) -> torch.Tensor:
            rows, columns = (
                (torch.from_numpy(_blur_matrix(side, size, gaussian_sigma(size))) / ONE).to(images)
                for side in images.shape[-2:]
            )
            return rows @ (images @ columns.T)

        return blur

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """(n, 3, S, S) uint8 -> blurred, same shape."""
        return gaussian_blur(faces.image, int(self.setting["kernel_size"]))
