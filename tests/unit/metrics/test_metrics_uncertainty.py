from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from raysweep.errors import ConfigError
from raysweep.metrics.expression import ExpressionSums
from raysweep.metrics.uncertainty import (
    ClusterSums,
    Estimate,
    Resampling,
    clusters,
    mean_of,
    percentile_interval,
    resample,
    wilson,
)
from raysweep.metrics.verification import PairScores

Study = Callable[[np.random.Generator, int, Resampling], tuple[float, float, float]]
AUC_TRUTH = 0.8821


@pytest.mark.parametrize(
    ("successes", "n", "lo", "hi"),
    [(0, 50, 0, 0.0713), (1, 50, 0.0035, 0.105), (0, 1000, 0, 0.0038), (50, 1000, 0.0381, 0.0653)],
)
def test_wilson_golden(successes: int, n: int, lo: float, hi: float) -> None:
    assert wilson(successes, n) == pytest.approx((lo, hi), abs=6e-5 if hi < 0.1 else 6e-4)
    theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_draws_are_the_same_for_everybody_and_sum_to_n() -> None:
    assert np.array_equal(resample(30, 500, 3), resample(30, 500, 3))
    assert not np.array_equal(resample(30, 500, 3), resample(30, 500, 4))
    assert (resample(30, 500, 3).sum(axis=1) == 30).all()
    with pytest.raises(ValueError, match="read-only"):
        resample(30, 500, 3)[0, 0] = 9


def test_clusters_of_size_one_agree_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, size=80)
    plan = Resampling(draws=20_000, seed=1)
    ours = ClusterSums.of(np.arange(80), values[:, None]).mean(0, plan).metric(plan)
    expanded = 1 - 2 * stats.norm.cdf(np.sqrt(80 / 79) * stats.t.ppf(0.025, 79))
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        confidence_level=expanded,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_identities_are_the_unit() -> None:
    """Ten copies of each image must not make the interval narrower."""
    rng = np.random.default_rng(0)
    values = rng.random(40)
    plan = Resampling()
    once = ClusterSums.of(np.arange(40), values[:, None]).mean(0, plan).metric(plan)
    copied = ClusterSums.of(np.arange(40).repeat(10), values.repeat(10)[:, None]).mean(0, plan).metric(plan)
    assert (once.lo, once.hi) == pytest.approx((copied.lo, copied.hi))
    assert (copied.n, copied.n_ids) == (400, 40)


# Coverage of the 95 % interval, simulated. Each study draws new people from a population whose true value is known, and asks whether the
# interval holds it; 1,500 studies have a standard error of 0.6 points.


def _rank1(random: np.random.Generator, people: int, plan: Resampling) -> tuple[float, float, float]:
    """Ten probes of each person, who is recognised with a probability of her own: Beta(2, 3), mean 0.4."""
    hits = random.binomial(10, random.beta(2, 3, people)) / 10
    value = ClusterSums.of(np.arange(people), hits[:, None]).macro_mean(0, plan).metric(plan)
    return value.lo, value.hi, 0.4


def _score(random: np.random.Generator, people: int, plan: Resampling) -> tuple[float, float, float]:
    """Five images of each person, normal scores around a normal mean of her own."""
    values = random.normal(0.5, 0.1, people)[:, None] + random.normal(0, 0.1, (people, 5))
    found = ClusterSums.of(np.arange(people).repeat(5), values.reshape(-1, 1)).macro_mean(0, plan).metric(plan)
    return found.lo, found.hi, 0.5


def _difference(random: np.random.Generator, people: int, plan: Resampling) -> tuple[float, float, float]:
    """Two trials on the same people: rank-1 of Beta(2, 3) and 0.1 below, paired draw by draw."""
    rate = random.beta(2, 3, people)
    sides = [random.binomial(10, rates) / 10 for rates in (rate, 0.75 * rate)]
    one, other = (ClusterSums.of(np.arange(people), side[:, None]).macro_mean(0, plan) for side in sides)
    lo, hi = percentile_interval(one.samples - other.samples, plan.level, people)
    return lo, hi, 0.1


def _utility(random: np.random.Generator, people: int, plan: Resampling) -> tuple[float, float, float]:
    """One image of each expression of each person, who keeps each with a probability of her own: Beta(5, 2), so U is (5/7 - 1/7) / (6/7)."""
    who, y = np.arange(people).repeat(7), np.tile(np.arange(7), people)
    kept = random.random(7 * people) < random.beta(5, 2, people)[who]
    z = np.where(kept, y, (y + random.integers(1, 7, len(y))) % 7)
    sums = ExpressionSums.start(7).update(np.eye(7)[y], np.eye(7)[z], who)
    found = sums.utility_of(np.ones(people, dtype=bool), plan).metric(plan)
    return found.lo, found.hi, 2 / 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "people"),
    [(_rank1, 20), (_rank1, 100), (_score, 20), (_score, 100), (_difference, 30), (_utility, 30)],
)
def test_interval_covers_between_93_and_97_percent(study: Study, people: int) -> None:
    random = np.random.default_rng(people)
    studies, covered = 1500, 0
    for number in range(studies):
        lo, hi, truth = study(random, people, Resampling(draws=300, seed=number))
        covered += lo <= truth <= hi
    print(f"{study.__name__[1:]}, {people} people: {covered / studies:.1%} of {studies} intervals hold the truth")
    assert 0.93 <= covered / studies <= 0.97


@pytest.mark.slow
def test_interval_of_auc_covers_between_93_and_97_percent() -> None:
    """Thirty people, three photographs on each side, Gaussian around Gaussian in 16 dimensions; true AUC from six draws of 4,000 people, 96 million pairs, to 0.0016."""
    random, truth, covered = np.random.default_rng(330), AUC_TRUTH, 0
    for number in range(1200):
        who = np.arange(30).repeat(3)
        centre = random.standard_normal((30, 16))[who]
        sides = (centre + 1.2 * random.standard_normal((90, 16)) for _ in range(2))
        probe, enrol = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
        plan = Resampling(draws=200, seed=number)
        value = PairScores((probe @ enrol.T).astype(np.float32), who, who, 30).compute(plan)["auc"].metric(plan)
        covered += value.lo <= truth <= value.hi
    print(f"AUC, 30 people: {covered / 12:.1f} % of 1,200 intervals hold the truth")
    assert 0.93 <= covered / 1200 <= 0.97


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_agree(shards: int) -> None:
    rng = np.random.default_rng(5)
    key, values = rng.integers(0, 15, 100), rng.random((100, 3))
    whole = ClusterSums.of(key, values)
    merged = ClusterSums.empty(3)
    for rows in np.array_split(rng.permutation(100), shards):
        merged = ClusterSums.of(key[rows], values[rows]).merge(merged)
    assert np.array_equal(merged.keys, whole.keys)
    assert np.array_equal(merged.count, whole.count)
    assert merged.sums == pytest.approx(whole.sums, abs=1e-12)


def test_unknown_identities_are_their_own_clusters() -> None:
    assert clusters(np.array([4, -1, 4, -1])).tolist() == [4, -2, 4, -4]
    assert clusters(np.array([-1, 2]), np.array([10, 11])).tolist() == [-11, 2]


def test_mean_of_models() -> None:
    one, two = Estimate(0.2, np.array([0.1, 0.3]), 5, 5), Estimate(0.4, np.array([0.3, 0.5]), 5, 5)
    both = mean_of({"a": one, "b": two})
    assert both.value == pytest.approx(0.3)
    assert both.samples == pytest.approx([0.2, 0.4])
    part = mean_of({"a": one, "b": Estimate(math.nan, reason="broken")})
    assert part.value == 0.2
    assert part.reason == "b: broken"
    assert math.isnan(mean_of({"b": Estimate(math.nan, reason="broken")}).value)


def test_no_draws_no_interval_and_mostly_undefined_draws() -> None:
    found = ClusterSums.of(np.arange(20), np.random.default_rng(0).random((20, 1))).mean(0, Resampling(draws=0))
    value = found.metric(Resampling(draws=0))
    assert value.ok
    assert math.isnan(value.lo)
    assert "bootstrap is off" in value.reason
    assert all(math.isnan(end) for end in percentile_interval(np.array([1.0, np.nan, np.nan, np.nan])))
    with pytest.raises(ConfigError, match="draws"):
        Resampling(draws=-1)


def test_nothing_is_undefined_not_zero() -> None:
    value = ClusterSums.empty(1).mean(0, Resampling()).metric(Resampling())
    assert value.status == "undefined"
    assert math.isnan(value.value)
