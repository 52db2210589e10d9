"""The contract of a metric as a test class: partial sums that give the same answer however the images were dealt out.

from raysweep.testing.metric import MetricCase, MetricContract

class TestMyMetric(MetricContract):
    @pytest.fixture
    def metric(self):
        return MetricCase(start=MySums.start, example=lambda random, n: (random.random(n), random.integers(0, 12, n)))

A metric has `update(*columns)` and `merge(other)`, which return new sums, and `compute(plan)`, which names its estimates.
"""

# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest

from raysweep.metrics.uncertainty import Estimate, Resampling

__all__ = ["MetricCase", "MetricContract", "PartialSums", "check_shards", "dealt"]

Columns = tuple[npt.NDArray[Any], ...]
TOLERANCE = 1e-6


class PartialSums(Protocol):
    """What is known after some images."""

    def update(self, *columns: Any) -> Any:
        """Count further images."""
        ...

    def merge(self, other: Any) -> Any:
        """The sums of both."""
        ...

    def compute(self, plan: Resampling) -> Mapping[str, Estimate]:
        """Numbers by name, undefined ones with their reason."""
        ...


@dataclass(frozen=True)
class MetricCase:
    """A metric under test.

    Attributes:
        start: the sums of no images.
        example: (random generator, n) -> columns of n images, the first axis of each being the image.
        low, high: bounds of the values that have other ones than 0 and 1, by name.
    """

    start: Callable[[], PartialSums]
    example: Callable[[np.random.Generator, int], Columns]
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)


def dealt(case: MetricCase, columns: Columns, parts: Sequence[npt.NDArray[np.int64]]) -> PartialSums:
    """Count each part of the images alone, then merge the parts, the last one first."""
    merged = case.start()
    for rows in reversed(parts):
        merged = case.start().update(*(column[rows] for column in columns)).merge(merged)
    return merged


def check_shards(case: MetricCase, images: int, shards: int, seed: int, plan: Resampling) -> None:
    """Fail unless any division of the images into shards gives the same values and the same draws, to 1e-6."""
    random = np.random.default_rng(seed)
    columns = case.example(random, images)
    whole = case.start().update(*columns).compute(plan)
    parts = np.array_split(random.permutation(images).astype(np.int64), shards)
    found = dealt(case, columns, parts).compute(plan)
    assert found.keys() == whole.keys()
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(whole[name].value, abs=TOLERANCE, nan_ok=True), name
        assert estimate.samples == pytest.approx(whole[name].samples, abs=TOLERANCE, nan_ok=True), name
        assert (estimate.n, estimate.n_ids) == (whole[name].n, whole[name].n_ids), name


class MetricContract:
    """What every metric promises. Override `metric`."""

    images = 60
    plan = Resampling(draws=50)

    @pytest.fixture
    def metric(self) -> MetricCase:
        """The metric under test."""
        raise NotImplementedError("override the fixture metric")

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("shards", [1, 2, 7])
    def test_any_number_of_shards_in_any_order_agrees(self, metric: MetricCase, shards: int, seed: int) -> None:
        """1, 2 and 7 shards, to 1e-6, values and draws."""
        check_shards(metric, self.images, shards, seed, self.plan)

    def test_merging_nothing_changes_nothing(self, metric: MetricCase) -> None:
        """From the left and from the right."""
        sums = metric.start().update(*metric.example(np.random.default_rng(0), self.images))
        for merged in (sums.merge(metric.start()), metric.start().merge(sums)):
            for name, estimate in merged.compute(self.plan).items():
                assert estimate.value == pytest.approx(sums.compute(self.plan)[name].value, abs=TOLERANCE, nan_ok=True)

    def test_nothing_is_undefined_with_a_reason(self, metric: MetricCase) -> None:
        """No image gives NaN and says why; never 0, which would read as perfect privacy."""
        for name, estimate in metric.start().compute(self.plan).items():
            value = estimate.metric(self.plan)
            assert value.status == "undefined", name
            assert math.isnan(value.value), name
            assert value.reason, name

    def test_the_same_images_give_the_same_numbers_and_stay_as_they_are(self, metric: MetricCase) -> None:
        """Deterministic; neither columns nor earlier sums are changed by counting on."""
        columns = metric.example(np.random.default_rng(3), self.images)
        before = [column.copy() for column in columns]
        sums = metric.start().update(*columns)
        first = {name: estimate.value for name, estimate in sums.compute(self.plan).items()}
        sums.merge(metric.start().update(*metric.example(np.random.default_rng(4), self.images)))
        again = {name: estimate.value for name, estimate in sums.compute(self.plan).items()}
        assert again == pytest.approx(first, abs=0, nan_ok=True)
        for old, new in zip(before, columns, strict=True):
            np.testing.assert_array_equal(new, old)

    @pytest.mark.parametrize("seed", range(3))
    def test_values_lie_in_their_bounds_and_intervals_around_them(self, metric: MetricCase, seed: int) -> None:
        """Every defined value within `low` and `high`, its interval around it."""
        sums = metric.start().update(*metric.example(np.random.default_rng(seed), self.images))
        for name, estimate in sums.compute(self.plan).items():
            value = estimate.metric(self.plan)
            if not value.ok:
                assert value.reason, name
                continue
            low, high = metric.low.get(name, 0.0), metric.high.get(name, 1.0)
            assert low - 1e-9 <= value.value <= high + 1e-9, name
            if math.isnan(value.lo):
                assert value.reason, name
            else:
                assert value.lo - 1e-9 <= value.hi, name
            assert value.n > 0, name
