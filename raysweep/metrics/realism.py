"""How close an anonymized crop is to the clear one, per image. A third axis or a constraint, never utility.

Data range 1, fixed: a range guessed from the batch makes a value depend on its neighbours.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from raysweep.errors import DataError

__all__ = ["psnr", "ssim"]

MAX_PSNR = 100.0
WINDOW = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2
CHUNK = 8
"""Images at a time on a CPU, so that the maps stay in the cache."""


def _pair(clear: torch.Tensor, anonymized: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if clear.shape != anonymized.shape or clear.ndim != 4:
        raise DataError(
            f"realism compares (n, channels, height, width) of one shape; got {tuple(clear.shape)} and {tuple(anonymized.shape)}"
        )
    return tuple(side / 255 if side.dtype == torch.uint8 else side.float() for side in (clear, anonymized))  # type: ignore[return-value]


def psnr(clear: torch.Tensor, anonymized: torch.Tensor) -> torch.Tensor:
    """10 log10(1 / MSE) in dB over all channels of each image, at most 100.

    Args:
        clear, anonymized: (n, C, H, W), uint8, or float in [0, 1].

    Returns:
        (n,) float32 on the same device. Higher is closer.

    Raises:
        DataError: the shapes differ.
    """
    a, b = _pair(clear, anonymized)
    error = (a - b).square().flatten(1).mean(dim=1)
    floor = 10 ** (-MAX_PSNR / 10)
    return -10 * torch.log10(error.clamp(min=floor))


@lru_cache(maxsize=32)
def _smoother(length: int, device: torch.device) -> torch.Tensor:
    """Banded matrix (length - 10, length): a row per valid position of the Gaussian window.

    Filtering by two matrix products is several times faster on a CPU than the convolution, and exact.
    """
    offset = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weight = torch.exp(-(offset**2) / (2 * SIGMA**2))
    weight = weight / weight.sum()
    matrix = torch.zeros(length - WINDOW + 1, length, dtype=torch.float64)
    for row in range(len(matrix)):
        matrix[row, row : row + WINDOW] = weight
    return matrix.float().to(device)


def ssim(clear: torch.Tensor, anonymized: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image (Wang et al. 2004): Gaussian 11 x 11, sigma 1.5, valid region, mean over channels.

    Args:
        clear, anonymized: (n, C, H, W), uint8, or float in [0, 1]; sides of at least 11.

    Returns:
        (n,) float32 on the same device, in [-1, 1]; 1 is the same image.

    Raises:
        DataError: the shapes differ, or a side is shorter than the window.
    """
    a, b = _pair(clear, anonymized)
    n, _, height, width = a.shape
    if min(height, width) < WINDOW:
        raise DataError(f"SSIM needs sides of at least {WINDOW} pixels; got {height} x {width}")
    if n == 0:
        return torch.empty(0, device=a.device)
    down, across = _smoother(height, a.device), _smoother(width, a.device).T
    chunk = CHUNK if a.device.type == "cpu" else n
    return torch.cat([_ssim(a[i : i + chunk], b[i : i + chunk], down, across) for i in range(0, n, chunk)])


def _ssim(a: torch.Tensor, b: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    maps = torch.stack([a, b, a * a + b * b, a * b])
    mean_a, mean_b, square, product = down @ (maps @ across)
    both = mean_a * mean_b
    level = mean_a.square() + mean_b.square()
    value = ((2 * both + C1) * (2 * (product - both) + C2)) / ((level + C1) * ((square - level) + C2))
    mean: torch.Tensor = value.flatten(1).mean(dim=1)
    return mean
