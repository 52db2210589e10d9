"""What varies between photographs of one person is noise to an attacker: measure it, and divide it out.

Source: within-class covariance normalisation (Hatch, Kajarekar and Stolcke 2006), with the shrunk estimate of Ledoit and Wolf 2004.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from raysweep.schema import IntArray

__all__ = ["Whitening", "shrunk_covariance"]

Array = npt.NDArray[np.float64]

CONSTANT = 1e-5
"""A feature that varies less than this (embeddings have unit length) carries nothing but rounding."""
RIDGE = 1e-3
"""Added to the standardised within-person covariance: it is singular when all photographs of a person became one."""


def shrunk_covariance(centred: Array) -> Array:
    """Ledoit-Wolf estimate (F, F) from (n, F) rows whose mean is zero."""
    n, size = centred.shape
    plain = centred.T @ centred / n
    level = np.trace(plain) / size
    squared = float((plain**2).sum())
    spread = (squared - size * level**2) / size
    if spread <= 0:
        return np.asarray(plain)
    noise = (float(((centred**2).sum(axis=1) ** 2).sum()) / n**2 - squared / n) / size
    share = min(max(noise, 0.0), spread) / spread
    return np.asarray((1 - share) * plain + share * level * np.eye(size))


@dataclass(frozen=True)
class Whitening:
    """Standardisation and within-person whitening, learned from labelled embeddings.

    Attributes:
        mean, scale: (D,); features that do not vary have scale 0.
        factor: (D, D) lower Cholesky factor of the within-person covariance of the standardised features.
        centres: (C, D) mean of each person, standardised.
        people: (C,) labels in the order of `centres`.
    """

    mean: Array
    scale: Array
    factor: Array
    centres: Array
    people: IntArray

    @classmethod
    def fit(cls, features: Array, labels: IntArray) -> Whitening:
        """Learn from (n, D) embeddings and (n,) labels."""
        mean, spread = features.mean(axis=0), features.std(axis=0)
        scale = np.where(spread > CONSTANT, 1 / np.where(spread > CONSTANT, spread, 1.0), 0.0)
        standard = (features - mean) * scale
        people, index = np.unique(labels, return_inverse=True)
        centres = np.zeros((len(people), standard.shape[1]))
        np.add.at(centres, index, standard)
        centres /= np.bincount(index)[:, None]
        within = shrunk_covariance(standard - centres[index])
        within[np.diag_indices_from(within)] += RIDGE
        factor = np.asarray(np.linalg.cholesky(within), dtype=np.float64)
        return cls(np.asarray(mean), scale, factor, centres, people)

    @property
    def informative(self) -> bool:
        """Whether anything varies at all."""
        return bool(self.scale.any())

    def matrix(self) -> Array:
        """(D, D): (rows - mean) @ matrix is white within a person."""
        inverse = solve_triangular(self.factor, np.eye(len(self.factor)), lower=True, check_finite=False)
        return np.asarray(self.scale[:, None] * inverse.T)

    def discriminant(self) -> Array:
        """(D, F): the same, projected on the F <= C - 1 directions in which people differ (LDA)."""
        centred = self.centres - self.centres.mean(axis=0)
        white = solve_triangular(self.factor, centred.T, lower=True, check_finite=False)
        directions, strength, _ = np.linalg.svd(white, full_matrices=False)
        kept = directions[:, strength > 1e-6 * max(strength[0], 1e-12)][:, : len(self.people) - 1]
        back = solve_triangular(self.factor, kept, lower=True, trans="T", check_finite=False)
        return np.asarray(self.scale[:, None] * back)
