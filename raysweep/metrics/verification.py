"""Same person or not: AUC, EER, d', TAR at fixed FAR, with intervals that resample people, not pairs.

Sources: ISO/IEC 19795-1; NIST FRTE 1:1. Scores: higher means more likely the same person.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from raysweep.errors import ConfigError
from raysweep.metrics.uncertainty import ClusterSums, Estimate, Resampling, resample
from raysweep.schema import IntArray

__all__ = [
    "PairHistogram",
    "PairScores",
    "auc",
    "dprime",
    "eer",
    "false_match_rate",
    "tar_at_far",
    "threshold_at_far",
    "true_accept_rate",
]

Scores = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]

RULE_OF_30 = 30
"""A false accept rate is only stated when at least this many false accepts are expected (Doddington)."""
MAX_IMPOSTORS = 2_000_000
"""More impostor pairs than this are sampled, the same share of every pair of people."""
MAX_PEOPLE = 400
"""Above this the table of pairs of people gets too large for an interval."""


def auc(genuine: Scores, impostor: Scores, ordered: bool = False) -> float:
    """P(genuine > impostor) + half P(equal); NaN when either is empty. `ordered`: impostors ascend already."""
    if not len(genuine) or not len(impostor):
        return math.nan
    impostor = impostor if ordered else np.sort(impostor)
    below = np.searchsorted(impostor, genuine, side="left")
    not_above = np.searchsorted(impostor, genuine, side="right")
    return float((below + not_above).astype(np.float64).mean() / (2 * len(impostor)))


def eer(genuine: Scores, impostor: Scores, ordered: bool = False) -> float:
    """Error rate where FMR(t), the impostors >= t, meets FNMR(t), the genuine < t; linear between the scores that occur.

    0.5 when all scores are equal; NaN when either is empty. `ordered`: both ascend already.
    """
    if not len(genuine) or not len(impostor):
        return math.nan
    if not ordered:
        genuine, impostor = np.sort(genuine), np.sort(impostor)

    def rates(threshold: float) -> tuple[float, float]:
        fmr = 1 - int(np.searchsorted(impostor, threshold, side="left")) / len(impostor)
        fnmr = int(np.searchsorted(genuine, threshold, side="left")) / len(genuine)
        return fmr, fnmr

    def crossed(threshold: float) -> bool:
        fmr, fnmr = rates(threshold)
        return fmr <= fnmr

    at_impostor = bisect_left(impostor, True, key=crossed)
    at_genuine = bisect_left(genuine, True, key=crossed)
    above = min(
        (float(side[at]) for side, at in ((impostor, at_impostor), (genuine, at_genuine)) if at < len(side)),
        default=math.inf,
    )
    lower = [int(np.searchsorted(side, above, side="left")) - 1 for side in (impostor, genuine)]
    below = max(float(side[at]) for side, at in zip((impostor, genuine), lower, strict=True) if at >= 0)
    (fmr0, fnmr0), (fmr1, fnmr1) = rates(below), rates(above)
    gap0, gap1 = fmr0 - fnmr0, fmr1 - fnmr1
    share = gap0 / (gap0 - gap1)
    return fmr0 + share * (fmr1 - fmr0)


def dprime(genuine: Scores, impostor: Scores) -> float:
    """(mean difference) / sqrt(mean variance), sample variances; NaN at zero variance or with fewer than 2 of either."""
    if len(genuine) < 2 or len(impostor) < 2:
        return math.nan
    variance = (np.var(genuine, ddof=1, dtype=np.float64) + np.var(impostor, ddof=1, dtype=np.float64)) / 2
    if variance <= 1e-14:
        return math.nan
    return float((np.mean(genuine, dtype=np.float64) - np.mean(impostor, dtype=np.float64)) / math.sqrt(variance))


def threshold_at_far(impostor: Scores, far: float, ordered: bool = False) -> float:
    """Lowest threshold at which the share of impostors >= it does not exceed `far` (ties never split); NaN when there are none."""
    if not len(impostor):
        return math.nan
    impostor = impostor if ordered else np.sort(impostor)
    allowed = math.floor(far * len(impostor) + 1e-9)
    if allowed >= len(impostor):
        return -math.inf
    return float(np.nextafter(impostor[len(impostor) - 1 - allowed], np.inf, dtype=impostor.dtype))


def false_match_rate(impostor: Scores, threshold: float) -> float:
    """Share of impostors >= threshold."""
    return float(np.mean(impostor >= threshold)) if len(impostor) else math.nan


def true_accept_rate(genuine: Scores, threshold: float) -> float:
    """Share of genuine pairs >= threshold."""
    return float(np.mean(genuine >= threshold)) if len(genuine) else math.nan


def tar_at_far(genuine: Scores, impostor: Scores, far: float, reference: Scores | None = None) -> float:
    """True accept rate at the threshold that `reference` impostors (default these) set for `far`.

    NaN unless far times the number of reference impostors is at least 30.
    """
    reference = impostor if reference is None else reference
    if len(reference) * far < RULE_OF_30:
        return math.nan
    return true_accept_rate(genuine, threshold_at_far(reference, far))


@dataclass(frozen=True)
class PairHistogram:
    """Counts of scores per pair of people: partial sums of verification, merged in any order.

    Attributes:
        edges: (M - 1,) ascending inner bin edges; a score equal to an edge belongs to the bin above it.
        genuine: (I, M) counts per person.
        impostor: (I, I, M) counts per (probe person, enrolled person).
    """

    edges: Array
    genuine: Array
    impostor: Array

    @classmethod
    def start(cls, edges: Array, people: int) -> PairHistogram:
        """Nothing counted yet."""
        bins = len(edges) + 1
        return cls(edges, np.zeros((people, bins)), np.zeros((people, people, bins)))

    def update(self, scores: Scores, probe: IntArray, enrol: IntArray) -> PairHistogram:
        """Count (P, E) scores of probes of person `probe` (P,) against images of person `enrol` (E,)."""
        people, bins = self.genuine.shape
        at = np.searchsorted(self.edges, scores.ravel(), side="right")
        cell = (probe[:, None] * people + enrol[None, :]).ravel() * bins + at
        counts = np.bincount(cell, minlength=people * people * bins).reshape(people, people, bins).astype(np.float64)
        own = np.arange(people)
        genuine = counts[own, own].copy()
        counts[own, own] = 0
        return PairHistogram(self.edges, self.genuine + genuine, self.impostor + counts)

    def merge(self, other: PairHistogram) -> PairHistogram:
        """The counts of both.

        Raises:
            ConfigError: they have different edges.
        """
        if not np.array_equal(self.edges, other.edges):
            raise ConfigError("cannot merge score histograms with different edges")
        return PairHistogram(self.edges, self.genuine + other.genuine, self.impostor + other.impostor)

    def resampled(self, plan: Resampling) -> tuple[Array, Array]:
        """Genuine and impostor histograms of each draw, both (B, M) shares.

        A pair of two people weighs as often as both were drawn; pairs between two copies of one person are no impostors.
        """
        people, bins = self.genuine.shape
        weight = resample(people, plan.draws, plan.seed)
        genuine = weight @ self.genuine.astype(np.float32)
        flat = self.impostor.reshape(people * people, bins).astype(np.float32)
        impostor = np.empty((len(weight), bins), dtype=np.float32)
        step = max(1, 10_000_000 // (people * people))
        for start in range(0, len(weight), step):
            part = weight[start : start + step]
            impostor[start : start + step] = (part[:, :, None] * part[:, None, :]).reshape(len(part), -1) @ flat
        with np.errstate(invalid="ignore", divide="ignore"):
            return tuple(np.asarray(side / side.sum(axis=1, keepdims=True), np.float64) for side in (genuine, impostor))  # type: ignore[return-value]


def _binned_auc(genuine: Array, impostor: Array) -> Array:
    below = np.cumsum(impostor, axis=-1) - impostor
    return np.asarray((genuine * (below + 0.5 * impostor)).sum(axis=-1))


def _binned_eer(genuine: Array, impostor: Array) -> Array:
    zeros = np.zeros((*genuine.shape[:-1], 1))
    fnmr = np.concatenate([zeros, np.cumsum(genuine, axis=-1)], axis=-1)
    fmr = 1 - np.concatenate([zeros, np.cumsum(impostor, axis=-1)], axis=-1)
    gap = fmr - fnmr
    after = np.argmax(gap <= 1e-12, axis=-1)[..., None]
    before = np.maximum(after - 1, 0)
    gap0, gap1 = (np.take_along_axis(gap, at, -1) for at in (before, after))
    fmr0, fmr1 = (np.take_along_axis(fmr, at, -1) for at in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(gap0 > gap1, gap0 / (gap0 - gap1), 0.0)
    return np.asarray((fmr0 + share * (fmr1 - fmr0))[..., 0])


@dataclass(frozen=True)
class PairScores:
    """All pairs of probe and enrolled images.

    Attributes:
        scores: (P, E) similarities.
        probe, enrol: (P,) and (E,) person numbers, 0 to `people` - 1.
        people: I.
        seed: of the impostor sample, when there are too many.
    """

    scores: Scores
    probe: IntArray
    enrol: IntArray
    people: int
    seed: int = 0

    @cached_property
    def _same(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.probe[:, None] == self.enrol[None, :])

    @cached_property
    def genuine(self) -> Scores:
        """Scores of pairs of one person, ascending."""
        return np.sort(self.scores[self._same])

    @cached_property
    def impostor(self) -> Scores:
        """Scores of pairs of two people, ascending; above two million a seeded sample, the same share for each pair of people."""
        different = ~self._same
        total = int(different.sum())
        if total <= MAX_IMPOSTORS:
            return np.sort(self.scores[different])
        row, column = np.nonzero(different)
        generator = np.random.default_rng([self.seed, total])
        # Shuffle, then order by pair of people: every k-th of that order is an even sample within each pair.
        shuffled = generator.permutation(total)
        pair = (self.probe[row] * self.people + self.enrol[column])[shuffled]
        ordered = shuffled[np.argsort(pair, kind="stable")]
        chosen = ordered[np.linspace(0, total - 1, MAX_IMPOSTORS).astype(np.int64)]
        return np.sort(self.scores[row[chosen], column[chosen]])

    @property
    def reason(self) -> str:
        """Why nothing can be verified, or empty."""
        if not len(self.genuine):
            return "identities without repeats"
        return "" if len(self.impostor) else "fewer than two identities"

    def auc(self) -> float:
        """Exact AUC."""
        return auc(self.genuine, self.impostor, ordered=True)

    def eer(self) -> float:
        """Exact EER."""
        return eer(self.genuine, self.impostor, ordered=True)

    def dprime(self) -> float:
        """d'."""
        return dprime(self.genuine, self.impostor)

    def _edges(self) -> Array:
        bins = int(np.clip(3_000_000 // max(self.people**2, 1), 16, 256))
        spots = np.linspace(0, 1, bins // 2 + 1)[1:-1]
        # Quantiles of sorted arrays by index, cheap; half of the bins follow each distribution.
        ends = [side[(spots * (len(side) - 1)).astype(np.int64)] for side in (self.genuine, self.impostor)]
        return np.unique(np.concatenate(ends).astype(np.float64))

    def estimates(self, plan: Resampling) -> dict[str, Estimate]:
        """`auc` and `eer`, exact, with draws from the histogram of pairs (re-centred on the exact value)."""
        count = len(self.genuine) + len(self.impostor)
        if self.reason:
            nothing = Estimate(math.nan, reason=self.reason, n=count, n_ids=self.people)
            return {"auc": nothing, "eer": nothing}
        exact = {"auc": self.auc(), "eer": self.eer()}
        if plan.draws == 0 or self.people < plan.minimum or self.people > MAX_PEOPLE:
            reason = f"no interval: more than {MAX_PEOPLE} identities" if self.people > MAX_PEOPLE else ""
            return {name: Estimate(value, n=count, n_ids=self.people, reason=reason) for name, value in exact.items()}
        histogram = PairHistogram.start(self._edges(), self.people).update(self.scores, self.probe, self.enrol)
        genuine, impostor = histogram.resampled(plan)
        whole = histogram.genuine.sum(axis=0), histogram.impostor.sum(axis=(0, 1))
        found = {}
        for name, statistic in (("auc", _binned_auc), ("eer", _binned_eer)):
            point = float(statistic(whole[0] / whole[0].sum(), whole[1] / whole[1].sum()))
            samples = np.clip(statistic(genuine, impostor) + (exact[name] - point), 0.0, 1.0)
            found[name] = Estimate(exact[name], samples, count, self.people)
        return found

    def accepted(self, threshold: float, plan: Resampling) -> Estimate:
        """True accept rate at a given threshold, over genuine pairs, people resampled."""
        row, column = np.nonzero(self._same)
        hits = (self.scores[row, column] >= threshold).astype(np.float64)
        return ClusterSums.of(self.probe[row], hits[:, None]).mean(0, plan)
