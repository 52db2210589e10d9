"""Notebooks as they are committed: no outputs, under a page of code, nothing of the machine they were written on."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = ("quickstart", "reading_a_front", "own_anonymizer", "cluster")
MOST_LINES = 75


def cells(name: str) -> list[dict[str, Any]]:
    content = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert content["nbformat"] == 4
    return list(content["cells"])


def test_these_notebooks_are_there() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped(name: str) -> None:
    for cell in cells(name):
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("name", NAMES)
def test_code_is_python_and_fits_a_page(name: str) -> None:
    code = ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code"]
    for text in code:
        ast.parse(text)
    assert sum(text.count("\n") + 1 for text in code) <= MOST_LINES


@pytest.mark.parametrize("name", NAMES)
def test_each_opens_with_its_title_and_names_no_machine(name: str) -> None:
    found = cells(name)
    assert found[0]["cell_type"] == "markdown"
    assert "".join(found[0]["source"]).startswith("# ")
    text = json.dumps(found)
    # Absolute paths: a slash that begins a word and has another one behind it. Those of addresses stand behind a colon or a name;
    # the folder that the machines of cluster/*.yaml share is the same everywhere.
    assert not re.search(r"(?<![\w.:/~<])/(?!mnt/raysweep)\w+/|[A-Z]:\\\\\\\\", text)


@pytest.mark.parametrize("name", NAMES)
def test_files_and_notebooks_that_are_named_exist(name: str) -> None:
    text = " ".join("".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "markdown")
    for other in re.findall(r"`([\w]+\.ipynb)`", text):
        assert (FOLDER / other).is_file(), other
    for path in re.findall(r"`((?:tests|search_spaces)/[\w/.-]+)`", text):
        assert (FOLDER.parent / path).exists(), path
