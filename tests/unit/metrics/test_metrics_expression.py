from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, f1_score

from raysweep.metrics.expression import (
    ExpressionSums,
    calibration_error,
    decisions,
    exp_kl,
    js_similarity,
    kl,
    legacy_consistency,
    null_corrected,
    tv_similarity,
)
from raysweep.metrics.uncertainty import Resampling

PLAN = Resampling(draws=200)
P = np.array([[0.7, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02]])
UNIFORM = np.full((1, 7), 1 / 7)
ONE, OTHER = np.eye(7)[[0]], np.eye(7)[[3]]


@pytest.mark.parametrize(
    ("p", "q", "divergence", "exponential", "js", "tv"),
    [
        (P, UNIFORM, 0.8332, 0.4347, 0.7355, 0.4429),
        (ONE, OTHER, 13.8155, 0, 0, 0),
        (ONE, UNIFORM, 1.9459, 0.1429, 0.3106, 0.1429),
    ],
)
def test_golden_divergences(
    p: np.ndarray, q: np.ndarray, divergence: float, exponential: float, js: float, tv: float
) -> None:
    assert kl(p, q)[0] == pytest.approx(divergence, abs=1e-4)
    assert exp_kl(p, q)[0] == pytest.approx(exponential, abs=1e-4)
    assert js_similarity(p, q)[0] == pytest.approx(js, abs=1e-4)
    assert tv_similarity(p, q)[0] == pytest.approx(tv, abs=1e-4)


def test_scipy_agrees_and_same_is_exactly_one() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(7), 50), rng.dirichlet(np.ones(7), 50)
    assert kl(p, q) == pytest.approx(entropy(p, q, axis=1), abs=1e-3)
    assert js_similarity(p, q) == pytest.approx(1 - jensenshannon(p, q, base=2, axis=1) ** 2, abs=1e-9)
    for score in (exp_kl, js_similarity, tv_similarity):
        assert (score(p, p) == 1).all()
    assert legacy_consistency(p, p) == 1


def _sums(y: str, z: str, label: str | None = None, classes: int = 3) -> ExpressionSums:
    """Classes as digits, `-` for no answer (or no label); one identity per image."""
    table = np.vstack([np.eye(classes), np.full(classes, 1 / classes)])
    read = lambda text: np.array([classes if c == "-" else int(c) for c in text])  # noqa: E731
    labels = None if label is None else np.where(read(label) == classes, -1, read(label))
    return ExpressionSums.start(classes).update(table[read(y)], table[read(z)], np.arange(len(y)), labels)


def test_golden_utility() -> None:
    constant = _sums("0000001112", "0000000000").compute(PLAN, support=1)
    assert constant["match"].value == pytest.approx(0.6)
    assert constant["kappa"].value == 0
    assert constant["utility"].value == 0
    some = _sums("0000001112", "0000121102").compute(PLAN, support=1)
    assert some["match"].value == pytest.approx(0.7)
    assert some["kappa"].value == pytest.approx(0.4915, abs=5e-5)
    assert some["recall"].value == pytest.approx(0.7778, abs=5e-5)
    assert some["utility"].value == pytest.approx(0.6667, abs=5e-5)


def test_rare_classes_do_not_count() -> None:
    found = _sums("0000011111222", "0000011111000").compute(PLAN)
    assert found["utility"].value == 1
    assert "fewer than 5 images left out: fear" in found["utility"].reason.replace("disgust, ", "")
    only = _sums("0000011", "0000011").compute(PLAN)["utility"].metric(PLAN)
    assert only.status == "undefined"
    assert "fewer than two expression classes" in only.reason


def test_no_answer_counts_as_lost() -> None:
    y, p = decisions(np.array([[0.2, 0.5, 0.3], [0, 0, 0], [1 / 3, 1 / 3, 1 / 3]]))
    assert y.tolist() == [1, 3, 3]
    assert p[1:] == pytest.approx(np.full((2, 3), 1 / 3))
    found = _sums("0000011111", "00-0011-11").compute(PLAN)
    assert found["match"].value == pytest.approx(0.8)
    assert found["utility"].value == pytest.approx(0.6)


def test_scikit_learn_agrees() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 7, 400)
    y, z = (np.where(rng.random(400) < share, label, rng.integers(0, 7, 400)) for share in (0.8, 0.5))
    found = ExpressionSums.start(7).update(np.eye(7)[y], np.eye(7)[z], rng.integers(0, 30, 400), label).compute(PLAN)
    assert found["kappa"].value == pytest.approx(cohen_kappa_score(y, z))
    assert found["accuracy"].value == pytest.approx((label == z).mean())
    assert found["accuracy_clear"].value == pytest.approx((label == y).mean())
    assert found["uar"].value == pytest.approx(balanced_accuracy_score(label, z))
    assert found["uar_clear"].value == pytest.approx(balanced_accuracy_score(label, y))
    assert found["f1"].value == pytest.approx(f1_score(label, z, average="macro"))
    assert found["f1_clear"].value == pytest.approx(f1_score(label, y, average="macro"))
    expected = (found["uar"].value - 1 / 7) / (found["uar_clear"].value - 1 / 7)
    assert found["retention"].value == pytest.approx(expected)
    for name, estimate in found.items():
        value = estimate.metric(PLAN)
        assert value.lo <= value.value <= value.hi, name


def test_calibration_error_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(7, 0.4), 600)
    label = np.where(rng.random(600) < 0.6, shares.argmax(axis=1), rng.integers(0, 7, 600))
    right, sure = label == shares.argmax(axis=1), shares.max(axis=1)
    share_right, confidence = calibration_curve(right, sure, n_bins=15, strategy="uniform")
    weight = np.histogram(sure, bins=15, range=(0, 1))[0]
    expected = (np.abs(share_right - confidence) * weight[weight > 0]).sum() / 600
    assert calibration_error(shares, label) == pytest.approx(expected, abs=1e-12)
    hidden = np.concatenate([shares, np.full((5, 7), 1 / 7), shares[:3]])
    assert calibration_error(hidden, np.concatenate([label, np.zeros(5, int), [-1, -1, -1]])) == pytest.approx(expected)
    assert calibration_error(np.eye(7), np.arange(7)) == 0
    assert calibration_error(np.eye(7), (np.arange(7) + 1) % 7) == 1
    assert math.isnan(calibration_error(shares, np.full(600, -1)))


def test_constant_output_on_the_class_mix_of_fer2013() -> None:
    counts = [491, 55, 528, 879, 594, 416, 626]
    label = np.repeat(np.arange(7), counts)
    same = np.eye(7)[np.full(len(label), 3)]
    found = ExpressionSums.start(7).update(np.eye(7)[label], same, np.arange(len(label)), label).compute(PLAN)
    assert found["accuracy"].value == pytest.approx(0.245, abs=5e-4)
    assert found["uar"].value == pytest.approx(1 / 7)
    assert found["utility"].value == 0
    assert found["retention"].value == pytest.approx(0, abs=1e-12)


def test_identity_is_one_and_permutation_is_near_zero() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(7, 0.2), 2000)
    who = rng.integers(0, 40, 2000)
    same = ExpressionSums.start(7).update(p, p, who).compute(PLAN)
    assert [same[name].value for name in ("utility", "match", "js", "tv", "kl_exp", "kappa", "legacy")] == [1.0] * 7
    assert same["utility"].metric(PLAN).lo == pytest.approx((1 - 0.0876 - 1 / 7) / (1 - 1 / 7), abs=1e-3)
    mixed = ExpressionSums.start(7).update(p, p[rng.permutation(2000)], who).compute(PLAN)
    assert mixed["utility"].value < 0.03


def test_null_correction_takes_the_credit_for_the_usual_mixture() -> None:
    rng = np.random.default_rng(0)
    p = 0.9 * np.full((500, 7), 1 / 7) + 0.1 * rng.dirichlet(np.ones(7), 500)
    mixture = np.tile(p.mean(axis=0), (500, 1))
    assert js_similarity(p, mixture).mean() > 0.99
    assert null_corrected(js_similarity, p, mixture, np.random.default_rng(1)) == pytest.approx(0, abs=1e-9)
    assert null_corrected(js_similarity, p, p, np.random.default_rng(1)) == 1
    constant = np.full((5, 7), 1 / 7)
    assert math.isnan(null_corrected(js_similarity, constant, constant, np.random.default_rng(1)))


def test_no_labels_and_no_skill_are_undefined_with_a_reason() -> None:
    assert _sums("0000011111", "0000011111").compute(PLAN)["accuracy"].metric(PLAN).reason == "no expression labels"
    guessing = _sums("0101010101" * 3, "0101010101" * 3, "0000011111" * 3).compute(PLAN)["retention"].metric(PLAN)
    assert guessing.status == "undefined"
    assert "not above chance" in guessing.reason
    blind = _sums("-" * 10, "0" * 10).compute(PLAN)
    assert blind["match"].metric(PLAN).status == blind["utility"].metric(PLAN).status == "undefined"
    nothing = ExpressionSums.start(7).compute(PLAN)
    assert {value.metric(PLAN).status for value in nothing.values()} == {"undefined"}


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_agree(shards: int) -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(7), 200), rng.dirichlet(np.ones(7), 200)
    who, label = rng.integers(0, 20, 200), rng.integers(-1, 7, 200)
    whole = ExpressionSums.start(7).update(p, q, who, label).compute(PLAN)
    merged = ExpressionSums.start(7)
    for rows in np.array_split(rng.permutation(200), shards):
        merged = ExpressionSums.start(7).update(p[rows], q[rows], who[rows], label[rows]).merge(merged)
    for name, estimate in merged.compute(PLAN).items():
        assert estimate.value == pytest.approx(whole[name].value, abs=1e-12, nan_ok=True), name
        assert estimate.samples == pytest.approx(whole[name].samples, abs=1e-9, nan_ok=True), name
