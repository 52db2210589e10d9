"""`raysweep bench` end to end, at its smallest: every measurement yields its ratios. What they are worth is printed, not asserted: tests share their cores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from raysweep.bench.finding import How
from raysweep.bench.goals import BENCHES
from raysweep.bench.run import run_benches
from raysweep.bench.stubs import Kernel, StubWorker
from raysweep.bench.sweeps import NoTracker, Run, stub_sweep
from raysweep.cli import main

QUICK = ("R13", "R18", "R25")
"""Those that take seconds."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.measure)
        for name, bench in BENCHES.items()
        if not bench.gpu and not bench.asked
    ],
)
def test_every_measurement_yields_its_ratios(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code = main(["bench", "--only", name, "--quick", "--json", str(tmp_path / "found.json")])
    shown = capsys.readouterr().out
    print(shown)
    content = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    found = {finding["ratio"]: finding for finding in content["findings"]}
    assert set(found) == set(BENCHES[name].goals)
    measured = [finding for finding in found.values() if finding["missing"] != "left out by --quick"]
    assert measured
    for finding in measured:
        assert not finding["missing"], finding
        assert finding["values"]
        assert all(math.isfinite(value) and value >= 0 for value in finding["values"])
        assert finding["ratio"] in shown
    assert code == (1 if any(finding["verdict"] == "fails" for finding in found.values()) else 0)


def test_wrong_names_are_told_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--only", "R4,R77"]) == 2
    assert "--only R77" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_sweep_starts_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command again serves what is recorded; with more to do, or with damage, workers start again."""
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    started: list[int] = []
    real = StubWorker.__init__

    def counted(self: StubWorker, *given: Any, **named: Any) -> None:
        started.append(1)
        real(self, *given, **named)

    monkeypatch.setattr(StubWorker, "__init__", counted)

    def sweep(trials: int) -> Run:
        return stub_sweep(tmp_path / "runs", trials, Kernel(), sink_of=NoTracker)

    first, again = sweep(3), sweep(3)
    assert len(started) == 1
    assert again.result.records == first.result.records
    assert len(first.result.records) == 6  # three controls
    more = sweep(4)
    assert len(started) == 2
    assert more.result.records[:6] == first.result.records
    common = next((tmp_path / "runs").glob("*/scores/common.npz"))
    common.write_bytes(b"damaged")
    assert sweep(4).result.records == more.result.records
    assert len(started) == 3


@pytest.mark.slow
def test_rates_of_classical_methods_need_no_gpu_to_be_right(tmp_path: Path) -> None:
    """The ratio is asked for on a GPU only; what it is made of works anywhere."""
    import torch

    from raysweep.bench.classical import rates
    from raysweep.bench.drawn import drawn_faces, own_cache

    with own_cache(tmp_path):
        found = rates(drawn_faces(24, 7), torch.device("cpu"), 0.2)
    assert set(found) == {"embed", "blur", "pixelate"}
    assert all(rate > 1 for rate in found.values())


def test_what_needs_a_gpu_says_so_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = run_benches([name for name, bench in BENCHES.items() if bench.gpu], How(tmp_path))
    names = ["R3", "R14 GPU", "R14 CPU", "R16", "R15", "R17 blur", "R17 pixelate"]
    assert [finding.goal for finding in found] == names
    assert {(finding.verdict, finding.missing) for finding in found} == {("not measured", "no GPU")}


@pytest.mark.slow
def test_rates_of_preparation_need_no_gpu_to_be_right(tmp_path: Path) -> None:
    """Drawn faces bring their points: both decoders then make the same crops, but for their own rounding."""
    import numpy as np
    import torch

    from raysweep.bench import preprocessing
    from raysweep.preprocess.rows import Recipe, crop_rows

    device = torch.device("cpu")
    chosen = preprocessing.photographs(How(tmp_path), device)
    found = preprocessing.rates(chosen, device, 0.2)
    assert set(found) == {"embed", "cpu", "device"}
    assert all(rate > 1 for rate in found.values())
    rows, tools = chosen.rows[:20], chosen.tools("cpu")
    ours = crop_rows(rows, Recipe(preprocessing.FRAME), tools)["crop"].transpose(0, 3, 1, 2)
    theirs = preprocessing.on_device(rows, tools=tools, device=device).numpy()
    assert np.abs(ours.astype(int) - theirs).mean() < 2


@pytest.mark.slow
@pytest.mark.real
def test_rates_of_preparation_with_a_detector(real_root: Path, tmp_path: Path) -> None:
    import torch

    from raysweep.bench.preprocessing import photographs, rates

    device = torch.device("cpu")
    chosen = photographs(How(tmp_path, real=real_root), device)
    assert "photographs" in chosen.kind
    assert chosen.tools("cpu").detector is not None
    found = rates(chosen, device, 0.2)
    print(found)
    assert all(rate > 1 for rate in found.values())


@pytest.mark.slow
def test_speeds_of_a_network_need_no_gpu_to_be_right(tmp_path: Path) -> None:
    """Twice the layers cost twice the operations, and half precision says nearly the same."""
    import torch
    from torch import nn

    from raysweep.bench.precision import speeds

    torch.manual_seed(0)
    one = nn.Linear(64, 64, bias=False)
    found = [speeds(network, torch.randn(8, 64), 0.1, compiled=False) for network in (one, nn.Sequential(one, one))]
    assert [item.flop for item in found] == [2 * 64 * 64, 4 * 64 * 64]
    assert all(item.cosine > 0.999 for item in found)
    assert all(item.full > 1 and item.half > 1 for item in found)


@pytest.mark.slow
def test_a_dry_run_is_held_against_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A calibration of this process, kept for its sweep; what it is worth is measured by R20."""
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # tests share their cores
    faces = ["--data", "synthetic:identities=24,images_per_identity=7,seed=5"]
    command = [
        "tune",
        "ganonymization",
        "steps=8",
        "trials=2",
        "--engine",
        "local",
        "--runs",
        str(tmp_path / "runs"),
        *faces,
    ]
    assert main([*command, "--dry-run", "--price", "3"]) == 0
    shown = capsys.readouterr().out
    for words in ("2 trials and 3 controls on 1 worker", "fit", "in all", "reference store", "at 3 for a machine-hour"):
        assert words in shown
    assert not list((tmp_path / "cache").rglob("manifest.json")), "nothing of the sample stays"
    assert main(command) == 0
    assert "foretold by its dry run: " in capsys.readouterr().out
    # Prepared faces are used as they are, and nothing is left to prepare.
    assert main([*command, "--dry-run"]) == 0
    assert "done already" in capsys.readouterr().out
