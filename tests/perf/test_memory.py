"""R19: peak memory at ten times the data over that at once the data, when a data set streams.

    RAYSWEEP_MEMORY_FACES=5000 pytest -m slow -s tests/perf/test_memory.py

draws that many faces and ten times as many; without the variable 300 and 3,000. `raysweep bench --only R19 --faces 5000` prints the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raysweep.bench.memory import COMMANDS, peaks

pytestmark = [pytest.mark.slow, pytest.mark.measure, pytest.mark.timeout(7200)]

FACES = int(os.environ.get("RAYSWEEP_MEMORY_FACES", "300"))
ENGINE = os.environ.get("RAYSWEEP_MEMORY_ENGINE", "local")
LIMIT = 1.10


@pytest.mark.parametrize("verb", COMMANDS)
def test_ten_times_the_data_takes_no_more_memory(verb: str, tmp_path: Path) -> None:
    small, large = peaks(verb, FACES, tmp_path, ENGINE)
    ratio = large / small
    print(f"{verb}, {ENGINE}: {small / 1e6:.0f} MB at {FACES} faces, {large / 1e6:.0f} MB at {10 * FACES}: {ratio:.3f}")
    assert ratio <= LIMIT
