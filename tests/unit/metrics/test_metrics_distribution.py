from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.metrics.pairwise import polynomial_kernel

from raysweep.errors import DataError
from raysweep.metrics.distribution import FeaturePairs, fid, kid
from raysweep.metrics.uncertainty import Resampling


def _sets(n: int, features: int = 16, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(  # type: ignore[return-value]
        (rng.standard_normal((n, features)) + move).astype(np.float32) for move in (0.0, shift)
    )


def _mmd(left: np.ndarray, right: np.ndarray) -> float:
    """Unbiased squared MMD without the pairs (i, i), from scikit-learn's kernel."""
    n = len(left)
    kernels = [
        polynomial_kernel(a, b, degree=3, gamma=1 / a.shape[1], coef0=1)
        for a, b in ((left, left), (right, right), (left, right))
    ]
    off = [kernel.sum() - np.trace(kernel) for kernel in kernels]
    return float((off[0] + off[1] - 2 * off[2]) / (n * (n - 1)))


@pytest.mark.parametrize(("n", "shift"), [(60, 0.0), (400, 0.4), (90, 1.0)])
def test_kid_is_the_mean_over_subsets(n: int, shift: float) -> None:
    left, right = _sets(n, shift=shift)
    generator = np.random.default_rng([5, n])
    each = []
    for _ in range(100):
        chosen = generator.choice(n, min(1000, n // 2), replace=False)
        each.append(_mmd(left[chosen].astype(float), right[chosen].astype(float)))
    value, spread = kid(left, right, seed=5)
    assert value == pytest.approx(np.mean(each), abs=1e-5)
    assert spread == pytest.approx(np.std(each, ddof=1), abs=1e-5)


def test_kid_of_the_same_images_is_zero_and_of_one_distribution_around_zero() -> None:
    left, right = _sets(300)
    assert kid(left, left)[0] == pytest.approx(0, abs=1e-12)
    values = [kid(*_sets(300, seed=seed))[0] for seed in range(12)]
    assert abs(np.mean(values)) < 2.5 * np.std(values) / math.sqrt(12) + 1e-3
    assert kid(left, right + 0.5)[0] > 10 * abs(kid(left, right)[0])
    assert kid(left, right, seed=1) == kid(left, right, seed=1)


def test_fid_equals_the_square_root_of_matrices() -> None:
    left, right = _sets(2048, shift=0.3)
    right = right * 1.2
    first, second = (np.cov(side.astype(float), rowvar=False) for side in (left, right))
    between = left.astype(float).mean(axis=0) - right.astype(float).mean(axis=0)
    expected = between @ between + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert fid(left, right) == pytest.approx(expected, rel=1e-6)
    assert fid(left, left) == pytest.approx(0, abs=1e-6)


def test_too_few_images_are_undefined_and_say_what_to_use() -> None:
    left, right = _sets(40)
    found = FeaturePairs.start(16).update(np.arange(40), left, right).compute(Resampling())
    assert found["kid"].metric(Resampling()).reason == "40 images; KID needs 50"
    assert found["fid"].metric(Resampling()).reason == "40 images; FID needs 2048: use KID"
    assert found["fid"].metric(Resampling()).status == "undefined"
    enough = FeaturePairs.start(16).update(np.arange(60), *_sets(60)).compute(Resampling())["kid"].metric(Resampling())
    assert enough.ok
    assert "spread over subsets" in enough.reason
    assert math.isnan(enough.lo)


def test_bad_features_are_refused() -> None:
    left, right = _sets(60)
    with pytest.raises(DataError, match="shapes"):
        kid(left, right[:50])
    with pytest.raises(DataError, match="finite"):
        FeaturePairs.start(16).update(np.arange(60), left, np.where(left > 2, np.nan, left))
    with pytest.raises(DataError, match="cannot merge"):
        FeaturePairs.start(16).merge(FeaturePairs.start(8))
