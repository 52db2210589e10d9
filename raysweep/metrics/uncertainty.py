"""Intervals: the identity is what gets resampled, with all its images, and every trial sees the same draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

from raysweep.errors import ConfigError
from raysweep.metrics.value import MetricValue
from raysweep.schema import IntArray

__all__ = [
    "ClusterSums",
    "Estimate",
    "MeanSums",
    "Resampling",
    "clusters",
    "mean_of",
    "percentile_interval",
    "resample",
    "wilson",
]

Array = npt.NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Sums over clusters (..., F) -> the metric (...)."""

MAX_DRAW_CELLS = 20_000_000
"""Largest (draws x clusters) table, 80 MB; above it the number of draws is lowered."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes:
        draws: bootstrap draws B; 0 switches intervals off.
        seed: equal seeds give equal draws for equal numbers of identities, so trials are compared pairwise.
        minimum: fewest identities for which an interval is stated.
        level: confidence.
    """

    draws: int = 1000
    seed: int = 0
    minimum: int = 10
    level: float = 0.95

    def __post_init__(self) -> None:
        problems = []
        if self.draws < 0:
            problems.append(f"bootstrap draws: {self.draws}; allowed: 0 (no intervals) or more")
        if not 0 < self.level < 1:
            problems.append(f"confidence level: {self.level}; allowed: between 0 and 1")
        if problems:
            raise ConfigError(problems)


@lru_cache(maxsize=8)
def resample(n: int, draws: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each of `n` clusters is drawn, (draws, n) float32, each row summing to n; read-only and cached."""
    draws = min(draws, max(1, MAX_DRAW_CELLS // max(n, 1)))
    generator = np.random.default_rng([seed, n])
    counts = generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32)
    counts.setflags(write=False)
    return counts


def clusters(identity: IntArray, rows: IntArray | None = None) -> IntArray:
    """What is resampled together: the identity where it is known, else the image itself.

    Args:
        identity: (N,) with -1 for unknown.
        rows: (N,) a number per image that is unique over all shards; default 0 to N - 1.

    Returns:
        (N,) int64: the identity, or -1 - row.
    """
    rows = np.arange(len(identity), dtype=np.int64) if rows is None else rows
    return np.where(identity >= 0, identity, -1 - rows)


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927).

    >>> [round(end, 4) for end in wilson(1, 50)]
    [0.0035, 0.105]
    """
    if n <= 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    lo = 0.0 if successes == 0 else max(0.0, centre - half)
    hi = 1.0 if successes == n else min(1.0, centre + half)
    return lo, hi


def percentile_interval(samples: Array, level: float = 0.95, n: int | None = None) -> tuple[float, float]:
    """Percentile interval of bootstrap values; NaN values (a draw without the class) are left out, but not when they are most.

    With `n`, the number of clusters, the percentiles are moved outwards by sqrt(n / (n - 1)) and from normal to Student's t, which the plain
    ones lack: with 20 people they cover about 92 % instead of 95 % (the expanded percentile interval of Hesterberg 2015).
    """
    finite = samples[np.isfinite(samples)]
    if len(finite) < max(1, len(samples) // 2):
        return math.nan, math.nan
    tail = 0.5 - level / 2
    if n is not None and n > 1:
        tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, tail)))
    lo, hi = np.quantile(finite, [tail, 1 - tail])
    return float(lo), float(hi)


@dataclass(frozen=True)
class Estimate:
    """A number and the values that it took in the bootstrap draws.

    Attributes:
        value: NaN when undefined, and `reason` then says why.
        samples: (B,) the same number in each draw; empty when there are no draws.
        n, n_ids: images (or pairs) and identities.
        reason: why undefined, or a remark.
        all_or_none: every identity scored 1 (or every one 0): resampling cannot show any spread, so Wilson's interval on the number of
            identities is used.
        transform: monotone map from that share to `value` (identity for a plain share).
    """

    value: float
    samples: Array = field(default_factory=lambda: np.empty(0))
    n: int = 0
    n_ids: int = 0
    reason: str = ""
    all_or_none: float | None = None
    transform: Callable[[float], float] | None = None

    def interval(self, plan: Resampling) -> tuple[float, float]:
        """95 % interval, whatever the number of identities."""
        if self.all_or_none is not None:
            ends = wilson(self.all_or_none * self.n_ids, self.n_ids, plan.level)
            if self.transform is not None:
                ends = (self.transform(ends[0]), self.transform(ends[1]))
            return min(*ends, self.value), max(*ends, self.value)
        return percentile_interval(self.samples, plan.level, self.n_ids) if len(self.samples) else (math.nan, math.nan)

    def metric(self, plan: Resampling) -> MetricValue:
        """The value with its interval; below `plan.minimum` identities the value alone, with the reason."""
        if not math.isfinite(self.value):
            return MetricValue.undefined(self.reason or "not computable", self.n, self.n_ids)
        reason = self.reason
        lo = hi = math.nan
        if plan.draws == 0:
            reason = "; ".join(filter(None, [reason, "no interval: bootstrap is off"]))
        elif self.n_ids < plan.minimum:
            reason = "; ".join(filter(None, [reason, f"no interval: fewer than {plan.minimum} identities"]))
        else:
            lo, hi = self.interval(plan)
            if math.isnan(lo) and "no interval" not in reason:
                why = "no interval: undefined in most draws" if len(self.samples) else "no interval"
                reason = "; ".join(filter(None, [reason, why]))
        return MetricValue(self.value, lo, hi, self.n, self.n_ids, "ok", reason)


def mean_of(models: Mapping[str, Estimate]) -> Estimate:
    """Mean over models, draw by draw; undefined ones are left out and named in the reason, all undefined is undefined."""
    estimates = list(models.values())
    defined = [estimate for estimate in estimates if math.isfinite(estimate.value)]
    remarks = [f"{name}: {estimate.reason}" for name, estimate in models.items() if estimate.reason]
    if len({estimate.reason for estimate in estimates}) == 1:
        remarks = [estimates[0].reason] if estimates[0].reason else []
    if not defined:
        return Estimate(math.nan, reason="; ".join(remarks) or "no model")
    if len(defined) == 1 and len(estimates) == 1:
        return defined[0]
    draws = min(len(estimate.samples) for estimate in defined)
    samples = np.mean([estimate.samples[:draws] for estimate in defined], axis=0)
    value = float(np.mean([estimate.value for estimate in defined]))
    first = defined[0]
    same = all(
        e.all_or_none is not None and e.all_or_none == first.all_or_none and e.value == first.value for e in defined
    )
    return Estimate(
        value,
        samples,
        n=first.n,
        n_ids=first.n_ids,
        reason="; ".join(remarks),
        all_or_none=first.all_or_none if same else None,
        transform=first.transform if same else None,
    )


@dataclass(frozen=True)
class ClusterSums:
    """Sums of F columns per cluster: the partial result of a shard. Shards may be merged in any order.

    Attributes:
        keys: (C,) ascending cluster numbers.
        count: (C,) images per cluster.
        sums: (C, F) float64.
    """

    keys: IntArray
    count: IntArray
    sums: Array

    @classmethod
    def empty(cls, columns: int) -> ClusterSums:
        """No clusters yet."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, columns)))

    @classmethod
    def of(cls, cluster: IntArray, values: Array) -> ClusterSums:
        """Add up (N, F) values within their clusters."""
        keys, start, count = np.unique(np.sort(cluster), return_index=True, return_counts=True)
        if not len(keys):
            return cls.empty(values.shape[1])
        order = np.argsort(cluster, kind="stable")
        return cls(keys, count.astype(np.int64), np.add.reduceat(values[order], start, axis=0, dtype=np.float64))

    def merge(self, other: ClusterSums) -> ClusterSums:
        """The sums of both."""
        keys = np.union1d(self.keys, other.keys)
        count = np.zeros(len(keys), np.int64)
        sums = np.zeros((len(keys), self.sums.shape[1]))
        for part in (self, other):
            at = np.searchsorted(keys, part.keys)
            count[at] += part.count
            sums[at] += part.sums
        return ClusterSums(keys, count, sums)

    @property
    def n(self) -> int:
        """Images."""
        return int(self.count.sum())

    def resampled(self, plan: Resampling, member: npt.NDArray[np.bool_] | None = None) -> Array:
        """(B, F): total sums of each bootstrap draw; (0, F) without draws or clusters.

        With `member` (C,) only those clusters are added up, out of the same draws of all, so that a part and the whole are compared draw by draw.
        """
        if plan.draws == 0 or len(self.keys) == 0:
            return np.empty((0, self.sums.shape[1]))
        weight = resample(len(self.keys), plan.draws, plan.seed)
        if member is None:
            return weight.astype(np.float64) @ self.sums
        return weight[:, member].astype(np.float64) @ self.sums[member]

    def estimate(self, statistic: Statistic, plan: Resampling, reason: str = "") -> Estimate:
        """A statistic of the total sums, and of each draw's."""
        if len(self.keys) == 0:
            return Estimate(math.nan, reason=reason or "no images")
        value = float(statistic(self.sums.sum(axis=0)))
        return Estimate(value, np.asarray(statistic(self.resampled(plan))), self.n, len(self.keys), reason)

    def macro_mean(
        self, column: int, plan: Resampling, reason: str = "", member: npt.NDArray[np.bool_] | None = None
    ) -> Estimate:
        """Mean over clusters of the cluster's own mean; with `member` (C,) over those clusters, as in `resampled`."""
        used = np.ones(len(self.keys), dtype=bool) if member is None else member
        if not used.any():
            return Estimate(math.nan, reason=reason or "no images")
        means = self.sums[used, column] / self.count[used]
        samples = np.empty(0)
        if plan.draws:
            weight = resample(len(self.keys), plan.draws, plan.seed)[:, used].astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                samples = weight @ means / weight.sum(axis=1)
        first = float(means[0])
        constant = first in (0.0, 1.0) and bool(np.all(means == first))
        return Estimate(
            float(means.mean()),
            samples,
            int(self.count[used].sum()),
            len(means),
            reason,
            all_or_none=first if constant else None,
        )

    def mean(self, column: int, plan: Resampling, reason: str = "", share: bool = False) -> Estimate:
        """Mean over images, clusters resampled. `share`: of images with a property, for which Wilson's interval holds at 0 and 1."""
        both = ClusterSums(self.keys, self.count, np.stack([self.sums[:, column], self.count], axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = both.estimate(lambda sums: sums[..., 0] / sums[..., 1], plan, reason)
        return replace(found, all_or_none=found.value) if share and found.value in (0.0, 1.0) else found


@dataclass(frozen=True)
class MeanSums:
    """Partial sums of one score per image (PSNR, SSIM, a share...); `update` and `merge` in any order.

    Attributes:
        sums: per cluster.
        missing: images without a value, which are left out.
        share: the score is 1 or 0: has a property or not.
    """

    sums: ClusterSums
    missing: int = 0
    share: bool = False

    @classmethod
    def start(cls, share: bool = False) -> MeanSums:
        """Nothing counted yet."""
        return cls(ClusterSums.empty(1), share=share)

    def update(self, values: npt.NDArray[np.floating], cluster: IntArray) -> MeanSums:
        """Count (N,) values, NaN where there is none, of (N,) clusters."""
        usable = np.isfinite(values)
        part = ClusterSums.of(cluster[usable], np.asarray(values[usable], dtype=np.float64)[:, None])
        return MeanSums(self.sums.merge(part), self.missing + int((~usable).sum()), self.share)

    def merge(self, other: MeanSums) -> MeanSums:
        """The sums of both."""
        return MeanSums(self.sums.merge(other.sums), self.missing + other.missing, self.share)

    def compute(self, plan: Resampling) -> dict[str, Estimate]:
        """`mean` over the images that have a value, clusters resampled."""
        if not self.sums.n:
            reason = "no image has a value" if self.missing else "no images"
            return {"mean": Estimate(math.nan, reason=reason, n=self.missing)}
        remark = f"{self.missing} images without a value left out" if self.missing else ""
        return {"mean": self.sums.mean(0, plan, remark, self.share)}
