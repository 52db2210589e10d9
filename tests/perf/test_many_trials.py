"""Two thousand trials of some milliseconds: real proposals, ledger and evidence; time and memory of a trial stay what they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysweep.bench.finding import How
from raysweep.bench.many import growth, many


@pytest.mark.slow
@pytest.mark.measure
@pytest.mark.timeout(1200)
def test_the_last_of_two_thousand_trials_costs_what_the_first_did(tmp_path: Path) -> None:
    found = many(How(tmp_path, tell=print))
    for time, memory in zip(found[::2], found[1::2], strict=True):
        print(f"{time.median:.2f} ({time.note}); {memory.median:.3f} MB a trial ({memory.note})")
        # Twice: medians of some seconds each, on cores that others use as well.
        assert time.median < 2.0
        assert memory.median < 0.15


def test_growth_compares_late_trials_with_early_ones() -> None:
    even = [float(number) for number in range(101)]
    assert growth(even) == pytest.approx(1.0)
    assert growth([number**2 / 100 for number in even]) > 5
