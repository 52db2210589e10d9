"""R21 and R22 on a recorded table of 320 settings, in simulated time: the same numbers on any machine.

pytest -s -m measure tests/perf/test_search_ratios.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raysweep.search.simulate import compare, read_table
from raysweep.search.space import load_space

pytestmark = [pytest.mark.slow, pytest.mark.measure]

HERE = Path(__file__).parent


def test_the_default_search_beats_random_search() -> None:
    space = load_space(HERE / "recorded.yaml")
    table = read_table(HERE / "recorded.csv", space)
    assert len(table.scores) == 320
    found = compare(table, space, seeds=10, share=0.3, say=print)
    for name in ("tpe", "tpe + halving"):
        ratios = np.array(found[name]["ratio"])
        draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios))).mean(axis=1)
        assert np.quantile(draws, 0.05) > 1.0, name
        assert np.median(found[name]["budget"]) < 0.6, name
