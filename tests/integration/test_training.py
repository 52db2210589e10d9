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
from safetensors.torch import load_file, save_file
from torch import distributed, multiprocessing

from raysweep.anonymizers.ganonymization.network import Discriminator, Generator, build
from raysweep.testing.anonymizer import example_faces
from raysweep.training.ganonymization import GeneratorTrainer, Objective
from raysweep.training.pairs import PairExamples, Pairs

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


def first_gradients(rank: int, processes: int, out: str) -> None:
    """One step of generator and discriminator on a batch of four, or on a part of it; the gradients that the optimizers saw."""
    torch.set_num_threads(1)
    if processes > 1:
        distributed.init_process_group("gloo", init_method=f"file://{out}.meet", rank=rank, world_size=processes)
    pairs = Pairs.of(example_faces(24, size=48), 32, "landmarks")
    trainer = GeneratorTrainer(
        build(lambda: Generator(3, 8, 3), torch.Generator().manual_seed(0)),
        build(lambda: Discriminator(6, 4), torch.Generator().manual_seed(1)),
        Objective(),
        None,
        steps=12,
        learning_rate=2e-4,
    )
    share = 4 // processes
    rows = torch.arange(4)[rank * share : (rank + 1) * share]
    trainer.step(PairExamples(pairs, torch.device("cpu")).batch(rows, torch.Generator()))
    found = {
        f"{name}.{key}": parameter.grad.contiguous()
        for name, module in trainer.modules().items()
        for key, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    if rank == 0:
        save_file(found, out)


@pytest.mark.timeout(600)
def test_two_processes_see_the_gradients_of_the_whole_batch(tmp_path: Path) -> None:
    """No dropout and no batch norm in this network: halves of a batch must average to the gradients of the whole, up to rounding."""
    whole, shared = tmp_path / "whole.safetensors", tmp_path / "shared.safetensors"
    first_gradients(0, 1, str(whole))
    multiprocessing.spawn(first_gradients, args=(2, str(shared)), nprocs=2)
    one, two = load_file(whole), load_file(shared)
    assert one.keys() == two.keys()
    assert len(one) > 10
    for part in ("generator", "discriminator"):
        names = [name for name in one if name.startswith(part)]
        largest = max(float(one[name].abs().max()) for name in names)
        assert largest > 0.01
        assert max(float((one[name] - two[name]).abs().max()) for name in names) < 1e-5 * largest


@pytest.mark.timeout(1800)
def test_two_workers_through_ray_train(place: dict[str, str], tmp_path: Path) -> None:
    """The losses are those of one process (weights drift apart by rounding: Adam makes a full step of the smallest gradient)."""
    words = ("steps=12", "learning_rate=0.0002", "batch_size=4")
    assert run(place, tmp_path / "one", *words).returncode == 0
    shared = run(place, tmp_path / "two", *words, "--workers", "2")
    assert shared.returncode == 0, shared.stderr[-3000:]
    assert not (tmp_path / "two" / "ray").exists()
    assert weights(tmp_path / "one").keys() == weights(tmp_path / "two").keys()
    one, two = (json.loads((tmp_path / part / "report.json").read_text()) for part in ("one", "two"))
    assert (one["workers"], two["workers"]) == (1, 2)
    # Rank 0 tells the losses of its own half; a dozen small steps do not lower them surely.
    for place_in_curve in (0, -1):
        expected = one["curve"][place_in_curve]["reconstruction"]
        assert two["curve"][place_in_curve]["reconstruction"] == pytest.approx(expected, rel=0.25)
