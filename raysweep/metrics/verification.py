"""Same person or not: AUC, EER, d', linkability, TAR at fixed FAR, with intervals that resample people, not pairs.

Sources: ISO/IEC 19795-1; NIST FRTE 1:1; Gomez-Barrero et al. 2018 (linkability). Scores: higher means more likely the same person.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from raysweep.errors import ConfigError
from raysweep.metrics.binning import Bins
from raysweep.metrics.uncertainty import ClusterSums, Estimate, Resampling, resample
from raysweep.schema import IntArray

__all__ = [
    "PairHistogram",
    "PairScores",
    "auc",
    "dprime",
    "eer",
    "false_match_rate",
    "linkability",
    "roc",
    "rule_of_3",
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
COUNTED_AT_ONCE = 60_000
"""Scores: half a megabyte of places."""
LINKABILITY_BINS = 30
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


def rule_of_3(trials: int) -> float:
    """Upper 95 % bound of an error rate when none of `trials` went wrong: 3 / N, at most 1; NaN without trials."""
    return min(1.0, 3 / trials) if trials else math.nan


def roc(genuine: Scores, impostor: Scores, points: int = 200, ordered: bool = False) -> tuple[Array, Array]:
    """At most `points` points of the curve, a third of them even in FMR, the rest even in its logarithm, where low rates are read.

    Returns:
        (FMR, FNMR), ascending FMR from 0 to 1, each pair reached by one threshold (ties are never split); empty when a side is.
    """
    if not len(genuine) or not len(impostor):
        return np.empty(0), np.empty(0)
    if not ordered:
        genuine, impostor = np.sort(genuine), np.sort(impostor)
    count = len(impostor)
    even = np.linspace(0, 1, max(points // 3, 1))
    low = np.geomspace(1 / count, 1, max(points - len(even) - 2, 1))
    at = np.unique(np.clip(count - np.round(np.concatenate([even, low]) * count), 0, count - 1).astype(np.int64))
    thresholds = np.unique(np.concatenate([impostor[at], [np.inf]]))[::-1]
    fmr = 1 - np.searchsorted(impostor, thresholds, side="left") / count
    fnmr = np.searchsorted(genuine, thresholds, side="left") / len(genuine)
    return np.asarray(fmr), np.asarray(fnmr)


def _balanced_edges(genuine: Scores, impostor: Scores, bins: int) -> Array:
    """Inner edges of bins that hold equal shares of the even mixture of both (ascending) sides."""
    spots = np.linspace(0, 1, 16 * bins + 1)
    candidates = np.unique(
        np.concatenate([side[(spots * (len(side) - 1)).astype(np.int64)] for side in (genuine, impostor)])
    )
    below = sum(np.searchsorted(side, candidates, side="left") / len(side) for side in (genuine, impostor)) / 2
    at = np.searchsorted(below, np.arange(1, bins) / bins, side="left")
    edges = np.unique(candidates[np.minimum(at, len(candidates) - 1)].astype(np.float64))
    return np.asarray(edges[edges > candidates[0]])  # below the lowest score there is nothing


def _linkability(genuine: Array, impostor: Array) -> Array:
    """D_sys of (..., M) shares per bin that sum to 1 on both sides."""
    total = genuine + impostor
    with np.errstate(invalid="ignore", divide="ignore"):
        local = np.where(total > 0, np.maximum(genuine - impostor, 0.0) / total, 0.0)
    return np.asarray((genuine * local).sum(axis=-1))


def _smoothed(counts: Array) -> Array:
    """Shares per bin with half a count more in each."""
    return np.asarray((counts + 0.5) / (counts.sum(axis=-1, keepdims=True) + 0.5 * counts.shape[-1]))


def linkability(genuine: Scores, impostor: Scores, bins: int = LINKABILITY_BINS, ordered: bool = False) -> float:
    """Global linkability D_sys (Gomez-Barrero et al., IEEE TIFS 2018): 0 when nothing links, 1 when every pair is told apart.

    The integral of p(s | genuine) D(s), D = max(0, 2 LR / (1 + LR) - 1), LR = p(s | genuine) / p(s | impostor), from `bins` bins of equal
    weight with 0.5 added to the count of each. `ordered`: both ascend already. NaN when a side is empty.
    """
    if not len(genuine) or not len(impostor):
        return math.nan
    if not ordered:
        genuine, impostor = np.sort(genuine), np.sort(impostor)
    edges = _balanced_edges(genuine, impostor, bins)
    counts = [
        np.diff(np.concatenate([[0], np.searchsorted(side, edges, side="left"), [len(side)]]))
        for side in (genuine, impostor)
    ]
    return float(_linkability(*(_smoothed(side.astype(np.float64)) for side in counts)))


def _step(images: int) -> int:
    """Probes to count at a time, for so many enrolled images."""
    return max(1, COUNTED_AT_ONCE // max(1, images))


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
        people, size = self.genuine.shape
        genuine, impostor = self.genuine.copy(), self.impostor.copy()
        scores = scores if scores.dtype in (np.float32, np.float64) else scores.astype(np.float64)
        bins, start = Bins(self.edges, scores.dtype), enrol * size
        order = np.argsort(probe, kind="stable")
        ends = np.searchsorted(probe[order], np.arange(people + 1), side="left")
        # Person by person: the counts of one, and some of their scores, stay in a core's cache.
        for person in range(people):
            for first in range(int(ends[person]), int(ends[person + 1]), step := _step(len(enrol))):
                at = bins.place(scores[order[first : min(first + step, int(ends[person + 1]))]])
                at += start
                counts = np.bincount(at.ravel(), minlength=people * size).reshape(people, size)
                genuine[person] += counts[person]
                counts[person] = 0
                impostor[person] += counts
        return PairHistogram(self.edges, genuine, impostor)

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

    @classmethod
    def start(cls, enrol: IntArray, people: int, seed: int = 0) -> PairScores:
        """No probes yet."""
        return cls(np.empty((0, len(enrol)), np.float32), np.empty(0, np.int64), enrol, people, seed)

    def update(self, scores: Scores, probe: IntArray) -> PairScores:
        """Add probes: (P, E) scores and (P,) persons."""
        return self.merge(PairScores(scores, probe, self.enrol, self.people, self.seed))

    def merge(self, other: PairScores) -> PairScores:
        """The probes of both.

        Raises:
            ConfigError: they were compared with other enrolled images.
        """
        if self.people != other.people or not np.array_equal(self.enrol, other.enrol):
            raise ConfigError("cannot merge scores against different enrolled images")
        scores = np.concatenate([part.scores for part in (self, other) if len(part.scores)] or [self.scores])
        return PairScores(scores, np.concatenate([self.probe, other.probe]), self.enrol, self.people, self.seed)

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
        if self.scores.size - len(self.genuine) <= MAX_IMPOSTORS:
            return np.sort(self.scores[~self._same])
        return np.sort(self._sampled())

    def _sampled(self) -> Scores:
        """All impostor pairs in a row, those of two people side by side, cut into equal pieces: one pair at random from each piece."""
        # Probes of a person are ordered by their scores, so that the order in which shards were merged does not matter.
        probes = np.lexsort((self.scores[:, 0], self.probe))
        enrols = np.argsort(self.enrol, kind="stable")
        own_probes = np.bincount(self.probe, minlength=self.people).astype(np.int64)
        own_enrols = np.bincount(self.enrol, minlength=self.people).astype(np.int64)
        sizes = own_probes * (len(enrols) - own_enrols)
        ends = np.cumsum(sizes)
        cuts = np.arange(MAX_IMPOSTORS + 1) * int(ends[-1]) // MAX_IMPOSTORS
        at = np.random.default_rng([self.seed, int(ends[-1])]).integers(cuts[:-1], cuts[1:])
        person = np.searchsorted(ends, at, side="right")
        within = at - (ends - sizes)[person]
        column, row = np.divmod(within, own_probes[person])
        first = (np.cumsum(own_enrols) - own_enrols)[person]
        column += np.where(column >= first, own_enrols[person], 0)
        row += (np.cumsum(own_probes) - own_probes)[person]
        return np.asarray(self.scores[probes[row], enrols[column]])

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

    def compute(self, plan: Resampling) -> dict[str, Estimate]:
        """`auc`, `eer` and `linkability`, exact, with draws from the histogram of pairs (re-centred on the exact value); `dprime` alone."""
        count = self.scores.size
        if self.reason:
            nothing = Estimate(math.nan, reason=self.reason, n=count, n_ids=self.people)
            return dict.fromkeys(("auc", "eer", "linkability", "dprime"), nothing)
        exact = {
            "auc": auc(self.genuine, self.impostor, ordered=True),
            "eer": eer(self.genuine, self.impostor, ordered=True),
            "linkability": linkability(self.genuine, self.impostor, ordered=True),
        }
        spread = self.dprime()
        why = "zero variance of the scores" if math.isnan(spread) else "no interval"
        separation = {"dprime": Estimate(spread, n=count, n_ids=self.people, reason=why)}
        if plan.draws == 0 or self.people < plan.minimum or self.people > MAX_PEOPLE:
            reason = f"no interval: more than {MAX_PEOPLE} identities" if self.people > MAX_PEOPLE else ""
            return separation | {
                name: Estimate(value, n=count, n_ids=self.people, reason=reason) for name, value in exact.items()
            }
        histogram = PairHistogram.start(self._edges(), self.people).update(self.scores, self.probe, self.enrol)
        drawn = histogram.resampled(plan)
        whole = tuple(
            counts / counts.sum() for counts in (histogram.genuine.sum(axis=0), histogram.impostor.sum(axis=(0, 1)))
        )
        found = {}
        for name, statistic in (("auc", _binned_auc), ("eer", _binned_eer), ("linkability", self._binned_linkability)):
            shift = exact[name] - float(statistic(*whole))
            samples = np.clip(statistic(*drawn) + shift, 0.0, 1.0)
            found[name] = Estimate(exact[name], samples, count, self.people)
        return separation | found

    def _binned_linkability(self, genuine: Array, impostor: Array) -> Array:
        """D_sys of (..., M) shares, bins taken together until about thirty are left."""
        starts = np.unique(np.linspace(0, genuine.shape[-1], LINKABILITY_BINS + 1).astype(np.int64)[:-1])
        counts = (
            np.add.reduceat(side, starts, axis=-1) * total
            for side, total in ((genuine, len(self.genuine)), (impostor, len(self.impostor)))
        )
        return _linkability(*(_smoothed(side) for side in counts))

    def accepted(self, threshold: float, plan: Resampling) -> Estimate:
        """True accept rate at a given threshold, over genuine pairs, people resampled; Wilson's interval when all or none are accepted."""
        hits = np.where(self._same, self.scores >= threshold, False).sum(axis=1)
        count = self._same.sum(axis=1)
        keys = np.unique(self.probe)
        per_person = [np.bincount(self.probe, values, minlength=self.people)[keys] for values in (hits, count)]
        return ClusterSums(keys, per_person[1].astype(np.int64), np.asarray(per_person[0][:, None], np.float64)).mean(
            0, plan, share=True
        )
