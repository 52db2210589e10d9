from __future__ import annotations

import math

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import DataError
from raysweep.metrics.front import hypervolume, hypervolume_trace, knee, nondominated

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
