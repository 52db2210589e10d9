from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from raysweep.errors import ConfigError
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


@pytest.mark.slow
@pytest.mark.parametrize("people", [12, 30, 100])
def test_interval_covers(people: int) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(600):
        person = rng.normal(0.5, 0.1, people)
        values = person[:, None] + rng.normal(0, 0.1, (people, 5))
        plan = Resampling(draws=300, seed=trial)
        found = ClusterSums.of(np.arange(people).repeat(5), values.reshape(-1, 1)).macro_mean(0, plan).metric(plan)
        covered += found.lo <= 0.5 <= found.hi
    assert 0.925 <= covered / 600 <= 0.975


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
