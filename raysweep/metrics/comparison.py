"""Is one trial better than another, and how much of a difference is chance? Paired draws, Holm's correction, and the spread between seeds.

All trials of a study resample the same people in draw b, so the draws of two trials are subtracted one by one.
Sources: Holm 1979; Davison and Hinkley 1997 (bootstrap p-values); Kendall 1945 (rank agreement with ties).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raysweep.errors import DataError
from raysweep.metrics.uncertainty import percentile_interval
from raysweep.metrics.value import MetricValue

__all__ = [
    "MIN_SEEDS",
    "MIN_SHARED",
    "Comparison",
    "SeedSpread",
    "against_baseline",
    "agreement",
    "between_seeds",
    "holm",
    "paired",
]

Array = npt.NDArray[np.float64]

MIN_SEEDS = 3
"""Fewest runs of one setting from which a spread is stated."""
MIN_SHARED = 12
"""Fewest trials that two fidelities must share before their order is compared."""


@dataclass(frozen=True)
class Comparison:
    """A trial minus the baseline.

    Attributes:
        difference: of the values; above 0 the trial is better (of a score where higher is better).
        lo, hi: interval of the difference over paired draws, NaN when there are none.
        p: two-sided, that the difference is 0.
        p_holm: the same, corrected for the number of comparisons made together.
    """

    difference: float
    lo: float
    hi: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class SeedSpread:
    """How much a result moves when only the seed changes; stands beside the interval over people, never in it.

    Attributes:
        mean: over the seeds.
        sd: sample standard deviation, NaN with fewer than `MIN_SEEDS`.
        seeds: how many.
        reason: why there is no sd, or empty.
    """

    mean: float
    sd: float
    seeds: int
    reason: str = ""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; NaN stays NaN and does not count as a comparison.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Raises:
        DataError: a value outside of 0 to 1.
    """
    table = np.asarray(p_values, dtype=np.float64)
    if ((table < 0) | (table > 1)).any():
        raise DataError(f"p-values must lie between 0 and 1; got {table[(table < 0) | (table > 1)][0]:g}")
    found = np.full(len(table), math.nan)
    known = np.flatnonzero(np.isfinite(table))
    order = known[np.argsort(table[known], kind="stable")]
    steps = table[order] * np.arange(len(order), 0, -1)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(value) for value in found]


def agreement(low: Sequence[float], full: Sequence[float]) -> MetricValue:
    """Kendall's tau-b between the order of trials at a small fidelity and at full: 1 the same order, 0 none in common, -1 reversed.

    Args:
        low, full: one number per trial that was measured at both.

    Returns:
        Without interval; undefined, with the reason, for fewer than `MIN_SHARED` trials and where all of one side are equal.

    Raises:
        DataError: different lengths.
    """
    if len(low) != len(full):
        raise DataError(f"{len(low)} trials at the small fidelity for {len(full)} at full")
    if len(low) < MIN_SHARED:
        return MetricValue.undefined(f"{len(low)} shared trials; the order of {MIN_SHARED} is needed", len(low))
    # Slow to import, and most sweeps have no small fidelity.
    from scipy.stats import kendalltau

    tau = float(kendalltau(low, full).statistic)
    if math.isnan(tau):
        return MetricValue.undefined("all trials are equal at one of the fidelities", len(low))
    return MetricValue(tau, n=len(low), reason="no interval: agreement of orders")


def paired(
    value: float, draws: Array, baseline: float, baseline_draws: Array, level: float = 0.95, people: int | None = None
) -> Comparison:
    """One trial against one baseline.

    Args:
        value, baseline: measured values.
        draws, baseline_draws: (B,) the same in each draw of people, the same draws for both; empty for none.
        level: of the interval.
        people: number of identities, for the correction of `percentile_interval`; None for the plain one.

    Raises:
        DataError: different numbers of draws.
    """
    left, right = (np.asarray(side, dtype=np.float64) for side in (draws, baseline_draws))
    if left.shape != right.shape or left.ndim != 1:
        raise DataError(f"draws of shapes {left.shape} and {right.shape} are not pairs")
    difference = float(value - baseline)
    moved = left - right
    moved = moved[np.isfinite(moved)]
    if not len(moved) or len(moved) < len(left) / 2 or not math.isfinite(difference):
        return Comparison(difference, math.nan, math.nan, math.nan, math.nan)
    lo, hi = percentile_interval(moved, level, people)
    # One more on each side: of B draws none can show a p below 1 / (B + 1).
    tails = ((moved <= 0).sum() + 1, (moved >= 0).sum() + 1)
    p = min(1.0, 2 * min(tails) / (len(moved) + 1))
    return Comparison(difference, lo, hi, float(p), float(p))


def against_baseline(
    trials: Mapping[str, tuple[float, Array]], baseline: str, level: float = 0.95, people: int | None = None
) -> dict[str, Comparison]:
    """Each trial against one of them, with Holm's correction over all.

    Args:
        trials: name -> (value, (B,) paired draws).
        baseline: name of the one to compare with.
        level, people: as in `paired`.

    Raises:
        DataError: the baseline is not among the trials, or draws are not pairs.
    """
    if baseline not in trials:
        raise DataError(f"baseline {baseline!r} is not among the trials {', '.join(trials)}")
    value, draws = trials[baseline]
    found = {
        name: paired(other, other_draws, value, draws, level, people)
        for name, (other, other_draws) in trials.items()
        if name != baseline
    }
    corrected = holm([comparison.p for comparison in found.values()])
    return {name: replace(comparison, p_holm=p) for (name, comparison), p in zip(found.items(), corrected, strict=True)}


def between_seeds(values: Sequence[float]) -> SeedSpread:
    """Mean and spread of one setting's results under different seeds; undefined ones are left out.

    >>> between_seeds([0.5, 0.6, 0.7]).sd.__round__(3)
    0.1
    """
    finite = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
    count = len(finite)
    mean = float(finite.mean()) if count else math.nan
    if count < MIN_SEEDS:
        return SeedSpread(mean, math.nan, count, f"{count} seeds; a spread needs {MIN_SEEDS}")
    return SeedSpread(mean, float(finite.std(ddof=1)), count)
