"""Every notebook runs as committed, on the synthetic default, in a kernel of its own, and shows its pictures."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel (dependency group dev)")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
PICTURES = {"quickstart": 3, "reading_a_front": 3, "own_anonymizer": 2, "cluster": 2}
LIMIT_S = 580

pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 20)]


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared faces are the same in all of them."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_notebook(name: str, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSWEEP_CACHE", str(shared_cache))
    monkeypatch.setenv("RAYSWEEP_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("RAYSWEEP_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent), prepend=":")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    began = time.monotonic()
    nbclient.NotebookClient(
        notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    seconds = time.monotonic() - began
    print(f"{name}: {seconds:.0f} s")
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= PICTURES[name]
    said = "".join(output.get("text", "") for output in outputs if output.output_type == "stream")
    assert "writing the report" in said, "the sweep tells in plain lines how far it is"
    assert "\x1b" not in said
    # Without ipywidgets, which nothing here needs, tqdm says that it will draw its bars as text.
    warnings = [line for line in said.splitlines() if "Warning" in line and "IProgress" not in line]
    assert not warnings, warnings
    assert list((tmp_path / "runs").glob("*/report/report.html"))
