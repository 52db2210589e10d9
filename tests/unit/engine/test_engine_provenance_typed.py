"""A class typed into a notebook has no file: its code still decides the key of its trials."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import ModuleType

import pytest

from raysweep.anonymizers import registry
from raysweep.api import tune
from raysweep.errors import ConfigError
from raysweep.provenance import anonymizer_digest

CELL = """
from raysweep.anonymizers.base import Anonymizer

class Typed(Anonymizer):
    name = "acme/typed"

    def anonymize(self, faces):
        return faces.image // {by}
"""


def typed(monkeypatch: pytest.MonkeyPatch, by: int, source_kept: bool = True) -> str:
    """The digest after a cell has been run, as a notebook does it."""
    monkeypatch.setattr(registry, "_registered", {})
    module = ModuleType("typed_cell")
    monkeypatch.setitem(sys.modules, "typed_cell", module)
    text, name = CELL.format(by=by), f"<cell {by} {source_kept}>"
    if source_kept:
        monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
    exec(compile(text, name, "exec"), module.__dict__)  # noqa: S102 - a notebook's cell
    registry.register_anonymizer(module.__dict__["Typed"])
    return anonymizer_digest("acme/typed")


def test_its_own_code_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    first = typed(monkeypatch, 2)
    assert typed(monkeypatch, 2) == first
    assert typed(monkeypatch, 3) != first


def test_without_source_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="write the class into a file"):
        typed(monkeypatch, 4, source_kept=False)


def test_workers_elsewhere_do_not_know_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    typed(monkeypatch, 2)
    with pytest.raises(
        ConfigError, match=r"engine=local, or put the class into a file and name it as file:PATH\.py:Typed"
    ):
        tune("acme/typed", "trials=1", runs=tmp_path)
    assert list(tmp_path.iterdir()) == [], "before anything starts"
