from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity

from raysweep.errors import ConfigError, DataError
from raysweep.metrics.identification import IdentificationSums, advantage, rank_bits
from raysweep.metrics.leaks import AttributeSums, balanced_accuracy, hifd_privacy
from raysweep.metrics.uncertainty import Resampling

PLAN = Resampling(draws=200)


def test_rank_bits_equal_scipy_and_lose_their_bias() -> None:
    counts = np.array([50.0, 20, 10, 10, 5, 5])
    plain = entropy(counts / 100, np.full(6, 1 / 6), base=2)
    assert rank_bits(counts, 100) == pytest.approx(plain - 5 / (200 * math.log(2)), abs=1e-12)
    assert rank_bits(np.array([100.0, 0, 0, 0]), 10**12) == pytest.approx(2, abs=1e-9)
    assert rank_bits(np.full(8, 10.0), 80) == 0
    assert math.isnan(rank_bits(np.zeros(3), 0))
    # At random the plug-in estimate is too high, the corrected one around 0.
    rng = np.random.default_rng(0)
    ranks = rng.multinomial(300, np.full(30, 1 / 30), size=200).astype(float)
    plugin = np.array([entropy(row / 300, np.full(30, 1 / 30), base=2) for row in ranks])
    assert plugin.mean() > 0.06
    assert np.mean([rank_bits(row, 300) for row in ranks]) < 0.01


def test_bits_of_scores_share_ties_evenly() -> None:
    everybody = IdentificationSums.start(8, 4).update(np.zeros((400, 8)), np.arange(400) % 8)
    assert everybody.bits().value == 0
    always = IdentificationSums.start(8, 4).update(np.eye(8).repeat(200, axis=0), np.arange(8).repeat(200))
    assert always.bits().value == pytest.approx(3 - 7 / (3200 * math.log(2)), abs=1e-9)
    pairs = np.repeat(np.eye(4).repeat(2, axis=1), 200, axis=0)  # two people always tie
    tied = IdentificationSums.start(8, 4).update(pairs, np.arange(4).repeat(200) * 2)
    assert tied.bits().value == pytest.approx(2 - 7 / (1600 * math.log(2)), abs=1e-9)


def test_advantage_is_the_share_above_chance_that_is_left() -> None:
    def hits(share: float) -> IdentificationSums:
        scores = np.zeros((200, 20))
        who = np.arange(200) % 20
        scores[np.arange(200), np.where(np.arange(200) < share * 200, who, (who + 1) % 20)] = 1
        return IdentificationSums.start(20, 20).update(scores, who)

    found = advantage(hits(0.5).standard(PLAN), hits(1.0).standard(PLAN), 1 / 20)
    assert found.value == pytest.approx((0.5 - 0.05) / 0.95)
    assert len(found.samples) == 200
    assert "not above chance" in advantage(hits(0.5).standard(PLAN), hits(0).standard(PLAN), 1 / 20).reason


def test_part_and_whole_share_their_draws() -> None:
    rng = np.random.default_rng(0)
    sums = IdentificationSums.start(30, 20).update(
        rng.random((300, 30)) + np.eye(30).repeat(10, axis=0), np.arange(30).repeat(10)
    )
    everybody = np.ones(30, dtype=bool)
    assert sums.standard(PLAN, everybody).samples == pytest.approx(sums.standard(PLAN).samples)
    part = np.arange(30) < 12
    halves = [sums.standard(PLAN, side) for side in (part, ~part)]
    assert (halves[0].n, halves[0].n_ids) == (120, 12)
    assert 12 / 30 * halves[0].value + 18 / 30 * halves[1].value == pytest.approx(sums.standard(PLAN).value)
    assert math.isnan(sums.standard(PLAN, np.zeros(30, dtype=bool)).value)


def test_balanced_accuracy_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    answer = np.where(rng.random(300) < 0.6, truth, rng.integers(0, 4, 300))
    confusion = np.zeros((4, 4))
    np.add.at(confusion, (truth, answer), 1)
    assert balanced_accuracy(confusion) == pytest.approx(balanced_accuracy_score(truth, answer))
    assert math.isnan(balanced_accuracy(np.zeros((2, 2))))


def test_attribute_leak_is_relative_to_clear_faces() -> None:
    rng = np.random.default_rng(0)
    truth, who = np.arange(600) % 2, np.arange(600) % 30

    def told(share: float) -> np.ndarray:
        return np.eye(2)[np.where(rng.random(600) < share, truth, 1 - truth)]

    sums = AttributeSums.start(2)
    anonymized, clear = told(0.7), told(0.9)
    found = sums.update(truth, anonymized, clear, who).compute(PLAN)
    expected = [balanced_accuracy_score(truth, side.argmax(axis=1)) for side in (anonymized, clear)]
    assert [found[name].value for name in ("accuracy", "accuracy_clear")] == pytest.approx(expected)
    value = found["leak"].metric(PLAN)
    assert value.value == pytest.approx((expected[0] - 0.5) / (expected[1] - 0.5))
    assert value.lo < value.value < value.hi
    same = sums.update(truth, clear, clear, who).compute(PLAN)["leak"]
    assert same.value == 1
    nobody = sums.update(truth, np.full((600, 2), 0.5), clear, who).compute(PLAN)["leak"]
    assert nobody.value == 0
    blind = sums.update(truth, clear, told(0.5), who).compute(PLAN)["leak"].metric(PLAN)
    assert blind.status == "undefined"
    assert "not above chance" in blind.reason
    with pytest.raises(ConfigError, match="wanted"):
        sums.update(truth, anonymized[:5], clear, who)
    with pytest.raises(ConfigError, match="outside"):
        sums.update(truth + 1, anonymized, clear, who)
    with pytest.raises(ConfigError, match="cannot merge"):
        sums.merge(AttributeSums.start(3))


def test_hifd_privacy() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 50, 8))
    expected = 0.5 * (1 - np.diag(cosine_similarity(left, right)))
    assert hifd_privacy(left, right) == pytest.approx(expected)
    assert hifd_privacy(left, left) == pytest.approx(np.zeros(50), abs=1e-12)
    assert hifd_privacy(left, -left) == pytest.approx(np.ones(50), abs=1e-12)
    assert hifd_privacy(left, np.zeros_like(left)) == pytest.approx(np.full(50, 0.5))
    with pytest.raises(DataError, match="compared"):
        hifd_privacy(left, right[:9])
