"""What somebody meets who brings a folder of their own: bad files, the same image under two people, three people only, a front all the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from raysweep.cli import main
from raysweep.tracking.stored import find_run, load_run

pytestmark = [pytest.mark.real, pytest.mark.slow]

IMAGES = 6
NO_FACE = np.full((250, 250, 3), 120, np.uint8)


@pytest.fixture
def album(real_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three people with six photographs each, names with blanks, and what lies in folders besides."""
    monkeypatch.setenv("RAYSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "my album"
    people = sorted((real_root / "faces_id" / "lfw").iterdir())[:3]
    for person in people:
        own = folder / person.name.replace("_", " ")
        own.mkdir(parents=True)
        for image in sorted(person.iterdir())[:IMAGES]:
            shutil.copy(image, own)
    first, second, _ = sorted(folder.iterdir())
    images = sorted(first.iterdir())
    (first / "truncated.jpg").write_bytes(images[0].read_bytes()[:4000])
    (first / "page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    (first / "empty.png").write_bytes(b"")
    (first / ".DS_Store").write_bytes(b"Bud1")
    (folder / "notes.txt").write_text("my faces")
    cv2.imwrite(str(first / "wall.png"), NO_FACE)
    both = [cv2.imread(str(images[1])), cv2.imread(str(sorted(second.iterdir())[1]))]
    cv2.imwrite(str(second / "two of them.jpg"), np.hstack(both))
    shutil.copy(images[2], first / "again.jpg")
    shutil.copy(images[3], second / "someone else.jpg")
    return folder


def test_from_a_folder_to_a_front(
    album: Path, real_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(album), "--models", str(real_root / "models"), "--engine", "local"]
    runs = tmp_path / "runs"

    assert main(["prepare", *given]) == 2
    said = capsys.readouterr().err
    assert "1 image stands under two identities" in said
    assert "someone else.jpg" in said
    assert "conflicts=drop" in said

    assert main(["prepare", *given, "conflicts=drop"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].endswith("starting")
    for reason in ("1 empty", "1 no_face", "1 not_an_image", "2 the same image under two identities", "1 truncated"):
        assert f"quarantined {reason}" in lines
    # 18 photographs without the one that stands under two people, one again under its own person, one with two faces.
    assert "usable faces 19" in lines
    assert "role E 19 evaluation, 3 identities: no intervals below 10" in lines

    asked = ["tune", "blur", *given, "conflicts=drop", "attackers=[A0,A1]", "--trials", "2", "--runs", str(runs)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "Pareto front:" in said
    assert re.search(r"Only 3 people\s+were\s+evaluated", said)
    run = load_run(find_run(None, runs))
    assert run.info.quarantined["the same image under two identities"] == 2
    assert len([record for record in run.records if not record.control and record.state == "complete"]) == 2
    page = (run.info.run_folder / "report" / "report.html").read_text(encoding="utf-8")
    assert "the same image under two identities" in page
    assert str(album) not in page
