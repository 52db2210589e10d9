from __future__ import annotations

import math

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import DataError
from raysweep.metrics.front import (
    confident_dominance,
    front_on_selection,
    hypervolume,
    hypervolume_band,
    hypervolume_trace,
    knee,
    nondominated,
)

GOLDEN = [(0.9, 0.2), (0.6, 0.6), (0.2, 0.9)]


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (GOLDEN, 0.48),
        ([*GOLDEN, (0.5, 0.5)], 0.48),
        ([(0.5, 0.5)], 0.25),
        ([(1, 1)], 1),
        ([(0, 1), (1, 0), (0.7, 0)], 0),
        ([], 0),
    ],
)
def test_hypervolume_golden(points: list[tuple[float, float]], expected: float) -> None:
    assert hypervolume(points) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.sampled_from([2, 3]), st.integers(0, 10_000), st.booleans())
def test_hypervolume_equals_moocore(n: int, dim: int, seed: int, coarse: bool) -> None:
    points = np.random.default_rng(seed).random((n, dim))
    points = np.round(points * 4) / 4 if coarse else points
    assert hypervolume(points) == pytest.approx(moocore.hypervolume(points, ref=[0] * dim, maximise=True), abs=1e-9)
    ours = np.unique(points[nondominated(points)], axis=0)
    theirs = np.unique(points[moocore.is_nondominated(points, maximise=True, keep_weakly=True)], axis=0)
    assert np.array_equal(ours, theirs)


def test_order_duplicates_and_growth() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((30, 2))
    shuffled = np.concatenate([points, points])[rng.permutation(60)]
    assert hypervolume(shuffled) == pytest.approx(hypervolume(points), abs=1e-12)
    trace = hypervolume_trace(points.tolist())
    assert (np.diff(trace) >= 0).all()
    assert trace == pytest.approx([hypervolume(points[: i + 1]) for i in range(30)], abs=1e-12)


def test_unrankable_trials_hold_the_trace() -> None:
    assert hypervolume_trace([None, (0.5, 0.5), None, (0.6, 0.6)]) == pytest.approx([0, 0.25, 0.25, 0.36])


@pytest.mark.parametrize("call", [hypervolume, nondominated, knee])
def test_not_a_number_is_refused(call: object) -> None:
    with pytest.raises(DataError, match="not numbers"):
        call([(0.5, 0.5), (math.nan, 0.2)])  # type: ignore[operator]
    with pytest.raises(DataError, match="shape"):
        call([0.5, 0.5])  # type: ignore[operator]


def test_nondominated_keeps_equal_points() -> None:
    assert nondominated([(0.5, 0.5), (0.5, 0.5), (0.5, 0.4), (0.1, 0.9)]).tolist() == [True, True, False, True]


def test_knee() -> None:
    assert knee(GOLDEN) == 1
    assert knee([(0.9, 0.1), (0.85, 0.7), (0.2, 0.75), (0.1, 0.1)]) == 1
    assert knee([(0.9, 0.2), (0.2, 0.9), (0.5, 0.6)]) == 2
    # Below the line between the ends there is no knee: the largest box.
    assert knee([(0.9, 0.2), (0.3, 0.3), (0.2, 0.9)]) == 0
    assert knee([(0.5, 0.5)]) == 0
    assert knee([]) is None


def test_confident_dominance_needs_nearly_all_draws() -> None:
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal((4, 1000, 2))
    centre = np.array([(0.8, 0.8), (0.5, 0.5), (0.52, 0.52), (0.2, 0.9)])
    found = confident_dominance(centre[:, None] + noise)
    # 0 is far above 1 and 2; 2 is above 1 by 1.4 standard deviations of the difference in each coordinate: not sure.
    assert np.argwhere(found).tolist() == [[0, 1], [0, 2]]
    assert np.argwhere(confident_dominance(centre[:, None] + noise, level=0.8)).tolist() == [[0, 1], [0, 2], [2, 1]]
    # Oracle: the definition, draw by draw, with a second implementation.
    draws = centre[:, None] + 3 * noise
    share = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            if i != j:
                pairs = [np.array([draws[i, b], draws[j, b]]) for b in range(1000)]
                share[i, j] = np.mean([not moocore.is_nondominated(pair, maximise=True)[1] for pair in pairs])
    assert np.array_equal(confident_dominance(draws), share >= 0.95)


def test_noise_in_common_does_not_hide_a_difference() -> None:
    """Draws resample the same people: what moves all trials together cancels."""
    common = 0.2 * np.random.default_rng(0).standard_normal((1, 500, 2))
    draws = np.array([(0.5, 0.5), (0.45, 0.45)])[:, None] + common
    assert confident_dominance(draws).tolist() == [[False, True], [False, False]]


def test_equal_trials_and_missing_draws_never_dominate() -> None:
    same = np.tile(np.random.default_rng(0).random((1, 100, 2)), (2, 1, 1))
    assert not confident_dominance(same).any()
    better = np.stack([same[0] + 0.1, same[0]])
    better[0, :6] = np.nan
    assert not confident_dominance(better).any()
    assert confident_dominance(better[:, 5:]).tolist() == [[False, True], [False, False]]
    assert not confident_dominance(np.empty((3, 0, 2))).any()
    with pytest.raises(DataError, match="trials, draws"):
        confident_dominance(np.zeros((3, 2)))


@pytest.mark.parametrize("dim", [2, 3])
def test_hypervolume_band_is_the_percentile_of_each_draws_front(dim: int) -> None:
    rng = np.random.default_rng(0)
    draws = np.clip(rng.random((6, 1, dim)) + 0.05 * rng.standard_normal((6, 200, dim)), 0, 1)
    value, lo, hi = hypervolume_band(draws)
    each = [moocore.hypervolume(draws[:, b], ref=[0] * dim, maximise=True) for b in range(200)]
    assert (lo, hi) == pytest.approx(tuple(np.quantile(each, [0.025, 0.975])), abs=1e-12)
    assert value == pytest.approx(hypervolume(draws.mean(axis=1)))
    assert lo < value < hi
    assert hypervolume_band(draws, np.full((6, dim), 0.5))[0] == pytest.approx(0.5**dim)


def test_hypervolume_band_without_draws_or_trials() -> None:
    value, lo, hi = hypervolume_band(np.empty((1, 0, 2)), [(0.5, 0.5)])
    assert value == 0.25
    assert math.isnan(lo)
    assert math.isnan(hi)
    assert hypervolume_band(np.empty((0, 10, 2))) == (0.0, 0.0, 0.0)
    half = np.full((1, 10, 2), 0.5)
    half[0, :6] = np.nan
    assert math.isnan(hypervolume_band(half, [(0.5, 0.5)])[1])
    assert math.isnan(hypervolume_band(np.full((1, 4, 2), np.nan))[0])
    with pytest.raises(DataError, match="2 measured points for the draws of 1"):
        hypervolume_band(half, [(0.5, 0.5)] * 2)


def test_front_chosen_on_selection_is_measured_on_others() -> None:
    select = [(0.9, 0.2), (0.6, 0.6), (0.2, 0.9), (0.5, 0.5), (math.nan, 0.9)]
    report = [(0.8, 0.1), (0.5, 0.5), (0.4, 0.4), (0.9, 0.9), (1.0, 1.0)]
    found = front_on_selection(select, report)
    assert found.chosen.tolist() == [True, True, True, False, False]
    assert found.standing.tolist() == [True, True, False, False, False]
    assert found.promised == pytest.approx(0.48)
    assert found.kept == pytest.approx(hypervolume(report[:3]))
    assert found.best == 1
    nothing = front_on_selection(np.empty((0, 2)), np.empty((0, 2)))
    assert (nothing.kept, nothing.chosen.shape) == (0.0, (0,))
    assert front_on_selection([(math.nan, 1)], [(0.5, 0.5)]).kept == 0
    with pytest.raises(DataError, match="not numbers"):
        front_on_selection([(0.5, 0.5)], [(math.nan, 0.5)])
    with pytest.raises(DataError, match="role S"):
        front_on_selection([(0.5, 0.5)], [(0.5, 0.5)] * 2)


def test_choosing_among_noise_is_too_good_on_the_same_people_only() -> None:
    """Fifty equal trials: chosen and measured on the same people they seem to differ, on others not."""
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(50):
        select, report = (0.5 + 0.05 * rng.standard_normal((50, 2)) for _ in range(2))
        found = front_on_selection(select, report)
        gaps.append((found.promised - 0.25, found.kept - 0.25))
    promised, kept = np.mean(gaps, axis=0)
    assert promised > 0.05
    assert kept < 0.6 * promised
