"""Every example that `--help` prints is run as printed; the main job must show what the README says of it."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysweep.cli import VERBS
from raysweep.engine.ledger import read_ledger
from raysweep.metrics.front import hypervolume
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.standing import standing

MAIN_JOB = "python -m raysweep tune ganonymization"
LIMIT_S = 600
EXAMPLES = [
    example
    for verb in VERBS
    for example in importlib.import_module(f"raysweep.commands.{verb}").EXAMPLES
    if example != MAIN_JOB
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment with an empty cache and an empty run folder, shared by the examples of this file."""
    folder = tmp_path_factory.mktemp("examples")
    return {**os.environ, "RAYSWEEP_CACHE": str(folder / "cache"), "RAYSWEEP_RUNS": str(folder / "runs")}


def run(example: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = shlex.split(example)
    assert words[0] == "python"
    return subprocess.run([sys.executable, *words[1:]], env=environment, capture_output=True, text=True)


@pytest.mark.timeout(2 * LIMIT_S)
def test_the_main_job(place: dict[str, str]) -> None:
    """Bare: ends in time, at least 16 trained generators, a front of 3 or more with intervals, far above the untrained one."""
    assert f"{MAIN_JOB}\n" in Path(__file__).resolve().parents[2].joinpath("README.md").read_text(encoding="utf-8")
    started = time.monotonic()
    done = run(MAIN_JOB, place)
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout[-4000:])
    print(f"main job: {seconds:.0f} s")
    assert "Synthetic faces: drawn, not photographed" in done.stdout
    assert "\x1b" not in done.stdout
    records = read_ledger(next(Path(place["RAYSWEEP_RUNS"]).glob("ganonymization-*/ledger.jsonl")))
    info = SweepInfo("ganonymization", "", "synthetic", True, "ganonymization", Path())
    state = standing(records, info)
    trained = [
        record for record in state.ranked if record.setting["steps"] and len(set(record.curves["reconstruction"])) > 1
    ]
    assert len(trained) >= 16
    assert len(state.front) >= 3
    for record in state.front:
        for name in ("privacy", "utility"):
            value = record.metrics[name]
            assert value.lo <= value.value <= value.hi
    controls = {record.control: record.metrics for record in state.controls}
    assert (controls["identity"]["privacy"].value, controls["identity"]["utility"].value) == (0.0, 1.0)
    assert (controls["blackout"]["privacy"].value, controls["blackout"]["utility"].value) == (1.0, 0.0)
    untrained = hypervolume([[controls["untrained"]["privacy"].value, controls["untrained"]["utility"].value]])
    print(f"hypervolume {state.hypervolume:.3f}, untrained {untrained:.3f}")
    assert state.hypervolume > untrained + 0.2
    assert seconds < LIMIT_S


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_help(example: str, place: dict[str, str]) -> None:
    if example.startswith("python -m raysweep ui") and not (Path(place["RAYSWEEP_RUNS"]) / "mlflow.db").exists():
        pytest.fail("no sweep of an earlier example has made a store")
    done = run(example, place)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert re.search(r"\S", done.stdout)
