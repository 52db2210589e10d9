"""The generator against the published implementation: outputs stored in `ganonymization.golden.npz`, weights from a recipe, no third party's weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raysweep.anonymizers.ganonymization.network import Discriminator, Generator

HERE = Path(__file__).resolve().parent
TOLERANCE = 2e-4
SEED = 20240601


@pytest.fixture(scope="module")
def recipe() -> Iterator[ModuleType]:
    sys.path.insert(0, str(HERE))
    import golden_recipe

    yield golden_recipe
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(HERE / "ganonymization.golden.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def weights(recipe: ModuleType, golden: Any) -> dict[str, torch.Tensor]:
    manifest = recipe.load_manifest(HERE / "ganonymization.manifest.json")
    state = recipe.golden_state_dict(manifest, SEED)
    assert recipe.weights_digest(manifest, state) == str(golden["weights_digest"])
    return dict(recipe.to_torch(state))


@pytest.fixture(scope="module")
def inputs(recipe: ModuleType, golden: Any) -> dict[str, torch.Tensor]:
    arrays = recipe.golden_input("ganonymization", SEED)
    assert recipe.inputs_digest(arrays) == str(golden["inputs_digest"])
    return dict(recipe.to_torch(arrays))


@pytest.fixture
def generator(weights: dict[str, torch.Tensor]) -> Generator:
    network = Generator()
    network.load_state_dict(weights, strict=True)
    return network.eval()


def difference(network: Generator, x: torch.Tensor, expected: Any) -> float:
    with torch.no_grad():
        return float(np.abs(network(x).numpy() - expected).max())


def test_the_state_dict_is_the_published_one(weights: dict[str, torch.Tensor]) -> None:
    network = Generator()
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert sum(parameter.numel() for parameter in network.parameters()) == 54_404_099


def test_the_discriminator_has_the_published_tensors() -> None:
    network = Discriminator()
    names = {f"model.{layer}.{kind}" for layer in (0, 2, 5, 8) for kind in ("weight", "bias")} | {"model.12.weight"}
    assert set(network.state_dict()) == names
    verdict = network(torch.zeros(2, 3, 64, 128), torch.zeros(2, 3, 64, 128))
    assert verdict.shape == (2, 1, 4, 8)


def test_output_at_256(generator: Generator, inputs: dict[str, torch.Tensor], golden: Any, recipe: ModuleType) -> None:
    seen: dict[str, torch.Tensor] = {}
    for name, block in generator.named_children():
        if name != "final":
            block.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    assert difference(generator, inputs["x256"], golden["x256_out"]) <= TOLERANCE
    for name, out in seen.items():
        assert np.abs(recipe.tap(out.numpy()) - golden[f"tap/{name}"]).max() <= 1e-3, name
    assert len(seen) == 15


@pytest.mark.slow
def test_output_at_512(generator: Generator, inputs: dict[str, torch.Tensor], golden: Any) -> None:
    with torch.no_grad():
        out = generator(inputs["x512"])[:, :, ::4, ::4].numpy()
    assert np.abs(out - golden["x512_out_s4"]).max() <= TOLERANCE


def flip_the_last_padding(network: Generator) -> None:
    # Zeros on the right and bottom in place of left and top: every window moves by one pixel, odd rows become the even ones.
    even = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    odd = [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    network.final["2"].fold.copy_(torch.tensor([even, odd]))


def drop_a_norm(network: Generator) -> None:
    network.get_submodule("up6").model[1] = nn.Identity()


def change_one_slope(network: Generator) -> None:
    network.get_submodule("down3").model[2] = nn.LeakyReLU(0.01)


def reflect_one_padding(network: Generator) -> None:
    network.get_submodule("down2").model[0].padding_mode = "reflect"
    network.get_submodule("down2").model[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]


def leave_dropout_on(network: Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train()


def change_epsilon(network: Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.eps = 1e-3


@pytest.mark.parametrize(
    "mistake",
    [flip_the_last_padding, drop_a_norm, change_one_slope, reflect_one_padding, leave_dropout_on, change_epsilon],
)
def test_any_mistake_shows(mistake: Any, generator: Generator, inputs: dict[str, torch.Tensor], golden: Any) -> None:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        mistake(generator)
        assert difference(generator, inputs["x256"], golden["x256_out"]) > 10 * TOLERANCE


def test_the_folded_last_layer_is_upsample_pad_convolve() -> None:
    network = Generator(width=8, halvings=3)
    paint = network.final["2"]
    x = torch.randn(2, 16, 9, 5)
    plain = nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(16, 3, 4, padding=1))
    with torch.no_grad():
        plain[2].weight.copy_(paint.weight)
        plain[2].bias.copy_(paint.bias)
        assert torch.allclose(paint(x), plain(x), atol=1e-5)
        wrong = nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d((0, 1, 0, 1)), plain[2])
        assert not torch.allclose(paint(x), wrong(x), atol=1e-2)
