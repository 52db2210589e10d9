"""Do the anonymized faces look like faces? Distances between two sets of features: KID, and FID where there are enough images.

Sources: Binkowski et al. 2018 (KID); Gretton et al. 2012 (unbiased MMD); Heusel et al. 2017 (FID); Parmar et al. 2022 (resizing).
Values of different networks are never comparable: the network belongs to the name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.errors import DataError
from raysweep.metrics.uncertainty import Estimate, Resampling
from raysweep.schema import FloatArray, IntArray

__all__ = ["FID_IMAGES", "KID_IMAGES", "FeaturePairs", "fid", "kid"]

FID_IMAGES = 2048
"""Below this FID is mostly bias."""
KID_IMAGES = 50
SUBSETS = 100
SUBSET_SIZE = 1000
ROWS = 512
"""Rows of the kernel matrix held at a time."""


def _checked(clear: FloatArray, anonymized: FloatArray) -> None:
    if clear.ndim != 2 or clear.shape != anonymized.shape:
        raise DataError(f"features have shapes {clear.shape} and {anonymized.shape}; wanted twice (images, features)")


def _kernel(left: FloatArray, right: FloatArray) -> npt.NDArray[np.float64]:
    return np.asarray((left @ right.T / left.shape[1] + 1) ** 3, dtype=np.float64)


def kid(clear: FloatArray, anonymized: FloatArray, seed: int = 0) -> tuple[float, float]:
    """Kernel inception distance: unbiased squared MMD with the cubic polynomial kernel, mean over random subsets.

    Row i of both sets is the same photograph, so pairs (i, i) are left out on all sides (MMD_u of Gretton et al.): the same images give
    exactly 0, and independent sets the usual estimate.

    Args:
        clear, anonymized: (N, F) features.
        seed: of the 100 subsets, of min(1000, N / 2) photographs each.

    Returns:
        (value, standard deviation over the subsets); around 0 for sets of one distribution, also slightly below. The second number is no
        interval. NaN with fewer than 50 photographs.

    Raises:
        DataError: other shapes.
    """
    _checked(clear, anonymized)
    n = len(clear)
    if n < KID_IMAGES:
        return math.nan, math.nan
    size = min(SUBSET_SIZE, n // 2)
    generator = np.random.default_rng([seed, n])
    chosen = np.zeros((SUBSETS, n))
    for row in chosen:
        row[generator.choice(n, size, replace=False)] = 1
    left, right = (np.ascontiguousarray(side, dtype=np.float32) for side in (clear, anonymized))
    total = np.zeros(SUBSETS)
    for start in range(0, n, ROWS):
        part = slice(start, min(start + ROWS, n))
        rows = (
            _kernel(left[part], left)
            + _kernel(right[part], right)
            - _kernel(left[part], right)
            - _kernel(right[part], left)
        )
        rows[np.arange(rows.shape[0]), np.arange(part.start, part.stop)] = 0
        total += ((chosen[:, part] @ rows) * chosen).sum(axis=1)
    found = total / (size * (size - 1))
    return float(found.mean()), float(found.std(ddof=1))


def fid(clear: FloatArray, anonymized: FloatArray) -> float:
    """Frechet distance of Gaussians fitted to (N, F) features on both sides; NaN with fewer than 2,048 images.

    Raises:
        DataError: other shapes.
    """
    _checked(clear, anonymized)
    if len(clear) < FID_IMAGES:
        return math.nan
    left, right = (np.asarray(side, dtype=np.float64) for side in (clear, anonymized))
    between = left.mean(axis=0) - right.mean(axis=0)
    first, second = (np.cov(side, rowvar=False).reshape(side.shape[1], side.shape[1]) for side in (left, right))
    # tr sqrt(AB) = tr sqrt(sqrt(A) B sqrt(A)), whose argument is symmetric.
    size, axes = np.linalg.eigh(first)
    root = (axes * np.sqrt(np.clip(size, 0, None))) @ axes.T
    product = np.linalg.eigvalsh(root @ second @ root)
    both = np.sqrt(np.clip(product, 0, None)).sum()
    return float(max(0.0, between @ between + np.trace(first) + np.trace(second) - 2 * both))


@dataclass(frozen=True)
class FeaturePairs:
    """Features of photographs on both sides; `update` and `merge` in any order.

    Attributes:
        key: (N,) number of each photograph, unique over all shards.
        clear, anonymized: (N, F) float32.
    """

    key: IntArray
    clear: FloatArray
    anonymized: FloatArray

    @classmethod
    def start(cls, features: int) -> FeaturePairs:
        """No photographs yet."""
        nothing = np.empty((0, features), np.float32)
        return cls(np.empty(0, np.int64), nothing, nothing)

    def update(self, key: IntArray, clear: FloatArray, anonymized: FloatArray) -> FeaturePairs:
        """Add photographs.

        Raises:
            DataError: features that are not finite, or of other shapes.
        """
        _checked(clear, anonymized)
        if not (np.isfinite(clear).all() and np.isfinite(anonymized).all()):
            raise DataError("features must be finite; leave out photographs without")
        return self.merge(FeaturePairs(key, clear, anonymized))

    def merge(self, other: FeaturePairs) -> FeaturePairs:
        """The photographs of both, sorted by key.

        Raises:
            DataError: features of another length.
        """
        if self.clear.shape[1] != other.clear.shape[1]:
            raise DataError(f"cannot merge {self.clear.shape[1]} features with {other.clear.shape[1]}")
        key = np.concatenate([self.key, other.key])
        order = np.argsort(key, kind="stable")
        sides = (
            np.concatenate([getattr(self, side), getattr(other, side)])[order].astype(np.float32)
            for side in ("clear", "anonymized")
        )
        return FeaturePairs(key[order], *sides)

    def compute(self, plan: Resampling) -> dict[str, Estimate]:
        """`kid` and `fid`, each undefined, with the reason, for too few photographs; without intervals."""
        n = len(self.key)
        found = {}
        value, spread = kid(self.clear, self.anonymized, plan.seed)
        why = f"{n} images; KID needs {KID_IMAGES}" if n < KID_IMAGES else ""
        found["kid"] = Estimate(value, n=n, n_ids=n, reason=why or f"no interval: spread over subsets {spread:.2g}")
        why = f"{n} images; FID needs {FID_IMAGES}: use KID" if n < FID_IMAGES else "no interval"
        found["fid"] = Estimate(fid(self.clear, self.anonymized), n=n, n_ids=n, reason=why)
        return found
