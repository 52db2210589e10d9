"""`--dry-run` refuses what the run would refuse, as far as it can be known without opening an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysweep.cli import main


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
