"""Training from the command line: killed and resumed, and shared by two processes through Ray Train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

DATA = [
    "--data",
    "synthetic:identities=20,images_per_identity=7",
    "roles.G=0.5",
    "roles.T=0.08",
    "roles.S=0.14",
    "roles.E=0.28",
]
SMALL = ["ganonymization", "size=32", "width=8", "depth=3", "discriminator_width=4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("train")
    return {**os.environ, "RAYSWEEP_CACHE": str(folder / "cache"), "RAYSWEEP_RUNS": str(folder / "runs")}


def command(out: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "raysweep", "train", *SMALL, *DATA, "--out", str(out), *words]


def run(place: dict[str, str], out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *words), env=place, capture_output=True, text=True)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "ganonymization-trained.safetensors")


@pytest.mark.timeout(1800)
def test_a_training_that_is_killed_ends_in_the_same_bytes(place: dict[str, str], tmp_path: Path) -> None:
    words = ("steps=200", "batch_size=4", "checkpoint_every=20")
    whole = run(place, tmp_path / "whole", *words)
    assert whole.returncode == 0, whole.stderr[-2000:]
    assert "reconstruction" in whole.stdout
    killed = subprocess.Popen(command(tmp_path / "cut", *words), env=place, stdout=subprocess.DEVNULL)
    saves = tmp_path / "cut" / "checkpoints"
    while killed.poll() is None and not list(saves.glob("step-*.save")):
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "cut" / "report.json").exists(), "it ended before it could be killed"
    refused = run(place, tmp_path / "cut", *words)
    assert refused.returncode == 2
    assert "holds an unfinished training; add --resume" in refused.stderr
    other = run(place, tmp_path / "cut", *words, "reconstruction=50", "--resume")
    assert other.returncode == 2
    assert "belongs to another training" in other.stderr
    resumed = run(place, tmp_path / "cut", *words, "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "resumed at step" in resumed.stdout
    name = "ganonymization-trained.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    curves = [json.loads((tmp_path / part / "report.json").read_text())["curve"] for part in ("whole", "cut")]
    assert curves[0] == curves[1]


@pytest.mark.timeout(1800)
def test_two_workers_share_a_batch_and_average_their_gradients(place: dict[str, str], tmp_path: Path) -> None:
    """The network has neither dropout nor batch norm: two halves of a batch must give the step of the whole batch, up to rounding."""
    words = ("steps=12", "learning_rate=0.0002")
    assert run(place, tmp_path / "one", *words, "batch_size=4").returncode == 0
    shared = run(place, tmp_path / "two", *words, "batch_size=4", "--workers", "2")
    assert shared.returncode == 0, shared.stderr[-3000:]
    assert not (tmp_path / "two" / "ray").exists()
    other = run(place, tmp_path / "other", *words, "batch_size=2")
    assert other.returncode == 0
    one, two, half = weights(tmp_path / "one"), weights(tmp_path / "two"), weights(tmp_path / "other")

    def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
        return sum(float((first[name] - second[name]).abs().sum()) for name in first)

    assert distance(one, two) < 0.2 * distance(one, half)
    reports = [json.loads((tmp_path / part / "report.json").read_text()) for part in ("one", "two")]
    last = [report["curve"][0]["reconstruction"] for report in reports]
    assert last[0] == pytest.approx(last[1], rel=0.2)
    assert reports[1]["workers"] == 2
