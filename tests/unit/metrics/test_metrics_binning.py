"""Bins of scores are those of `numpy.searchsorted`, score by score, whatever the edges and the scores are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.metrics.binning import Bins
from raysweep.metrics.verification import PairHistogram

NUMBERS = st.floats(-2.0, 2.0, allow_subnormal=True)
WILD = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=150, deadline=None)
@given(
    edges=st.lists(NUMBERS | st.floats(allow_nan=False, allow_infinity=False), max_size=9),
    scores=st.lists(NUMBERS | WILD, max_size=30),
    single=st.booleans(),
)
def test_the_same_as_searchsorted(edges: list[float], scores: list[float], single: bool) -> None:
    dtype = np.dtype(np.float32 if single else np.float64)
    limits = np.unique(np.array(edges, dtype=np.float64))
    with np.errstate(over="ignore"):
        # Scores on an edge, and the next ones below and above it.
        beside = np.concatenate([np.nextafter(limits.astype(dtype), side, dtype=dtype) for side in (-np.inf, np.inf)])
        found = np.concatenate([np.array(scores).astype(dtype), limits.astype(dtype), beside])
        places = Bins(limits, dtype).place(found)
    assert places.tolist() == np.searchsorted(limits, found, side="right").tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges_at_quantiles_of_many_scores(dtype: type[np.floating]) -> None:
    """As verification asks: every edge is a score that occurs, and most scores lie close together."""
    random = np.random.default_rng(3)
    scores = (0.05 * random.standard_normal((300, 400))).astype(dtype)
    edges = np.unique(np.sort(scores, axis=None)[:: scores.size // 128].astype(np.float64))
    assert np.array_equal(Bins(edges, scores.dtype).place(scores), np.searchsorted(edges, scores, side="right"))


def test_counts_of_pairs_are_those_of_a_plain_count() -> None:
    """People in any order, more images than are counted at once, some with none."""
    random = np.random.default_rng(4)
    people, size = 7, 12
    probe, enrol = random.integers(0, people - 1, 90), random.integers(1, people, 3000)
    scores = random.standard_normal((len(probe), len(enrol))).astype(np.float32)
    edges = np.linspace(-1.5, 1.5, size - 1)
    found = PairHistogram.start(edges, people).update(scores, probe, enrol).update(scores[:1], probe[:1], enrol)
    expected = np.zeros((people, people, size))
    for rows in (slice(None), slice(1)):
        pairs = np.broadcast_arrays(probe[rows, None], enrol[None, :])
        np.add.at(expected, (*pairs, np.searchsorted(edges, scores[rows], side="right")), 1)
    own = np.arange(people)
    assert np.array_equal(found.genuine, expected[own, own])
    expected[own, own] = 0
    assert np.array_equal(found.impostor, expected)
