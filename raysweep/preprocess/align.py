"""Put a face into the frame: five points -> similarity -> warp, one by one with OpenCV or batched in torch.

A matrix (2, 3) maps a pixel (x, y, 1) of the photograph to a pixel of the crop; centres of pixels are whole numbers.

Antialiasing rule: when one crop pixel covers at least 2 photograph pixels along a side, the photograph is first shrunk by
area averaging by the whole factor floor(1 / scale); the bilinear warp does the rest (a factor below 2). Below 2 the crop is
what insightface makes, pixel for pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from raysweep.schema import ByteArray, FloatArray, Frame

if TYPE_CHECKING:
    import torch

__all__ = ["align", "invert", "paste_back", "similarity", "transform_points", "warp", "warp_crop", "warp_labels"]

Matrix = npt.NDArray[np.float64]


def similarity(points: npt.ArrayLike, target: npt.ArrayLike) -> Matrix:
    """The rotation, scale and shift without reflection that bring `points` closest to `target` (least squares).

    In the plane the solution of Umeyama (1991) is one complex number: with both sets centred and read as x + iy, scale and rotation
    are sum(conj(p) t) / sum(|p|^2).

    Args:
        points: (..., K, 2), K >= 2.
        target: (..., K, 2), broadcast against `points`.

    Returns:
        (..., 2, 3) float64. NaN where the points are not finite or all in one place.
    """
    source = np.asarray(points, dtype=np.float64)
    wanted = np.asarray(target, dtype=np.float64)
    source_mean = source.mean(axis=-2, keepdims=True)
    wanted_mean = wanted.mean(axis=-2, keepdims=True)
    p, t = source - source_mean, wanted - wanted_mean
    spread = (p**2).sum(axis=(-2, -1))
    spread = np.where(spread > 1e-12, spread, np.nan)
    cosine = (p * t).sum(axis=(-2, -1)) / spread
    sine = (p[..., 0] * t[..., 1] - p[..., 1] * t[..., 0]).sum(axis=-1) / spread
    turn = np.stack([np.stack([cosine, -sine], axis=-1), np.stack([sine, cosine], axis=-1)], axis=-2)
    shift = np.swapaxes(wanted_mean, -1, -2) - turn @ np.swapaxes(source_mean, -1, -2)
    return np.concatenate([turn, shift], axis=-1)


def invert(matrix: Matrix) -> Matrix:
    """(..., 2, 3) crop -> photograph, for points and for pasting back."""
    turn = np.linalg.inv(matrix[..., :2])
    return np.concatenate([turn, -turn @ matrix[..., 2:]], axis=-1)


def transform_points(points: npt.ArrayLike, matrix: Matrix) -> FloatArray:
    """Map points (..., K, 2) by matrices (..., 2, 3); float32."""
    mapped = np.asarray(points, dtype=np.float64) @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    return np.asarray(mapped, dtype=np.float32)


def align(image: ByteArray, points: npt.ArrayLike, frame: Frame) -> tuple[ByteArray, Matrix]:
    """Warp one face into the frame, bilinear, black beyond the photograph.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (5, 2) in the order of `ARCFACE_POINTS`, pixels of `image`.
        frame: where the points go.

    Returns:
        The crop (S, S, 3) uint8 and the matrix (2, 3) photograph -> crop.

    Raises:
        ValueError: the points are not five finite points, or all in one place.
    """
    five = np.asarray(points, dtype=np.float64)
    if five.shape != (5, 2):
        raise ValueError(f"align: five points (5, 2) are needed, got {five.shape}")
    matrix = similarity(five, frame.points)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if not np.isfinite(matrix).all() or scale < 1e-6:
        raise ValueError("align: the five points are not finite or lie in one place")
    return warp_crop(image, matrix, frame.size), matrix


def warp_crop(image: ByteArray, matrix: Matrix, size: int) -> ByteArray:
    """Warp one photograph (H, W, 3) uint8 into (size, size, 3), bilinear, with the antialiasing rule, black beyond it."""
    factor = int(1.0 / np.hypot(matrix[0, 0], matrix[1, 0]))
    if factor < 2:
        return _warp_affine(image, matrix, size, cv2.INTER_LINEAR)
    shrunk, to_shrunk = _shrink(image, matrix, size, factor)
    return _warp_affine(shrunk, _after(matrix, invert(to_shrunk)), size, cv2.INTER_LINEAR)


def warp_labels(labels: ByteArray, matrix: Matrix, size: int) -> ByteArray:
    """Warp a label map (H, W) uint8 by nearest neighbour into (size, size); 0 beyond it."""
    return _warp_affine(labels, matrix, size, cv2.INTER_NEAREST)


def paste_back(image: ByteArray, crop: ByteArray, matrix: Matrix) -> ByteArray:
    """A copy of the photograph (H, W, 3) with the crop (S, S, 3) warped back to where it came from."""
    height, width = image.shape[:2]
    result = image.copy()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(crop, matrix, (width, height), dst=result, flags=flags, borderMode=cv2.BORDER_TRANSPARENT)
    return result


def warp(images: torch.Tensor, matrices: Matrix | torch.Tensor, size: int) -> torch.Tensor:
    """Warp a batch on its device, bilinear, black beyond the photograph; no antialiasing.

    Exact interpolation: OpenCV may round source positions to 1/32 pixel, so the two differ by a few grey levels on edges.

    Args:
        images: (n, 3, H, W) uint8 or floating point.
        matrices: (n, 2, 3) photograph -> crop.
        size: side of the crops.

    Returns:
        (n, 3, size, size) in the dtype of `images` (uint8 is rounded to nearest).
    """
    import torch

    height, width = images.shape[-2:]
    numbers = matrices.cpu().numpy() if isinstance(matrices, torch.Tensor) else matrices
    back = torch.tensor(invert(np.asarray(numbers, dtype=np.float64)), dtype=torch.float32, device=images.device)
    axis = torch.arange(size, dtype=torch.float32, device=images.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (size, size, 3)
    source = torch.einsum("nij,yxj->nyxi", back, grid)
    # grid_sample without align_corners counts edges: pixel centre p is at (2p + 1) / side - 1.
    sides = torch.tensor([width, height], dtype=torch.float32, device=images.device)
    floating = images if images.is_floating_point() else images.to(torch.float32)
    warped = torch.nn.functional.grid_sample(
        floating, ((2 * source + 1) / sides - 1).to(floating.dtype), mode="bilinear", align_corners=False
    )
    return warped if images.is_floating_point() else warped.round().clamp(0, 255).to(images.dtype)


def _warp_affine(image: ByteArray, matrix: Matrix, size: int, interpolation: int) -> ByteArray:
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=interpolation, borderValue=0.0))


def _after(second: Matrix, first: Matrix) -> Matrix:
    """The map that does `first`, then `second`."""
    turn = second[:, :2] @ first[:, :2]
    shift = second[:, :2] @ first[:, 2:] + second[:, 2:]
    return np.concatenate([turn, shift], axis=1)


def _shrink(image: ByteArray, matrix: Matrix, size: int, factor: int) -> tuple[ByteArray, Matrix]:
    """The part of the photograph that the crop sees, `factor` times smaller by area, and photograph -> small part."""
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64) - 0.5
    seen = transform_points(corners, invert(matrix))
    height, width = image.shape[:2]
    limit = np.array([width, height])
    low = np.clip(np.floor(seen.min(axis=0)) - 2 * factor, 0, limit - 1).astype(int)
    high = np.clip(np.ceil(seen.max(axis=0)) + 2 * factor, low + 1, limit).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    missing = -np.array(part.shape[:2]) % factor
    part = cv2.copyMakeBorder(part, 0, int(missing[0]), 0, int(missing[1]), cv2.BORDER_CONSTANT, value=(0, 0, 0))
    small = cv2.resize(part, (part.shape[1] // factor, part.shape[0] // factor), interpolation=cv2.INTER_AREA)
    # Centre of small pixel q is centre of large pixel (q + 0.5) * factor - 0.5.
    shift = (0.5 - low) / factor - 0.5
    return np.asarray(small), np.array([[1 / factor, 0, shift[0]], [0, 1 / factor, shift[1]]])
