from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.metrics import roc_auc_score, roc_curve

from raysweep.errors import ConfigError
from raysweep.metrics import verification
from raysweep.metrics.uncertainty import Resampling
from raysweep.metrics.verification import (
    PairHistogram,
    PairScores,
    auc,
    dprime,
    eer,
    false_match_rate,
    linkability,
    roc,
    rule_of_3,
    tar_at_far,
    threshold_at_far,
    true_accept_rate,
)


@pytest.mark.parametrize(
    ("spread", "area", "error", "tar"), [(1, 0.760, 0.309, 0.018), (2, 0.921, 0.159, 0.138), (3, 0.983, 0.067, 0.464)]
)
def test_gaussian_golden(spread: float, area: float, error: float, tar: float) -> None:
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(spread, 1, 200_000), rng.normal(0, 1, 1_000_000)
    assert dprime(genuine, impostor) == pytest.approx(spread, abs=0.01)
    assert auc(genuine, impostor) == pytest.approx(area, abs=0.002)
    assert eer(genuine, impostor) == pytest.approx(error, abs=0.002)
    assert tar_at_far(genuine, impostor, 1e-3) == pytest.approx(tar, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 80), st.integers(0, 10_000), st.booleans())
def test_scikit_learn_agrees(n: int, m: int, seed: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    genuine, impostor = rng.normal(0.7, 1, n), rng.normal(0, 1, m)
    if coarse:
        genuine, impostor = np.round(genuine), np.round(impostor)
    truth, scores = np.repeat([1, 0], [n, m]), np.concatenate([genuine, impostor])
    assert auc(genuine, impostor) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    fmr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    gap = fmr - (1 - tpr)
    after = int(np.argmax(gap >= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    assert eer(genuine, impostor) == pytest.approx(fmr[after - 1] + share * (fmr[after] - fmr[after - 1]), abs=1e-12)
    for far in (0.05, 0.1, 0.5):
        threshold = threshold_at_far(impostor, far)
        assert false_match_rate(impostor, threshold) <= far
        assert true_accept_rate(genuine, threshold) == pytest.approx(tpr[fmr <= far + 1e-12].max(), abs=1e-12)


def test_equal_scores_are_chance() -> None:
    same = np.full(50, 0.3)
    assert auc(same, same) == 0.5
    assert eer(same, same) == 0.5
    assert math.isnan(dprime(same, same))
    assert true_accept_rate(same, threshold_at_far(same, 0.5)) == 0


def test_rule_of_30_and_empty() -> None:
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(3, 1, 100), rng.normal(0, 1, 2999)
    assert math.isnan(tar_at_far(genuine, impostor, 1e-2))
    assert tar_at_far(genuine, rng.normal(0, 1, 3000), 1e-2) > 0
    assert all(math.isnan(f(genuine[:0], impostor)) for f in (auc, eer, dprime))


def test_deployed_threshold_on_blurred_impostors_lets_everybody_in() -> None:
    rng = np.random.default_rng(0)
    clear, blurred = rng.normal(0, 0.1, 5000), rng.normal(0.9, 0.02, 5000)
    threshold = threshold_at_far(clear, 1e-2)
    assert false_match_rate(clear, threshold) == pytest.approx(0.01, abs=1e-3)
    assert false_match_rate(blurred, threshold) == 1


def _pairs(people: int = 20, images: int = 4, noise: float = 1.0, seed: int = 0) -> PairScores:
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((people, 8))
    who = np.arange(people).repeat(images)
    sides = [centre[who] + noise * rng.standard_normal((len(who), 8)) for _ in range(2)]
    probe, enrol = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return PairScores(probe @ enrol.T, who, who, people)


def test_pairs_and_their_intervals() -> None:
    pairs = _pairs()
    assert len(pairs.genuine) == 20 * 16
    assert len(pairs.impostor) == 80 * 80 - 320
    plan = Resampling(draws=400)
    found = pairs.compute(plan)
    assert found.pop("dprime").value == dprime(pairs.genuine, pairs.impostor)
    for name, estimate in found.items():
        value = estimate.metric(plan)
        assert value.lo < value.value < value.hi, name
        assert value.n_ids == 20
    assert pairs.compute(plan)["auc"].value == auc(pairs.genuine, pairs.impostor)


def test_interval_equals_slow_resampling_of_people() -> None:
    """Oracle: draw people, list their pairs one by one, drop pairs of two copies of the same person from the impostors."""
    pairs = _pairs(people=12, images=2, noise=1.5)
    plan = Resampling(draws=150, seed=4)
    estimate = pairs.compute(plan)["auc"]
    counts = verification.resample(12, 150, 4).astype(int)
    slow = []
    for weights in counts[:30]:
        drawn = np.repeat(np.arange(12), weights)
        genuine = [pairs.scores[np.ix_(pairs.probe == i, pairs.enrol == i)].ravel() for i in drawn]
        impostor = [
            pairs.scores[np.ix_(pairs.probe == i, pairs.enrol == j)].ravel() for i in drawn for j in drawn if i != j
        ]
        slow.append(auc(np.concatenate(genuine), np.concatenate(impostor)))
    assert estimate.samples[:30] == pytest.approx(slow, abs=0.01)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_histogram_shards_agree(shards: int) -> None:
    pairs = _pairs()
    edges = np.linspace(-1, 1, 33)
    whole = PairHistogram.start(edges, 20).update(pairs.scores, pairs.probe, pairs.enrol)
    merged = PairHistogram.start(edges, 20)
    for rows in np.array_split(np.random.default_rng(0).permutation(80), shards):
        merged = PairHistogram.start(edges, 20).update(pairs.scores[rows], pairs.probe[rows], pairs.enrol).merge(merged)
    assert np.array_equal(merged.genuine, whole.genuine)
    assert np.array_equal(merged.impostor, whole.impostor)
    assert whole.genuine.sum() + whole.impostor.sum() == pairs.scores.size
    with pytest.raises(ConfigError, match="edges"):
        whole.merge(PairHistogram.start(edges[1:], 20))


def test_many_impostors_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    full = _pairs()
    monkeypatch.setattr(verification, "MAX_IMPOSTORS", 1900)
    sampled = _pairs()
    assert len(sampled.impostor) == 1900
    assert np.array_equal(sampled.impostor, _pairs().impostor)
    assert sampled.auc() == pytest.approx(full.auc(), abs=0.03)


def test_one_person_or_no_repeats() -> None:
    alone = PairScores(np.ones((2, 3)), np.zeros(2, int), np.zeros(3, int), 1)
    assert alone.reason == "fewer than two identities"
    strangers = PairScores(np.ones((2, 3)), np.zeros(2, int), np.ones(3, int), 2)
    assert strangers.compute(Resampling())["auc"].metric(Resampling()).reason == "identities without repeats"


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0, 3.0])
def test_linkability_equals_its_integral(spread: float) -> None:
    """Oracle: the integral for two Gaussians, by quadrature."""

    def local(score: float) -> float:
        genuine, impostor = stats.norm.pdf(score, spread), stats.norm.pdf(score)
        return float(genuine * max(0.0, 2 * genuine / (genuine + impostor) - 1))

    expected = integrate.quad(local, -8, 12, points=[spread / 2])[0]
    rng = np.random.default_rng(0)
    found = linkability(rng.normal(spread, 1, 50_000), rng.normal(0, 1, 500_000))
    assert found == pytest.approx(expected, abs=0.012)


def test_linkability_at_the_ends() -> None:
    same = np.full(50, 0.3)
    assert linkability(same, same[:20]) == 0
    assert linkability(np.full(500, 1.0), np.zeros(5000)) > 0.98
    # A density ratio does not care which side scores higher.
    assert linkability(np.zeros(500), np.full(5000, 1.0)) > 0.98
    assert math.isnan(linkability(same[:0], same))


def test_roc_points_lie_on_the_curve_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    genuine, impostor = np.round(rng.normal(1.5, 1, 400), 2), np.round(rng.normal(0, 1, 20_000), 2)
    fmr, fnmr = roc(genuine, impostor)
    assert 60 < len(fmr) <= 200
    assert (np.diff(fmr) > 0).all()
    assert (np.diff(fnmr) <= 0).all()
    assert (fmr[0], fnmr[0], fmr[-1], fnmr[-1]) == (0, 1, 1, 0)
    assert (fmr[(fmr > 0) & (fmr < 1e-3)]).size > 5
    truth = np.repeat([1, 0], [400, 20_000])
    known = {
        (round(x, 9), round(1 - y, 9))
        for x, y in zip(
            *roc_curve(truth, np.concatenate([genuine, impostor]), drop_intermediate=False)[:2], strict=True
        )
    }
    assert {(round(x, 9), round(y, 9)) for x, y in zip(fmr.tolist(), fnmr.tolist(), strict=True)} <= known
    assert len(roc(genuine[:0], impostor)[0]) == 0
    assert roc(np.ones(5), np.ones(5))[0].tolist() == [0, 1]


def test_rule_of_3() -> None:
    assert rule_of_3(300) == 0.01
    assert rule_of_3(2) == 1
    assert math.isnan(rule_of_3(0))
    # Exact bound: the rate at which no error in N has a chance of 5 %.
    assert rule_of_3(1000) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=4e-3)


def test_all_or_no_pairs_accepted_have_an_interval_over_people() -> None:
    pairs = _pairs(people=20, noise=0.01)
    value = pairs.accepted(0.5, Resampling()).metric(Resampling())
    assert (value.value, value.hi) == (1, 1)
    assert value.lo == pytest.approx(1 - 0.1611, abs=1e-3)
    assert (value.n, value.n_ids) == (20 * 16, 20)
    nobody = pairs.accepted(2.0, Resampling()).metric(Resampling())
    assert (nobody.value, nobody.lo) == (0, 0)
    assert nobody.hi == pytest.approx(0.1611, abs=1e-3)


def test_every_pair_of_people_is_sampled_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that name their pair of people: each pair keeps its share to within one, whatever the sizes."""
    rng = np.random.default_rng(0)
    probe, enrol = (np.concatenate([np.arange(6), rng.integers(0, 6, 300)]) for _ in range(2))
    names = (probe[:, None] * 6 + enrol[None, :]).astype(np.float32)
    monkeypatch.setattr(verification, "MAX_IMPOSTORS", 9000)
    sampled = PairScores(names, probe, enrol, 6).impostor
    whole = names[probe[:, None] != enrol[None, :]]
    kept, total = (np.unique(side, return_counts=True)[1] for side in (sampled, whole))
    assert len(kept) == 30
    assert kept == pytest.approx(total * 9000 / len(whole), abs=1.01)
    shuffled = rng.permutation(306)
    again = PairScores(names[shuffled], probe[shuffled], enrol, 6).impostor
    assert np.array_equal(again, sampled)
