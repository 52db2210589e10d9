"""Checkpoints of DeepPrivacy2: every container that occurs, and every way in which one can be wrong."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raysweep.anonymizers.deepprivacy2.network import Architecture, Generator, build
from raysweep.anonymizers.deepprivacy2.weights import open_painter
from raysweep.errors import ModelError
from raysweep.models.entry import Entry
from raysweep.models.loading import file_digest
from raysweep.models.zoo import Found

CPU = torch.device("cpu")
TINY = Architecture(side=16, width=4, widest=2, lowest=8, latent=8)
ARGUMENTS = {"side": 16, "width": 4, "widest": 2, "lowest": 8, "latent": 8}


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    network = build(lambda: Generator(TINY), torch.Generator().manual_seed(seed))
    return dict(network.state_dict())


def found(path: Path, **changes: Any) -> Found:
    entry = Entry.model_validate(
        {
            "name": "tiny",
            "task": "generator",
            "family": "deepprivacy2",
            "file": path.name,
            "licence": "MIT",
            "format": "torch-state-dict",
            "architecture": "deepprivacy2",
            "arguments": ARGUMENTS,
            "key": "EMA_generator",
            **changes,
        }
    )
    return Found(entry, path, file_digest(path))


def saved(folder: Path, content: object, name: str = "tiny.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def same(network: Generator, wanted: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())


def test_the_average_is_taken_before_the_running_one_and_before_the_trained_one(tmp_path: Path) -> None:
    networks = {"generator": state(1), "running_average_generator": state(2), "EMA_generator": state(3)}
    assert same(open_painter(found(saved(tmp_path, networks)), CPU).generator, state(3))
    del networks["EMA_generator"]
    assert same(open_painter(found(saved(tmp_path, networks, "older.pth")), CPU).generator, state(2))
    del networks["running_average_generator"]
    with pytest.raises(ModelError, match="no entry 'EMA_generator' or 'running_average_generator'; it has generator"):
        open_painter(found(saved(tmp_path, networks, "trained.pth")), CPU)


def test_the_state_of_training_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train_state` is a dictionary class of a package that need not be here."""
    module = types.ModuleType("easydict")
    module.EasyDict = type("EasyDict", (dict,), {"__module__": "easydict"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easydict", module)
    content = {"EMA_generator": state(), "train_state": module.EasyDict(step=3, best=module.EasyDict(fid=4.0))}
    path = saved(tmp_path, content)
    monkeypatch.delitem(sys.modules, "easydict")
    assert same(open_painter(found(path), CPU).generator, state())


class Malice:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_code_in_the_file_never_runs_and_the_message_offers_a_way(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = saved(tmp_path, {"EMA_generator": state(), "train_state": Malice(marker)})
    with pytest.raises(ModelError, match="refused") as caught:
        open_painter(found(path), CPU)
    assert not marker.exists()
    assert "on a machine where you trust the file" in str(caught.value)
    assert "tiny.safetensors" in str(caught.value)


def test_tensors_alone_are_taken_whatever_the_key(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file(state(), path)
    opened = found(path, format="safetensors", key=None)
    assert same(open_painter(opened, CPU).generator, state())
    assert same(open_painter(found(saved(tmp_path, state(5), "bare.pth")), CPU).generator, state(5))


def test_centres_may_lie_beside_the_generator_or_within(tmp_path: Path) -> None:
    beside, within = torch.randn(5, 8), torch.randn(3, 8)
    path = saved(tmp_path, {"EMA_generator": state(), "w_centers": beside})
    centres = open_painter(found(path), CPU).centres
    assert centres is not None
    assert torch.equal(centres, beside)
    path = saved(tmp_path, {"EMA_generator": {**state(), "style_net.w_centers": within}}, "within.pth")
    centres = open_painter(found(path), CPU).centres
    assert centres is not None
    assert torch.equal(centres, within)
    path = saved(tmp_path, {**state(), "style_net.w_centers": within}, "bare.pth")
    centres = open_painter(found(path), CPU).centres
    assert centres is not None
    assert torch.equal(centres, within)
    assert open_painter(found(saved(tmp_path, {"EMA_generator": state()}, "none.pth")), CPU).centres is None
    path = saved(tmp_path, {"EMA_generator": state(), "w_centers": torch.randn(5, 7)}, "short.pth")
    with pytest.raises(ModelError, match=r"w_centers must be finite numbers \(n, 8\), it is \(5, 7\)"):
        open_painter(found(path), CPU)


def test_filters_may_be_missing_or_left_over_but_not_different(tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in state().items() if not name.endswith("resample_filter")}
    assert same(open_painter(found(saved(tmp_path, {"EMA_generator": without})), CPU).generator, state())
    more = {**state(), "to_rgb.resample_filter": torch.ones(4, 4)}
    assert same(open_painter(found(saved(tmp_path, {"EMA_generator": more}, "more.pth")), CPU).generator, state())
    other = {**state(), "decoder.0.skip.resample_filter": torch.full((4, 4), 1 / 16)}
    with pytest.raises(ModelError, match=r"decoder\.0\.skip\.resample_filter is not the filter"):
        open_painter(found(saved(tmp_path, {"EMA_generator": other}, "box.pth")), CPU)


def test_the_first_mismatch_is_named(tmp_path: Path) -> None:
    names = list(state())
    lost = {name: tensor for name, tensor in state().items() if name != "unet_block1.weight"}
    with pytest.raises(ModelError, match=r"missing: unet_block1\.weight"):
        open_painter(found(saved(tmp_path, {"EMA_generator": lost}, "lost.pth")), CPU)
    half = {name: state()[name] for name in names[: len(names) // 2]}
    with pytest.raises(ModelError, match=r"missing: .* more\)"):
        open_painter(found(saved(tmp_path, {"EMA_generator": half}, "half.pth")), CPU)
    wide = {**state(), "from_rgb.weight": torch.zeros(5, 4, 1, 1)}
    with pytest.raises(ModelError, match=r"from_rgb.weight is \(5, 4, 1, 1\), the network has \(4, 4, 1, 1\)"):
        open_painter(found(saved(tmp_path, {"EMA_generator": wide}, "wide.pth")), CPU)
    more = {**state(), "decoder.9.noise": torch.zeros(1)}
    with pytest.raises(ModelError, match=r"unexpected: decoder\.9\.noise"):
        open_painter(found(saved(tmp_path, {"EMA_generator": more}, "noise.pth")), CPU)


def test_arguments_that_no_network_has_are_all_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"EMA_generator": state()})
    with pytest.raises(ModelError, match=r"'depth' is unknown.*'side' must be a whole number.*'window' must be"):
        open_painter(found(path, arguments={"depth": 3, "side": "16", "window": 9}), CPU)
    with pytest.raises(ModelError, match="side must be lowest times a power of 2"):
        open_painter(found(path, arguments={**ARGUMENTS, "side": 20}), CPU)


def test_a_file_is_opened_once_per_process(tmp_path: Path) -> None:
    here = found(saved(tmp_path, {"EMA_generator": state()}))
    assert open_painter(here, CPU) is open_painter(here, CPU)
    other = found(saved(tmp_path, {"EMA_generator": state(4)}))
    assert same(open_painter(other, CPU).generator, state(4))
