"""Closed-set identification: who of C people is it? Ties are shared fairly, people count equally.

Sources: ISO/IEC 19795-1; NIST FRTE 1:N; similarity rank disclosure, arXiv 2605.07291 (rank bits). Higher means less private.
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

__all__ = ["IdentificationSums", "advantage", "cmc", "rank1_at_gallery", "rank_bits", "rank_k", "ranks"]

Array = npt.NDArray[np.float64]

TINY = 1e-12
"""What the arithmetic leaves of an exact 0."""


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


def rank_bits(histogram: Array, probes: int) -> float:
    """How many bits the rank of the true person gives away: KL(ranks || uniform over 1 to C), its bias removed, in [0, log2 C].

    Args:
        histogram: (C,) how often the true person had each rank; ties spread evenly over the ranks that they cover.
        probes: how many; a plug-in estimate is too high by (C - 1) / (2 n ln 2), which is taken off.

    Returns:
        0 for ranks at random, log2 C when always first; NaN without probes.

    >>> rank_bits(np.array([64.0, 0, 0, 0, 0, 0, 0, 0]), 10**9).__round__(4)
    3.0
    """
    total = histogram.sum()
    if not total > 0 or probes < 1:
        return math.nan
    share = histogram / total
    seen = share[share > TINY]
    bits = math.log2(len(share)) + float((seen * np.log2(seen)).sum())
    return float(np.clip(bits - (len(share) - 1) / (2 * probes * math.log(2)), 0.0, math.log2(len(share))))


def advantage(attacked: Estimate, clear: Estimate, chance: float) -> Estimate:
    """clip((m - chance) / (m_clear - chance), 0, 1), both resampled together.

    Args:
        attacked, clear: rank-1 of one attacker on anonymized and on clear faces, of the same people.
        chance: 1 / gallery.
    """
    if math.isnan(attacked.value) or math.isnan(clear.value):
        return Estimate(math.nan, reason=attacked.reason or clear.reason)
    if clear.value <= chance:
        return Estimate(math.nan, reason="not above chance on clear faces")

    def scaled(value: Array | float, best: Array | float) -> Array:
        gain = np.where(np.abs(value - chance) < TINY, 0.0, value - chance)
        return np.clip(gain / np.maximum(best - chance, TINY), 0.0, 1.0)

    return Estimate(
        float(scaled(attacked.value, clear.value)),
        scaled(attacked.samples, clear.samples),
        attacked.n,
        attacked.n_ids,
        all_or_none=attacked.all_or_none,
        transform=lambda share: float(scaled(share, clear.value)),
    )


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

    def compute(self, plan: Resampling) -> dict[str, Estimate]:
        """`rank1` at gallery size q and `rank1_full` (mean over people), `rank1_micro` (mean over probes), `rank5`, and `bits`."""
        return {
            "rank1": self.standard(plan),
            "rank1_full": self.rank(1, plan),
            "rank1_micro": self.rank_micro(1, plan),
            "rank5": self.rank(5, plan),
            "bits": self.bits(),
        }

    def standard(self, plan: Resampling, member: npt.NDArray[np.bool_] | None = None) -> Estimate:
        """Rank-1 at gallery size q, mean over people; with `member` over those of `sums.keys`, in the gallery of all."""
        return self.sums.macro_mean(0, plan, member=member)

    def bits(self) -> Estimate:
        """`rank_bits` in the full gallery; without interval, since the bias grows under resampling."""
        n, n_ids = self.sums.n, len(self.sums.keys)
        reached = self.sums.sums[:, 1:].sum(axis=0)
        value = rank_bits(np.diff(np.concatenate([[0.0], reached])), n)
        return Estimate(value, n=n, n_ids=n_ids, reason="no interval: biased under resampling" if n else "no images")

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
