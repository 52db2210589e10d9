from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.errors import ConfigError
from raysweep.metrics.identification import IdentificationSums, cmc, rank1_at_gallery, rank_k, ranks
from raysweep.metrics.uncertainty import Resampling

PLAN = Resampling(draws=200)


def test_rank1_at_gallery_golden() -> None:
    above, ties = np.array([0, 1, 9, 0]), np.array([0, 0, 0, 9])
    assert rank1_at_gallery(above, ties, 10, 5) == pytest.approx([1, 0.5556, 0, 0.2], abs=5e-5)


@pytest.mark.parametrize(("k", "expected"), [(2, 0.6724), (5, 0.2995), (10, 0.1500)])
def test_subject_k_same_golden(k: int, expected: float) -> None:
    assert rank1_at_gallery(np.array([0]), np.array([k - 1]), 30, 20)[0] == pytest.approx(expected, abs=5e-5)
    assert rank1_at_gallery(np.array([0]), np.array([k - 1]), 30, 30)[0] == pytest.approx(1 / k, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.integers(0, 1000))
def test_rank1_at_gallery_equals_drawing_every_gallery(classes: int, seed: int) -> None:
    """Oracle: enumerate all galleries that hold the true person, break ties evenly."""
    from itertools import combinations

    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (1, classes)).astype(float)
    genuine = np.array([int(rng.integers(classes))])
    gallery = int(rng.integers(1, classes + 1))
    others = [c for c in range(classes) if c != genuine[0]]
    wins = []
    for chosen in combinations(others, gallery - 1):
        rivals = scores[0, list(chosen)]
        own = scores[0, genuine[0]]
        wins.append(0.0 if (rivals > own).any() else 1 / (1 + (rivals == own).sum()))
    above, ties = ranks(scores, genuine)
    assert rank1_at_gallery(above, ties, classes, gallery)[0] == pytest.approx(np.mean(wins), abs=1e-12)


def test_fair_ties_in_rank_k() -> None:
    above, ties = ranks(np.array([[1.0, 1.0, 1.0, 0.0], [0.2, 0.9, 0.1, 0.9]]), np.array([0, 0]))
    assert above.tolist() == [0, 2]
    assert ties.tolist() == [2, 0]
    assert rank_k(above, ties, 1) == pytest.approx([1 / 3, 0])
    assert rank_k(above, ties, 2) == pytest.approx([2 / 3, 0])
    assert rank_k(above, ties, 3) == pytest.approx([1, 1])
    assert cmc(above, ties, 4).mean(axis=0) == pytest.approx([1 / 6, 1 / 3, 1, 1])


@pytest.mark.parametrize(("spread", "at10", "at100"), [(1, 0.342, 0.084), (2, 0.673, 0.321), (3, 0.901, 0.679)])
def test_gaussian_golden(spread: float, at10: float, at100: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((40_000, 100)).astype(np.float32)
    genuine = np.arange(40_000) % 100
    scores[np.arange(40_000), genuine] += spread
    above, ties = ranks(scores, genuine)
    assert rank1_at_gallery(above, ties, 100, 10).mean() == pytest.approx(at10, abs=0.01)
    assert rank1_at_gallery(above, ties, 100, 100).mean() == pytest.approx(at100, abs=0.01)


def test_macro_counts_people_and_micro_counts_photographs() -> None:
    scores = np.array([[1.0, 0.0]] * 8 + [[1.0, 0.0]] * 2)
    sums = IdentificationSums.start(2, 2).update(scores, np.array([0] * 8 + [1] * 2))
    assert sums.rank(1, PLAN).value == 0.5
    assert sums.rank_micro(1, PLAN).value == 0.8
    assert sums.curve().tolist() == [0.5, 1.0]
    assert sums.risk().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_agree_in_any_order(shards: int) -> None:
    rng = np.random.default_rng(1)
    scores, genuine = rng.random((60, 12)), rng.integers(0, 12, 60)
    whole = IdentificationSums.start(12, 5).update(scores, genuine)
    parts = [
        IdentificationSums.start(12, 5).update(scores[rows], genuine[rows])
        for rows in np.array_split(rng.permutation(60), shards)
    ]
    merged = parts[-1]
    for part in parts[:-1]:
        merged = part.merge(merged)
    assert merged.standard(PLAN).value == pytest.approx(whole.standard(PLAN).value, abs=1e-12)
    assert merged.curve() == pytest.approx(whole.curve(), abs=1e-12)


def test_all_right_gets_wilson_on_people() -> None:
    scores = np.eye(50).repeat(4, axis=0)
    value = IdentificationSums.start(50, 20).update(scores, np.arange(50).repeat(4)).standard(PLAN).metric(PLAN)
    assert (value.value, value.hi) == (1.0, 1.0)
    assert value.lo == pytest.approx(1 - 0.0713, abs=1e-4)
    assert (value.n, value.n_ids) == (200, 50)


def test_few_people_keep_the_value_without_interval() -> None:
    value = IdentificationSums.start(9, 5).update(np.eye(9), np.arange(9)).standard(PLAN).metric(PLAN)
    assert value.ok
    assert value.value == 1
    assert math.isnan(value.lo)
    assert "fewer than 10 identities" in value.reason


def test_wrong_galleries_are_refused() -> None:
    with pytest.raises(ConfigError, match="gallery size 11 with 10"):
        rank1_at_gallery(np.array([0]), np.array([0]), 10, 11)
    with pytest.raises(ConfigError, match="cannot merge"):
        IdentificationSums.start(10, 5).merge(IdentificationSums.start(10, 6))
    assert math.isnan(IdentificationSums.start(3, 2).update(np.eye(3), np.arange(3)).rank(5, PLAN).value)
