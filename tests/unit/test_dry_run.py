"""`--dry-run` refuses what the run would refuse, as far as it can be known without opening an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysweep.cli import main
from raysweep.config import resolve_sweep
from raysweep.dry_run import _arm, _draws, _tasks
from raysweep.engine.calibration import Survey
from raysweep.engine.forecast import Scope


def test_what_is_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    faces = "synthetic:identities=12,images_per_identity=7"
    assert main(["tune", "blur", "--dry-run", "--no-calibration", "--data", faces]) == 0
    said = capsys.readouterr().out
    assert "84 images (synthetic)" in said
    assert "synthetic-id-a" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data", "nowhere"], "no such file or folder"),
        (["--data", "faces", "--models", "weights"], "no embedder weights at hand"),
        (["attackers=[A9]"], "A9"),
        (["--price", "-1"], "--price -1"),
        (["--price", "2", "--no-calibration"], "--price needs the calibration"),
    ],
)
def test_what_is_missing_is_named(
    words: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "faces" / "anna").mkdir(parents=True)
    (tmp_path / "faces" / "anna" / "1.jpg").write_bytes(b"not opened")
    assert main(["tune", "blur", "--dry-run", *words]) == 2
    assert expected in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "faces"}, "nothing is made"


def test_words_of_a_dry_run_belong_to_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "blur", "--price", "2", "--no-calibration"]) == 2
    said = capsys.readouterr().err
    assert "--price belongs to --dry-run" in said
    assert "--no-calibration belongs to --dry-run" in said


def test_settings_to_measure_are_those_of_the_sweep() -> None:
    """A study's own, in its proportions; of a space such as its sampler may draw; one of each anonymizer comes first."""
    study = resolve_sweep("baseline", [])
    draws = _draws(study)
    listed = {arm.anonymizer: len(arm.settings) for arm in study.space.arms}
    assert {name: round(13 * share) for name, (share, _) in draws.items()} == listed
    tasks = _tasks(study, draws, 2)
    assert {task.anonymizer for task in tasks[: len(listed)]} == set(listed)
    assert len({(task.anonymizer, tuple(task.setting.items())) for task in tasks}) == 13
    searched = _draws(resolve_sweep("ganonymization", ["steps=40"]))
    share, settings = searched["ganonymization"]
    assert share == 1.0
    assert {setting["steps"] for setting in settings} == {40}
    assert len({setting["expression_loss"] for setting in settings}) == 3


def test_steps_that_were_not_run_are_counted() -> None:
    found = [
        Survey("g", 1.0, 0.1, 0.001, 0.002, 0.0, 3.0, 50),
        Survey("g", 2.0, 0.3, 0.001, 0.002, 0.0, 3.0, 50),
        Survey("b", 9.0, 9.0, 9.0, 9.0),
    ]
    arm = _arm("g", 10.0, [{"steps": 20}, {"steps": 60}], found, Scope(10, 1, (100, 100), 1))
    assert arm.fit_s.value == pytest.approx(1.5 + 0.2 * 40)
    assert arm.fit_s.low < 1.5 + 0.1 * 40 + 1.0, "two settings that differ much say little of the others"
    assert arm.extras_s.value == pytest.approx(3.0 * 200 / 50)
    assert arm.settings == 2
