"""From a sweep to its report, to a bundle, to the same numbers again; and what becomes of evidence that is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raysweep.api import tune
from raysweep.cli import main
from raysweep.engine.evidence import COMMON, DIGEST_NOTE, SHEET
from raysweep.tracking.contact import identity_names
from raysweep.tracking.recompute import differences, recompute
from raysweep.tracking.stored import load_run

FACES = "synthetic:identities=40,images_per_identity=7"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blurs on a few drawn faces."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSWEEP_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        result = tune("blur", "trials=2", "engine=local", "workers=2", data=FACES, runs=folder / "runs")
    return result.info.run_folder


def test_a_sweep_keeps_its_evidence_and_writes_the_page(run_folder: Path) -> None:
    stored = load_run(run_folder)
    assert stored.missing == {}
    assert len(stored.records) == 4
    assert all(len(str(record.notes[DIGEST_NOTE])) == 64 for record in stored.records)
    assert all(record.evidence[SHEET].shape[1:] == (112, 112, 3) for record in stored.records), "drawn faces are shown"
    assert stored.info.clear["clear/rank1"].ok
    assert stored.info.card["images"]["E"] > 0
    assert any(name.startswith("clear/E/A0/") for name in stored.common)
    assert differences(stored, recompute(stored)) == []
    page = (run_folder / "report" / "report.html").read_text(encoding="utf-8")
    for anchor in ("front", "curves", "people", "expression", "volume", "faces"):
        assert f'id="{anchor}"' in page
    assert "data:image/jpeg;base64," in page
    assert len(page) < 2_000_000


def test_report_bundle_and_back(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["--runs", str(run_folder.parent)]
    assert (
        main(
            [
                "report",
                "blur",
                "--out",
                str(tmp_path / "r.html"),
                "--csv",
                str(tmp_path),
                "--latex",
                str(tmp_path),
                *runs,
            ]
        )
        == 0
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "r.html", "front.csv", "trials.csv", "attackers.csv", "front.tex", "trials.tex", "attackers.tex",
    }  # fmt: skip
    assert main(["report", "--gap", *runs]) == 0
    assert "naive against strongest attacker" in capsys.readouterr().out
    bundle = tmp_path / "sweep.zip"
    assert main(["report", run_folder.name[-8:], "--bundle", str(bundle), *runs]) == 0
    assert main(["report", "--from-bundle", str(bundle)]) == 0
    said = capsys.readouterr().out
    assert "recomputed 4 trials and controls" in said
    assert "no recorded number differs by more than 1e-6" in said
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "Computed again from the evidence" in page
    assert "data:image" not in page, "a bundle holds no face"
    assert bundle.stat().st_size < 1_000_000


def test_names_are_those_of_the_codes(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSWEEP_CACHE", str(run_folder.parent.parent / "cache"))
    stored = load_run(run_folder)
    names = identity_names(stored)
    assert len(names) == int(stored.common["rank/E/gallery"][0])
    assert len(set(names.values())) == len(names)


def test_photographs_are_shown_on_request_and_anonymized_only(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run, called one of photographs."""
    monkeypatch.setenv("RAYSWEEP_CACHE", str(run_folder.parent.parent / "cache"))
    copy = tmp_path / run_folder.name
    shutil.copytree(run_folder, copy)
    content = json.loads((copy / "sweep.json").read_text())
    content["info"]["synthetic"] = False
    (copy / "sweep.json").write_text(json.dumps(content))
    pages = {}
    for words in ([], ["--contact-sheet", "--names"]):
        assert main(["report", str(copy), "--out", str(tmp_path / "p.html"), *words]) == 0
        pages[len(words)] = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "data:image" not in pages[0]
    assert "anonymized photographs of real people" in pages[2]
    assert "This page names people" in pages[2]
    front = pages[2].count("data:image/jpeg")
    assert 1 <= front <= 2
    assert "as drawn" not in pages[2]
    with monkeypatch.context() as patch:
        patch.setenv("RAYSWEEP_CACHE", str(tmp_path / "empty"))
        assert main(["report", str(copy), "--contact-sheet", "--out", str(tmp_path / "q.html")]) == 1


def test_damage_is_told_and_breaks_nothing(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / run_folder.name
    shutil.copytree(run_folder, copy)
    (copy / "scores" / f"{COMMON}.npz").write_bytes(b"gone")
    broken = next(record.key for record in load_run(run_folder).records if not record.control)
    (copy / "scores" / f"{broken}.npz").unlink()
    assert main(["report", str(copy), "--out", str(tmp_path / "d.html")]) == 0
    page = (tmp_path / "d.html").read_text(encoding="utf-8")
    assert "1 trial has no evidence on disk" in page
    assert "digest differs" in page
    assert main(["report", str(copy), "--bundle", str(tmp_path / "d.zip")]) == 1
    assert "has no evidence to bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "blurr"], "no run 'blurr'"),
        (["report", "--gap", "--csv", "x"], "--gap does not go together with --csv"),
        (["report", "--from-bundle", "nowhere.zip"], "no such file"),
    ],
)
def test_wrong_input(words: list[str], message: str, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--runs", str(run_folder.parent)]) in (1, 2)
    assert message in capsys.readouterr().err
