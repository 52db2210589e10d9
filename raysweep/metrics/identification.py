"""Closed-set identification: who of C people is it? Ties are shared fairly, people count equally.

Sources: ISO/IEC 19795-1; NIST FRTE 1:N. Higher means less private.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from raysweep.errors import ConfigError
from raysweep.metrics.uncertainty import ClusterSums, Estimate, Resampling
from raysweep.schema import IntArray

__all__ = ["IdentificationSums", "cmc", "rank1_at_gallery", "rank_k", "ranks"]

Array = npt.NDArray[np.float64]


def ranks(scores: npt.NDArray[np.floating], genuine: IntArray) -> tuple[IntArray, IntArray]:
    """Impostor identities strictly above, and equal to, the genuine one.

    Args:
        scores: (P, C), higher means more likely this person.
        genuine: (P,) column of the true person.

    Returns:
        (r, t), both (P,) int64.
    """
    own = scores[np.arange(len(scores)), genuine][:, None]
    above = (scores > own).sum(axis=1)
    ties = (scores == own).sum(axis=1) - 1
    return above.astype(np.int64), ties.astype(np.int64)


def rank_k(above: IntArray, ties: IntArray, k: int) -> Array:
    """Probability that the true person is among the first k when ties are broken at random, (P,)."""
    return np.clip((k - above) / (ties + 1), 0.0, 1.0)


def cmc(above: IntArray, ties: IntArray, classes: int) -> Array:
    """`rank_k` for k = 1 to C, (P, C)."""
    k = np.arange(1, classes + 1)
    return np.clip((k[None, :] - above[:, None]) / (ties[:, None] + 1), 0.0, 1.0)


@lru_cache(maxsize=64)
def _win_table(classes: int, gallery: int) -> tuple[float, ...]:
    """Entry x: probability that none of x better impostors is among the gallery - 1 drawn from classes - 1; then cumulated."""
    total = math.comb(classes - 1, gallery - 1)
    single = [math.comb(classes - 1 - x, gallery - 1) / total for x in range(classes)]
    return tuple(math.fsum(single[:x]) for x in range(classes + 1))


def rank1_at_gallery(above: IntArray, ties: IntArray, classes: int, gallery: int) -> Array:
    """Rank-1 probability in a random gallery of `gallery` of the C people, exact, (P,). Chance is 1/gallery.

    >>> rank1_at_gallery(np.array([0, 1, 9, 0]), np.array([0, 0, 0, 9]), 10, 5).round(4).tolist()
    [1.0, 0.5556, 0.0, 0.2]

    Raises:
        ConfigError: the gallery is larger than the number of people, or smaller than 1.
    """
    if not 1 <= gallery <= classes:
        raise ConfigError(f"gallery size {gallery} with {classes} enrolled identities; allowed: 1 to {classes}")
    table = np.array(_win_table(classes, gallery))
    return np.asarray((table[above + ties + 1] - table[above]) / (ties + 1))


@dataclass(frozen=True)
class IdentificationSums:
    """Partial sums of a set of probes; `update` and `merge` in any order.

    Attributes:
        classes: C, enrolled people.
        gallery: q of the standard rank-1.
        sums: per identity: rank-1 at q, then hits at rank 1 to C.
    """

    classes: int
    gallery: int
    sums: ClusterSums

    @classmethod
    def start(cls, classes: int, gallery: int) -> IdentificationSums:
        """Nothing counted yet."""
        return cls(classes, gallery, ClusterSums.empty(classes + 1))

    def update(
        self, scores: npt.NDArray[np.floating], genuine: IntArray, identity: IntArray | None = None
    ) -> IdentificationSums:
        """Count probes: (P, C) scores, (P,) true columns, and (P,) identities to group by (default the columns)."""
        above, ties = ranks(scores, genuine)
        hits = cmc(above, ties, self.classes)
        standard = rank1_at_gallery(above, ties, self.classes, self.gallery)
        part = ClusterSums.of(genuine if identity is None else identity, np.column_stack([standard, hits]))
        return IdentificationSums(self.classes, self.gallery, self.sums.merge(part))

    def merge(self, other: IdentificationSums) -> IdentificationSums:
        """The sums of both.

        Raises:
            ConfigError: they were counted with different galleries.
        """
        if (self.classes, self.gallery) != (other.classes, other.gallery):
            raise ConfigError(
                f"cannot merge identification of {self.classes} people at gallery {self.gallery} "
                f"with {other.classes} at {other.gallery}"
            )
        return IdentificationSums(self.classes, self.gallery, self.sums.merge(other.sums))

    def standard(self, plan: Resampling) -> Estimate:
        """Rank-1 at gallery size q, mean over people."""
        return self.sums.macro_mean(0, plan)

    def rank(self, k: int, plan: Resampling) -> Estimate:
        """Rank-k in the full gallery, mean over people; undefined when k exceeds the gallery."""
        if not 1 <= k <= self.classes:
            return Estimate(
                math.nan, reason=f"rank {k} of {self.classes} identities", n=self.sums.n, n_ids=len(self.sums.keys)
            )
        return self.sums.macro_mean(k, plan)

    def rank_micro(self, k: int, plan: Resampling) -> Estimate:
        """Rank-k in the full gallery, mean over probes (people with many photographs weigh more)."""
        if not 1 <= k <= self.classes:
            return Estimate(
                math.nan, reason=f"rank {k} of {self.classes} identities", n=self.sums.n, n_ids=len(self.sums.keys)
            )
        return self.sums.mean(k, plan)

    def curve(self) -> Array:
        """CMC, mean over people, (C,)."""
        return np.asarray((self.sums.sums[:, 1:] / self.sums.count[:, None]).mean(axis=0))

    def risk(self) -> Array:
        """Rank-1 in the full gallery of each person, (people,), in the order of `sums.keys`."""
        return np.asarray(self.sums.sums[:, 1] / self.sums.count)
