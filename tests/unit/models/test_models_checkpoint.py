from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raysweep.errors import ModelError
from raysweep.models.checkpoint import checkpoint_facts, load_generator_state, shapes_of

WANTED = {"down.weight": (4, 3), "down.bias": (4,), "up.weight": (3, 4)}


def state(prefix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}{name}": torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape).to(dtype)
        for name, shape in WANTED.items()
    }


def lightning(**changes: Any) -> dict[str, Any]:
    """As Lightning writes it: a second network, the optimizer, and settings beside the weights."""
    return {
        "epoch": 25,
        "global_step": 1000,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": {**state("generator."), "discriminator.weight": torch.ones(2)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 2e-4}]}],
        "hyper_parameters": {"img_size": 256, "data_dir": "somewhere", "device": torch.device("cpu")},
        **changes,
    }


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def read(path: Path, **changes: Any) -> dict[str, torch.Tensor]:
    return load_generator_state(path, **{"key": "state_dict", "prefix": "generator.", "wanted": WANTED, **changes})


class Marker:
    """A pickle that would create a file if it ever ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, dict[str, Any]], Any]:
    """An object of a dictionary class in a package that is not installed."""

    def make(module: str, name: str, content: dict[str, Any]) -> Any:
        made = type(name, (dict,), {"__module__": module})
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            place = types.ModuleType(".".join(parts[:depth]))
            monkeypatch.setitem(sys.modules, place.__name__, place)
        setattr(place, name, made)
        thing = made(content)
        thing.__dict__.update(content)
        return thing

    return make


class TestContainers:
    @pytest.mark.parametrize(
        ("name", "content", "how"),
        [
            ("a.ckpt", lightning(), {}),
            ("a.pth", {"generator": state("x."), "EMA_generator": state()}, {"key": "EMA_generator", "prefix": ""}),
            (
                "b.pth",
                {"running_average_generator": state()},
                {"key": ("EMA_generator", "running_average_generator"), "prefix": ""},
            ),
            ("c.pth", state(), {"key": None, "prefix": ""}),
            ("d.pth", state("generator."), {}),
            ("e.pth", state(), {}),
        ],
        ids=["lightning", "ema", "second choice", "state dict", "prefixed state dict", "bare generator"],
    )
    def test_each_gives_exactly_the_wanted_tensors(
        self, tmp_path: Path, name: str, content: Any, how: dict[str, Any]
    ) -> None:
        found = read(saved(tmp_path / name, content), **how)
        assert list(found) == list(WANTED)
        for key, value in state().items():
            assert torch.equal(found[key], value)

    def test_safetensors_in_half_precision_come_out_as_float32(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        save_file(state(dtype=torch.float16), str(path), {"made": "here"})
        found = read(path)
        assert {tensor.dtype for tensor in found.values()} == {torch.float32}
        assert torch.equal(found["up.weight"], state()["up.weight"])
        assert checkpoint_facts(path).metadata == {"made": "here"}

    def test_the_file_may_vanish_after_loading(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.ckpt", lightning())
        found = read(path)
        path.write_bytes(b"")
        assert torch.equal(found["down.weight"], state()["down.weight"])

    @pytest.mark.parametrize(
        ("module", "name"),
        [("easydict", "EasyDict"), ("pytorch_lightning.utilities.parsing", "AttributeDict")],
    )
    def test_settings_of_a_package_that_is_not_here_are_data(
        self, tmp_path: Path, foreign: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, module: str, name: str
    ) -> None:
        path = saved(tmp_path / "a.ckpt", lightning(hyper_parameters=foreign(module, name, {"img_size": 512})))
        for name in [item for item in sys.modules if item.split(".")[0] == module.split(".")[0]]:
            monkeypatch.delitem(sys.modules, name)
        assert torch.equal(read(path)["down.bias"], state()["down.bias"])
        assert checkpoint_facts(path).image_size == 512
        assert module not in sys.modules

    def test_a_path_among_the_settings_is_data(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.ckpt", lightning(hyper_parameters={"img_size": 64, "data_dir": Path("/a/b")}))
        assert checkpoint_facts(path).image_size == 64


class TestRefusals:
    def test_a_pickle_that_runs_code_never_runs(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        for place in ("state_dict", "hyper_parameters", "callbacks"):
            path = saved(tmp_path / "evil.ckpt", lightning(**{place: {"x": Marker(marker)}}))
            with pytest.raises(ModelError, match=r"evil\.ckpt: refused: it is not a plain file of tensors"):
                read(path)
            with pytest.raises(ModelError, match="refused"):
                checkpoint_facts(path)
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"generator.down.weight": None}, "missing: down.weight; 3 tensors are wanted, the file has 2"),
            ({"generator.down.weight": None, "generator.up.weight": None}, r"missing: down.weight \(and 1 more\)"),
            (
                {"generator.up.weight": torch.ones(4, 3)},
                r"of another shape: up.weight is \(4, 3\), the network has \(3, 4\)",
            ),
            ({"generator.more": torch.ones(1)}, "unexpected: more; 3 tensors are wanted, the file has 4"),
            ({"generator.down.bias": torch.full((4,), float("nan"))}, "damaged: down.bias holds NaN or infinity"),
            ({"generator.down.bias": "text"}, "entry 'generator.down.bias' is a str, not a tensor"),
        ],
        ids=["one missing", "half missing", "shape", "extra", "nan", "no tensor"],
    )
    def test_the_first_mismatch_is_named(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        content = lightning()
        content["state_dict"].update(change)
        content["state_dict"] = {name: value for name, value in content["state_dict"].items() if value is not None}
        with pytest.raises(ModelError, match=message):
            read(saved(tmp_path / "a.ckpt", content))

    def test_a_missing_entry_is_told_with_what_is_there(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.pth", {"generator": state(), "epoch": 3})
        with pytest.raises(ModelError, match="no entry 'EMA_generator' or 'average'; it has epoch, generator"):
            read(path, key=("EMA_generator", "average"), prefix="")

    def test_another_prefix_is_told(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.ckpt", lightning(state_dict=state("netG.")))
        with pytest.raises(ModelError, match=r"no tensors whose name starts with 'generator\.'"):
            read(path)

    def test_a_truncated_file_is_refused(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.ckpt", lightning())
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ModelError, match="refused"):
            read(path)


class TestOptional:
    def test_an_optional_name_may_be_missing_or_left_over(self, tmp_path: Path) -> None:
        content = {**state(), "resample_filter": torch.ones(4)}
        del content["down.bias"]
        found = read(saved(tmp_path / "a.pth", content), prefix="", optional={"resample_filter", "down.bias"})
        assert list(found) == ["down.weight", "up.weight"]


class TestFacts:
    def test_a_lightning_file_tells_its_training(self, tmp_path: Path) -> None:
        facts = checkpoint_facts(saved(tmp_path / "a.ckpt", lightning()))
        assert (facts.container, facts.epoch, facts.step, facts.image_size) == ("lightning", 25, 1000, 256)
        assert "optimizer_states" in facts.entries
        assert facts.size_warning(256) is None
        assert "trained at 256 pixels and is used at 512" in str(facts.size_warning(512))

    @pytest.mark.parametrize(
        ("content", "container"), [(state(), "state dict"), ({"generator": state()}, "dictionary")]
    )
    def test_other_files_tell_nothing(self, tmp_path: Path, content: Any, container: str) -> None:
        facts = checkpoint_facts(saved(tmp_path / "a.pth", content))
        assert (facts.container, facts.image_size, facts.size_warning(512)) == (container, None, None)

    def test_shapes_of_a_network(self) -> None:
        assert shapes_of(torch.nn.Linear(3, 4).state_dict()) == {"weight": (4, 3), "bias": (4,)}
