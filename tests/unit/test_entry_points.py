"""Entry points are read once, and again when a package appears on the search path."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from raysweep.entry_points import entry_points


def add_package(folder: Path, name: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[raysweep.test_group]\nacme/{name} = {name}:Thing\n", encoding="utf-8")


def test_read_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = metadata.entry_points

    def counted(*, group: str) -> object:
        looked.append(group)
        return real(group=group)

    monkeypatch.setattr(metadata, "entry_points", counted)
    assert entry_points(group="raysweep.test_group") == ()
    add_package(tmp_path, "first")
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(3):
        assert [point.name for point in entry_points(group="raysweep.test_group")] == ["acme/first"]
    assert len(looked) == 2
    add_package(tmp_path, "second")
    assert {point.name for point in entry_points(group="raysweep.test_group")} == {"acme/first", "acme/second"}
