"""README, ARCHITECTURE, docs and the pages of cluster/: what they name is there, their pictures are small, their verbs and spaces exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raysweep.cli import VERBS
from raysweep.search.space import shipped_spaces

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "ARCHITECTURE.md", "docs/results.md", "cluster/README.md", "cluster/storage.md")
LARGEST_PICTURE = 200_000


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", text(page)):
        assert "://" not in target, "a page of this project needs no network"
        assert (ROOT / page).parent.joinpath(target).is_file(), target


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_are_named_are_there(page: str) -> None:
    for path in re.findall(r"tests/[\w/]+(?:\.\w+)?", text(page)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_verbs_are_verbs(page: str) -> None:
    named = re.findall(r"python -m raysweep (\w+)", text(page))
    assert set(named) <= set(VERBS)
    for space in re.findall(r"python -m raysweep tune ([a-z][a-z-]+)\b(?![:/])", text(page)):
        assert space in shipped_spaces() or space in {"file"}, space


def test_folders_of_the_architecture_are_all_there() -> None:
    named = {name.rstrip("/") for name in re.findall(r"`(\w+/)`", text("ARCHITECTURE.md"))}
    package = {path.parent.name for path in (ROOT / "raysweep").glob("*/__init__.py")}
    assert named <= package
    assert package - named <= {"bench", "testing"}, "a new folder needs a line"


def test_pictures_are_small_and_all_shown() -> None:
    pictures = list((ROOT / "README.assets").iterdir())
    assert {path.name for path in pictures} == set(re.findall(r"README\.assets/([\w.-]+)", text("README.md")))
    for path in pictures:
        assert path.stat().st_size < LARGEST_PICTURE, path.name


def test_the_readme_stays_readable() -> None:
    lines = text("README.md").splitlines()
    assert len(lines) <= 250
    assert lines.index("uv run python -m raysweep ui") < 20, "the two commands stand on the first screen"
