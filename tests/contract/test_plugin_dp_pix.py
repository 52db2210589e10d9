"""A third party's package: found by its entry point, held to the contract, searched and scored by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raysweep.anonymizers.base import Anonymizer
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.engine.ledger import read_ledger
from raysweep.testing import AnonymizerContract
from raysweep.testing.anonymizer import example_batch, example_faces

PACKAGE = Path(__file__).resolve().parent.parent / "plugins" / "dp_pix"
SOURCE = f"file:{PACKAGE / 'dp_pix.py'}:DPPix"


class TestDPPix(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return get_anonymizer(SOURCE, allow_file=True)


def test_less_budget_more_noise() -> None:
    method = get_anonymizer(SOURCE, allow_file=True)
    faces = example_batch(example_faces(6), torch.device("cpu"))
    exact = method(epsilon=1000.0, cell=8, m=1).anonymize(faces).float()

    def error(epsilon: float) -> float:
        return float((method(epsilon=epsilon, cell=8, m=1).anonymize(faces).float() - exact).abs().mean())

    assert error(0.1) > 4 * error(1.0) > 4 * error(10.0)
    # Laplace noise of scale b has mean absolute value b = 255 m / (cell^2 epsilon).
    assert error(1.0) == pytest.approx(255 / 64, rel=0.15)


def test_the_class_stays_under_20_lines() -> None:
    text = (PACKAGE / "dp_pix.py").read_text(encoding="utf-8")
    body = [line for line in text[text.index("class DPPix") :].splitlines() if line.strip()]
    assert len(body) < 20


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not on the path")
    folder = tmp_path_factory.mktemp("plugin")
    source, site = folder / "source", folder / "site"
    shutil.copytree(PACKAGE, source)
    command = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        sys.executable,
        "--no-deps",
        "--no-build-isolation",
        "--offline",
    ]
    made = subprocess.run([*command, "--target", str(site), str(source)], capture_output=True, text=True)
    if "setuptools" in made.stderr and made.returncode:
        pytest.skip("setuptools is not installed")
    assert made.returncode == 0, made.stderr
    return site


def _raysweep(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "160", "RAYSWEEP_RUNS": str(site.parent / "runs")}
    command = [sys.executable, "-m", "raysweep", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)


@pytest.mark.slow
def test_an_installed_package_is_listed_searched_and_recorded(installed: Path) -> None:
    listed = _raysweep(installed, "ls", "anonymizers")
    assert "example/dp-pix" in listed.stdout
    assert "raysweep-dp-pix 1.0" in listed.stdout
    words = ["tune", "example/dp-pix", "cell=14", "--trials", "2", "bootstrap=100"]
    done = _raysweep(installed, *words, "--data", "synthetic:identities=40,images_per_identity=7")
    assert done.returncode == 0, done.stderr + done.stdout
    (ledger,) = (installed.parent / "runs").glob("example-dp-pix-*/ledger.jsonl")
    trials = [record for record in read_ledger(ledger) if not record.control]
    assert len(trials) == 2
    assert all(record.state == "complete" and record.setting["epsilon"] > 0 for record in trials)
    assert len({record.setting["epsilon"] for record in trials}) == 2
    assert all(np.isfinite(record.metrics["privacy"].value) for record in trials)
