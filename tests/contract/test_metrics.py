"""Every built-in metric keeps the contract that plug-ins are held to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.metrics.distribution import FeaturePairs
from raysweep.metrics.expression import ExpressionSums
from raysweep.metrics.identification import IdentificationSums
from raysweep.metrics.leaks import AttributeSums
from raysweep.metrics.uncertainty import MeanSums, Resampling
from raysweep.metrics.verification import PairScores
from raysweep.testing import MetricCase, MetricContract
from raysweep.testing.metric import Columns, check_shards

PEOPLE = 12
ENROLLED = np.arange(PEOPLE).repeat(2).astype(np.int64)


def _who(random: np.random.Generator, n: int) -> np.ndarray:
    """Somebody for each image; everybody at least once where there are enough images."""
    return random.permutation(np.arange(n) % PEOPLE).astype(np.int64)


def _identification(random: np.random.Generator, n: int) -> Columns:
    who = _who(random, n)
    # Coarse scores: ties are part of the game.
    return np.round(random.standard_normal((n, PEOPLE)) + 1.5 * np.eye(PEOPLE)[who], 1), who


def _verification(random: np.random.Generator, n: int) -> Columns:
    who = _who(random, n)
    return np.round(random.standard_normal((n, len(ENROLLED))) + 1.5 * (who[:, None] == ENROLLED[None]), 2), who


def _expression(random: np.random.Generator, n: int) -> Columns:
    tables = [random.dirichlet(np.full(7, 0.3), n).astype(np.float32) for _ in range(2)]
    tables[1][::9] = 0
    return tables[0], tables[1], _who(random, n), random.integers(-1, 7, n)


def _attribute(random: np.random.Generator, n: int) -> Columns:
    truth = random.integers(0, 3, n)
    answers = [np.eye(3)[np.where(random.random(n) < share, truth, random.integers(0, 3, n))] for share in (0.4, 0.8)]
    return truth, answers[0], answers[1], _who(random, n)


def _features(random: np.random.Generator, n: int) -> Columns:
    clear = random.standard_normal((n, 5)).astype(np.float32)
    moved = clear + 0.5 + 0.1 * random.standard_normal((n, 5)).astype(np.float32)
    return random.permutation(10 * n)[:n].astype(np.int64), clear, moved


def _score(random: np.random.Generator, n: int) -> Columns:
    values = random.normal(25, 4, n)
    values[::11] = np.nan
    return values, _who(random, n)


def _found(random: np.random.Generator, n: int) -> Columns:
    return (random.random(n) < 0.9).astype(np.float32), _who(random, n)


CASES = {
    "identification": MetricCase(lambda: IdentificationSums.start(PEOPLE, 5), _identification, high={"bits": 3.6}),
    "verification": MetricCase(
        lambda: PairScores.start(ENROLLED, PEOPLE), _verification, low={"dprime": -10}, high={"dprime": 10}
    ),
    "expression": MetricCase(ExpressionSums.start, _expression, low={"kappa": -1}),
    "attribute": MetricCase(lambda: AttributeSums.start(3), _attribute),
    "features": MetricCase(lambda: FeaturePairs.start(5), _features, low={"kid": -1}, high={"kid": 100, "fid": 1e3}),
    "score": MetricCase(MeanSums.start, _score, high={"mean": 100}),
    "share": MetricCase(lambda: MeanSums.start(share=True), _found),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CASES)), st.integers(1, 90), st.sampled_from([1, 2, 7]), st.integers(0, 2**32 - 1))
def test_shards_agree_on_any_images(name: str, images: int, shards: int, seed: int) -> None:
    """Also for few images, some shards of which are empty, and for classes and people that nobody is of."""
    check_shards(CASES[name], images, shards, seed, Resampling(draws=20))


@pytest.mark.parametrize("name", sorted(CASES))
class TestMetrics(MetricContract):
    @pytest.fixture
    def metric(self, name: str) -> MetricCase:
        return CASES[name]
