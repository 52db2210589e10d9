from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raysweep.errors import DataError
from raysweep.metrics.comparison import against_baseline, agreement, between_seeds, holm, paired


def _holm_by_definition(p_values: list[float]) -> list[float]:
    """Step down: the k-th smallest is multiplied by how many are left, and never falls below one before it."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, largest = [0.0] * len(p_values), 0.0
    for step, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - step)))
        found[index] = largest
    return found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(_holm_by_definition(p_values), abs=1e-12)
    # Between no correction and Bonferroni's.
    assert all(
        p <= q + 1e-12 <= min(1, len(p_values) * p) + 1e-9 for p, q in zip(p_values, holm(p_values), strict=True)
    )


def test_holm_known_values_and_missing_ones() -> None:
    # Example of R's p.adjust(c(.01, .02, .03, .04, .05), "holm").
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    found = holm([0.01, math.nan, 0.03])
    assert found[::2] == pytest.approx([0.02, 0.03])
    assert math.isnan(found[1])
    assert holm([]) == []
    with pytest.raises(DataError, match="between 0 and 1"):
        holm([0.1, 1.2])


def test_paired_draws_see_a_difference_that_common_noise_hides() -> None:
    rng = np.random.default_rng(0)
    common, own = 0.1 * rng.standard_normal(1000), 0.01 * rng.standard_normal((2, 1000))
    found = paired(0.55, 0.55 + common + own[0], 0.5, 0.5 + common + own[1])
    assert found.difference == pytest.approx(0.05)
    assert 0 < found.lo < 0.05 < found.hi < 0.1
    assert found.p == pytest.approx(2 / 1001)
    unpaired = paired(0.55, 0.55 + common + own[0], 0.5, 0.5 + rng.permutation(common) + own[1])
    assert unpaired.lo < 0 < unpaired.hi
    assert unpaired.p > 0.3


def test_paired_p_agrees_with_the_t_test() -> None:
    rng = np.random.default_rng(1)
    people = 60
    before, after = rng.normal(0.5, 0.2, people), None
    after = before + rng.normal(0.05, 0.15, people)
    weight = rng.multinomial(people, np.full(people, 1 / people), size=20_000) / people
    found = paired(after.mean(), weight @ after, before.mean(), weight @ before, people=people)
    test = stats.ttest_rel(after, before)
    assert found.p == pytest.approx(test.pvalue, abs=0.01)
    interval = test.confidence_interval()
    assert (found.lo, found.hi) == pytest.approx((interval.low, interval.high), abs=0.006)


def test_equal_trials_and_missing_draws() -> None:
    draws = np.random.default_rng(0).random(100)
    same = paired(0.5, draws, 0.5, draws)
    assert (same.difference, same.lo, same.hi, same.p) == (0, 0, 0, 1)
    assert math.isnan(paired(0.5, np.empty(0), 0.4, np.empty(0)).p)
    assert math.isnan(paired(math.nan, draws, 0.4, draws).p)
    with pytest.raises(DataError, match="not pairs"):
        paired(0.5, draws, 0.4, draws[:50])


def test_against_one_baseline_corrects_for_all() -> None:
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.standard_normal((4, 999))
    trials = {name: (value, value + row) for name, value, row in zip("abcd", (0.5, 0.9, 0.55, 0.5), noise, strict=True)}
    found = against_baseline(trials, "a")
    assert list(found) == ["b", "c", "d"]
    assert found["b"].p == pytest.approx(0.002)
    assert found["b"].p_holm == pytest.approx(0.006)
    assert found["c"].p_holm > found["c"].p
    assert found["d"].p_holm > 0.5
    with pytest.raises(DataError, match="baseline 'z'"):
        against_baseline(trials, "z")


def test_agreement_of_orders_is_kendalls_tau() -> None:
    rng = np.random.default_rng(0)
    full = np.round(rng.random(20), 1)
    low = np.round(full + 0.2 * rng.random(20), 1)
    signs = [(np.sign(low[i] - low[j]), np.sign(full[i] - full[j])) for i in range(20) for j in range(i)]
    ours = agreement(low.tolist(), full.tolist())
    untied = [sum(side[number] != 0 for side in signs) for number in (0, 1)]
    assert ours.value == pytest.approx(sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1]))
    assert (ours.n, ours.ok) == (20, True)
    assert agreement(list(range(12)), list(range(12))).value == pytest.approx(1)
    assert agreement(list(range(12)), list(range(12))[::-1]).value == pytest.approx(-1)
    few = agreement([0.1] * 11, [0.2] * 11)
    assert (few.status, few.reason) == ("undefined", "11 shared trials; the order of 12 is needed")
    assert "equal" in agreement([0.5] * 12, list(range(12))).reason
    with pytest.raises(DataError, match="12 trials at the small fidelity for 11"):
        agreement([0.0] * 12, [0.0] * 11)


def test_spread_between_seeds() -> None:
    found = between_seeds([0.5, 0.6, 0.7, math.nan])
    assert (found.mean, found.seeds, found.reason) == (pytest.approx(0.6), 3, "")
    assert found.sd == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
    two = between_seeds([0.5, 0.6])
    assert math.isnan(two.sd)
    assert "needs 3" in two.reason
    assert math.isnan(between_seeds([]).mean)
