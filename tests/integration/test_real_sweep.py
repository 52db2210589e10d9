"""The command line on real faces with real models: clear numbers, blackout's exact ties, k-Same's exact value, a set without identities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raysweep.api import evaluate, tune
from raysweep.cli import main
from raysweep.sweep import SweepResult

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("real")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAYSWEEP_CACHE", str(place / "cache"))
    yield place
    patch.undo()


def print_clear(result: SweepResult) -> None:
    for name, value in result.info.clear.items():
        print(f"{name}: {value.value:.3f} {value.reason}")
    for record in result.records:
        values = {key: round(record.metrics[key].value, 3) for key in ("privacy", "utility")}
        print(record.control or record.anonymizer, dict(record.setting), values)


def test_lfw(real_root: Path, folder: Path) -> None:
    data, models = str(real_root / "faces_id" / "lfw"), str(real_root / "models")
    result = tune("k-same", "trials=2", "engine=local", "unit=subjects", data=data, models=models, runs=folder / "runs")
    print_clear(result)
    clear = [value for name, value in result.info.clear.items() if name.endswith("/rank1")]
    assert len(clear) >= 2
    assert all(value.value >= 0.99 for value in clear)
    controls = {record.control: record.metrics for record in result.records if record.control}
    assert (controls["identity"]["privacy"].value, controls["identity"]["utility"].value) == (0.0, 1.0)
    assert (controls["blackout"]["privacy"].value, controls["blackout"]["utility"].value) == (1.0, 0.0)
    # Exactly tied: the chance of the gallery, not noise of the arithmetic.
    assert controls["blackout"]["privacy/rank1"].value == pytest.approx(0.1, abs=1e-12)
    pairs = next(record for record in result.records if record.setting.get("k") == 2 and not record.control)
    # Two people share each released image: rank-1 1/2 of 10 people, P = 1 - (1/2 - 1/10) / (1 - 1/10).
    assert pairs.metrics["privacy/rank1_full"].value == pytest.approx(0.5, abs=1e-9)
    assert pairs.metrics["privacy"].value == pytest.approx(1 - 0.4 / 0.9, abs=0.01)


def test_yale_expressions(real_root: Path, folder: Path) -> None:
    data, models = str(real_root / "faces_expr" / "yale"), str(real_root / "models")
    result = evaluate("blackout", data=data, models=models, runs=folder / "runs")
    print_clear(result)
    assert result.info.clear["clear/fer-faceapi/accuracy"].value >= 0.75
    assert result.info.clear["clear/fer-mini-xception/accuracy"].value >= 0.67


def test_a_set_without_identities(real_root: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, models = str(real_root / "faces_expr" / "fer2013"), str(real_root / "models")
    assert main(["tune", "blur", "--engine", "local", "--data", data, "--models", models, "--runs", str(folder)]) == 2
    assert "no identities" in capsys.readouterr().err
    result = evaluate("blur", "kernel_size=11", data=data, models=models, runs=folder / "runs")
    record = next(record for record in result.records if not record.control)
    assert record.metrics["privacy"].status == "undefined"
    assert "no identities" in record.metrics["privacy"].reason
    assert 0 < record.metrics["utility"].value < 1
    assert not record.rankable


def test_a_loss_without_a_teacher_is_told_before_training(
    real_root: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", "ganonymization", "--engine", "local", "--data", str(real_root / "faces_id" / "lfw")]
    assert main([*words, "--models", str(real_root / "models"), "--runs", str(folder / "none")]) == 2
    shown = capsys.readouterr().err
    assert "expression_loss=kd_logit needs a torch expression model" in shown
    assert "expression_loss=none" in shown
    assert not (folder / "none").exists()
