from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from raysweep.anonymizers import registry
from raysweep.anonymizers.base import Anonymizer
from raysweep.anonymizers.registry import get_anonymizer, list_anonymizers, register_anonymizer, trains_in_stages
from raysweep.errors import ConfigError
from raysweep.schema import FaceBatch


class Upside(Anonymizer):
    name = "acme/upside-down"

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        return faces.image.flip(2)


class _Distribution:
    def __init__(self, name: str) -> None:
        self.name, self.version = name, "1.0"


def plug_in(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    made = []
    for name, value, distribution in points:
        point = EntryPoint(name, value, registry.GROUP)
        vars(point).update(dist=_Distribution(distribution))
        made.append(point)
    monkeypatch.setattr(registry, "entry_points", lambda group: made if group == registry.GROUP else [])


@pytest.fixture(autouse=True)
def _no_left_overs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def test_built_ins_carry_the_names_they_are_found_by() -> None:
    assert {entry.name for entry in list_anonymizers()} >= {"blackout", "blur", "ganonymization", "k-same", "pixelate"}
    for entry in list_anonymizers(check=True):
        assert entry.error == ""
        assert get_anonymizer(entry.name).name == entry.name


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown anonymizer 'blurr' \(did you mean 'blur'\?\); known: .*pixelate"):
        get_anonymizer("blurr")


def test_a_plug_in_is_found_and_listing_does_not_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, ("acme/upside-down", f"{__name__}:Upside", "acme-faces"), ("acme/gone", "acme_gone:X", "acme"))
    listed = {entry.name: entry for entry in list_anonymizers()}
    assert listed["acme/upside-down"].origin == "acme-faces 1.0"
    assert listed["acme/gone"].error == ""
    assert get_anonymizer("acme/upside-down").name == "acme/upside-down"


def test_a_broken_plug_in_says_why_and_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(
        monkeypatch,
        ("acme/gone", "acme_gone:X", "acme"),
        ("acme/dict", "builtins:dict", "acme"),
        ("plain", f"{__name__}:Upside", "acme"),
        ("acme/other", f"{__name__}:Upside", "acme"),
    )
    errors = {entry.name: entry.error for entry in list_anonymizers(check=True)}
    assert "acme 1.0" in errors["acme/gone"]
    assert "ModuleNotFoundError" in errors["acme/gone"]
    assert "not a subclass" in errors["acme/dict"]
    assert "vendor/name" in errors["plain"]
    assert "calls itself 'acme/upside-down'" in errors["acme/other"]
    assert errors["blur"] == ""


def test_two_with_one_name_are_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"{__name__}:Upside"
    plug_in(
        monkeypatch, ("acme/upside-down", target, "acme"), ("acme/upside-down", target, "other"), ("blur", target, "x")
    )
    with pytest.raises(ConfigError, match=r"acme 1.0 and in other 1.0"):
        get_anonymizer("acme/upside-down")
    with pytest.raises(ConfigError, match=r"x 1.0 and in built-in"):
        get_anonymizer("blur")


def test_registering_from_python() -> None:
    assert register_anonymizer(Upside) is Upside
    register_anonymizer(Upside)
    assert get_anonymizer("acme/upside-down") is Upside
    assert [entry.origin for entry in list_anonymizers() if entry.name == "acme/upside-down"] == ["registered"]


def test_registering_a_taken_name_names_both() -> None:
    register_anonymizer(Upside)
    other = type("Other", (Upside,), {})
    with pytest.raises(ConfigError, match=r"Upside and by .*Other"):
        register_anonymizer(other)
    with pytest.raises(ConfigError, match=r"Blurry has the name of raysweep.anonymizers.blur:GaussianBlur"):
        register_anonymizer(type("Blurry", (Upside,), {"name": "blur"}))


def test_what_cannot_work_is_not_registered() -> None:
    with pytest.raises(ConfigError, match="not a subclass"):
        register_anonymizer(dict)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="does not implement anonymize"):
        register_anonymizer(type("Half", (Anonymizer,), {"name": "half"}))
    with pytest.raises(ConfigError, match="no name"):
        register_anonymizer(type("Nameless", (Upside,), {"name": ""}))


FILE = """
from raysweep.anonymizers.base import Anonymizer

class Same(Anonymizer):
    name = "same"

    def anonymize(self, faces):
        return faces.image
"""


def test_a_file_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(FILE)
    name = f"file:{tmp_path / 'my.py'}:Same"
    with pytest.raises(ConfigError, match="command line"):
        get_anonymizer(name)
    assert get_anonymizer(name, allow_file=True).name == "same"
    assert get_anonymizer(name, allow_file=True) is get_anonymizer(name, allow_file=True)


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    with pytest.raises(ConfigError, match="no such file"):
        get_anonymizer(f"file:{path}:Same", allow_file=True)
    path.write_text(FILE)
    with pytest.raises(ConfigError, match=r"no class 'Sane' \(did you mean 'Same'\?\)"):
        get_anonymizer(f"file:{path}:Sane", allow_file=True)
    path.write_text("1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        get_anonymizer(f"file:{path}:Same", allow_file=True)
    with pytest.raises(ConfigError, match="file:PATH"):
        get_anonymizer("file:Same", allow_file=True)


def test_the_registry_is_light() -> None:
    code = "import sys, raysweep.anonymizers.registry as r; r.list_anonymizers(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_training_is_divided_where_there_is_one() -> None:
    assert trains_in_stages("ganonymization", {})
    assert not trains_in_stages("ciagan", {}), "it is loaded, not trained, by default"
    assert trains_in_stages("ciagan", {"steps": 10})
    for name, setting in (
        ("blur", {}),
        ("ganonymization", {"steps": 0}),
        ("ganonymization", {"steps": -1}),
        ("no such", {}),
    ):
        assert not trains_in_stages(name, setting), "what is wrong with a setting is told by its trial"
