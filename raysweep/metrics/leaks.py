"""What a release gives away beside the identity: the group a person belongs to, and how far the embedding moved.

Sources: attribute leakage as in DeepPrivacy2 and FairDeFace (arXiv 2503.08731); HiFD (embedding distance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.errors import ConfigError, DataError
from raysweep.metrics.uncertainty import ClusterSums, Estimate, Resampling
from raysweep.schema import IntArray

__all__ = ["AttributeSums", "balanced_accuracy", "hifd_privacy"]

Array = npt.NDArray[np.float64]


def hifd_privacy(clear: npt.NDArray[np.floating], anonymized: npt.NDArray[np.floating]) -> Array:
    """Half of 1 - cosine of (N, D) embeddings, (N,): 0 for the same face, about 0.5 for unrelated ones or where there is none.

    Raises:
        DataError: the shapes differ.
    """
    if clear.shape != anonymized.shape or clear.ndim != 2:
        raise DataError(f"embeddings of shapes {clear.shape} and {anonymized.shape} cannot be compared")
    left, right = (np.asarray(side, dtype=np.float64) for side in (clear, anonymized))
    length = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosine = (left * right).sum(axis=1) / np.where(length > 0, length, 1.0)
    return np.asarray(0.5 * (1 - np.clip(cosine, -1.0, 1.0)))


def balanced_accuracy(confusion: Array) -> Array:
    """Mean over the classes that occur of the share that is told right: (..., K, K) counts (truth, answer) -> (...); NaN without images."""
    total = confusion.sum(axis=-1)
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(total > 0, right / total, 0.0).sum(axis=-1)
        return np.asarray(recall / (total > 0).sum(axis=-1))


@dataclass(frozen=True)
class AttributeSums:
    """Partial sums of a classifier of K groups, on clear and on anonymized faces; `update` and `merge` in any order.

    Attributes:
        classes: K.
        sums: per cluster: (truth, answer) counts on anonymized faces, then on clear ones.
    """

    classes: int
    sums: ClusterSums

    @classmethod
    def start(cls, classes: int) -> AttributeSums:
        """Nothing counted yet."""
        return cls(classes, ClusterSums.empty(2 * classes * classes))

    def update(self, truth: IntArray, anonymized: Array, clear: Array, cluster: IntArray) -> AttributeSums:
        """Count images: (N,) true classes, (N, K) shares of each answer on both sides (one-hot; even for a face without one), (N,) clusters.

        Raises:
            ConfigError: answers of another number of classes, or a class out of range.
        """
        shape = (len(truth), self.classes)
        if anonymized.shape != shape or clear.shape != shape:
            raise ConfigError(f"answers have shapes {anonymized.shape} and {clear.shape}; wanted {shape}")
        if len(truth) and not (truth.min() >= 0 and truth.max() < self.classes):
            raise ConfigError(f"a class is outside of 0 to {self.classes - 1}")
        rows = np.zeros((len(truth), 2, self.classes, self.classes))
        at = np.arange(len(truth))
        rows[at, 0, truth], rows[at, 1, truth] = anonymized, clear
        return AttributeSums(
            self.classes, self.sums.merge(ClusterSums.of(cluster, rows.reshape(len(truth), 2 * self.classes**2)))
        )

    def merge(self, other: AttributeSums) -> AttributeSums:
        """The sums of both.

        Raises:
            ConfigError: another number of classes.
        """
        if self.classes != other.classes:
            raise ConfigError(f"cannot merge answers of {self.classes} groups with those of {other.classes}")
        return AttributeSums(self.classes, self.sums.merge(other.sums))

    def compute(self, plan: Resampling) -> dict[str, Estimate]:
        """`accuracy` and `accuracy_clear` (balanced), and `leak`: accuracy above chance over that on clear faces, in [0, 1]."""
        n, n_ids = self.sums.n, len(self.sums.keys)
        if not n:
            return dict.fromkeys(("accuracy", "accuracy_clear", "leak"), Estimate(math.nan, reason="no images"))

        def sides(sums: Array) -> Array:
            return balanced_accuracy(sums.reshape(*sums.shape[:-1], 2, self.classes, self.classes))

        value, draws = sides(self.sums.sums.sum(axis=0)), sides(self.sums.resampled(plan))
        found = {
            name: Estimate(float(value[side]), draws[..., side], n, n_ids)
            for side, name in enumerate(("accuracy", "accuracy_clear"))
        }
        chance = 1 / self.classes
        clear = found["accuracy_clear"]
        low = clear.interval(plan)[0] if len(clear.samples) else clear.value
        if not (low > chance if math.isfinite(low) else clear.value > chance):
            return found | {"leak": Estimate(math.nan, reason="not above chance on clear faces", n=n, n_ids=n_ids)}
        with np.errstate(invalid="ignore", divide="ignore"):
            samples = np.clip((draws[..., 0] - chance) / np.maximum(draws[..., 1] - chance, 1e-12), 0.0, 1.0)
        leak = float(np.clip((value[0] - chance) / (value[1] - chance), 0.0, 1.0))
        return found | {"leak": Estimate(leak, samples, n, n_ids)}
