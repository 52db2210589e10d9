"""The generator against the published implementation: outputs stored in `ciagan.golden.npz`, weights from a recipe, no third party's weights."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raysweep.anonymizers.ciagan.network import Critic, Generator, Siamese, SpectralConv, build, fold

HERE = Path(__file__).resolve().parent
TOLERANCE = 5e-4
MEAN_TOLERANCE = 5e-5
SEED = 20240601


@pytest.fixture(scope="module")
def recipe() -> Iterator[ModuleType]:
    sys.path.insert(0, str(HERE))
    import golden_recipe

    yield golden_recipe
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(HERE / "ciagan.golden.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def manifest(recipe: ModuleType) -> Any:
    return recipe.load_manifest(HERE / "ciagan.manifest.json")


@pytest.fixture(scope="module")
def weights(recipe: ModuleType, golden: Any, manifest: Any) -> dict[str, torch.Tensor]:
    state = recipe.golden_state_dict(manifest, SEED)
    assert recipe.weights_digest(manifest, state) == str(golden["weights_digest"])
    return dict(recipe.to_torch(state))


@pytest.fixture(scope="module")
def inputs(recipe: ModuleType, golden: Any) -> dict[str, torch.Tensor]:
    arrays = recipe.golden_input("ciagan", SEED)
    assert recipe.inputs_digest(arrays) == str(golden["inputs_digest"])
    return dict(recipe.to_torch(arrays))


@pytest.fixture(scope="module")
def loaded(weights: dict[str, torch.Tensor]) -> Generator:
    network = build(Generator)
    network.load_state_dict(weights, strict=True)
    return network.eval().requires_grad_(False)


@pytest.fixture
def generator(loaded: Generator) -> Generator:
    return copy.deepcopy(loaded)


def largest(network: Generator, inputs: dict[str, torch.Tensor], expected: Any) -> float:
    with torch.no_grad():
        return float(np.abs(network(inputs["x"], inputs["onehot"]).numpy() - expected).max())


def test_the_state_dict_is_the_published_one(manifest: Any) -> None:
    network = build(Generator)
    ours = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert ours == [(entry["name"], entry["shape"]) for entry in manifest["entries"]]
    assert len(ours) == 248
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_801_123


def test_output_and_every_stage(
    generator: Generator, inputs: dict[str, torch.Tensor], golden: Any, recipe: ModuleType
) -> None:
    seen: dict[str, torch.Tensor] = {}
    for name, block in generator.named_children():
        if name != "conv_end":
            block.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        out = generator(inputs["x"], inputs["onehot"]).numpy()
    assert np.abs(out - golden["out"]).max() <= TOLERANCE
    assert np.abs(out - golden["out"]).mean() <= MEAN_TOLERANCE
    assert {f"tap/{name}" for name in seen} == {name for name in golden if name.startswith("tap/")}
    for name, values in seen.items():
        assert np.abs(recipe.tap(values.numpy()) - golden[f"tap/{name}"]).max() <= TOLERANCE, name


def test_the_identities_exchanged_and_the_composite(
    generator: Generator, inputs: dict[str, torch.Tensor], golden: Any
) -> None:
    with torch.no_grad():
        swapped = generator(inputs["x"], inputs["onehot"].flip(0)).numpy()
        drawn = generator(inputs["x"], inputs["onehot"])
    assert np.abs(swapped[:, :, ::2, ::2] - golden["out_swapped_id_s2"]).max() <= TOLERANCE
    composite = (drawn * inputs["mask"] + inputs["face"] * (1 - inputs["mask"])).clamp(0, 1).numpy()
    assert np.abs(composite[:, :, ::2, ::2] - golden["composite_s2"]).max() <= TOLERANCE


def test_folding_the_norms_away_changes_nothing(
    generator: Generator, inputs: dict[str, torch.Tensor], golden: Any
) -> None:
    fold(generator)
    assert not any(isinstance(module, SpectralConv) for module in generator.modules())
    assert largest(generator, inputs, golden["out"]) <= TOLERANCE


def zero_one_padding(network: Generator) -> None:
    convolution = network.get_submodule("deconv0").conv_r1
    folded = convolution.conv2d.folded()
    folded.padding_mode = "zeros"
    convolution.conv2d = folded


def reflect_the_last_padding(network: Generator) -> None:
    network.conv_end[0].padding_mode = "reflect"


def true_sigma_in_one(network: Generator) -> None:
    # Not one that a norm follows: the norm would hide its scale.
    convolution = network.get_submodule("deconv1").conv_l.conv2d
    u, _, v = torch.linalg.svd(convolution.weight_orig.flatten(1), full_matrices=False)
    convolution.weight_u.copy_(u[:, 0])
    convolution.weight_v.copy_(v[0])


def power_iteration_on(network: Generator) -> None:
    for module in network.modules():
        if isinstance(module, SpectralConv):
            module.train()


def drop_a_norm(network: Generator) -> None:
    network.embed[1] = nn.Identity()


def forget_an_affine_norm(network: Generator) -> None:
    norm = network.get_submodule("in1_d")
    norm.weight.fill_(1.0)
    norm.bias.zero_()


def change_one_slope(network: Generator) -> None:
    network.encode_one_hot[5] = nn.LeakyReLU(0.01)


def norm_before_slope(network: Generator) -> None:
    layers = list(network.encode_noise)
    network.encode_noise = nn.Sequential(*(layers[k] for k in (0, 2, 1, 3, 5, 4, 6, 8, 7)))


def change_epsilon(network: Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.eps = 1e-3


def no_rectifier_in_front(network: Generator) -> None:
    block = network.get_submodule("conv2")
    block.forward = lambda x: F.avg_pool2d(block.conv_r2(F.relu(block.conv_r1(x))) + block.conv_l(x), 2)


@pytest.mark.parametrize(
    "mistake",
    [
        zero_one_padding,
        reflect_the_last_padding,
        true_sigma_in_one,
        power_iteration_on,
        drop_a_norm,
        forget_an_affine_norm,
        change_one_slope,
        norm_before_slope,
        change_epsilon,
        no_rectifier_in_front,
    ],
)
def test_any_mistake_shows(mistake: Any, generator: Generator, inputs: dict[str, torch.Tensor], golden: Any) -> None:
    with torch.no_grad():
        mistake(generator)
    assert largest(generator, inputs, golden["out"]) > 10 * TOLERANCE


def test_spectral_norm_is_that_of_torch() -> None:
    """The same tensors, the same outputs, gradients and moved-on vectors as `torch.nn.utils.spectral_norm`, in training and after."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = nn.utils.spectral_norm(nn.Conv2d(5, 7, 3))
        ours = SpectralConv(5, 7, 3)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(2, 5, 8, 8)
    for mode in (True, True, False):
        theirs.train(mode)
        ours.train(mode)
        expected, got = theirs(F.pad(x, (1, 1, 1, 1), mode="reflect")), ours(x)
        assert torch.allclose(got, expected, atol=1e-6)
        gradients = [
            torch.autograd.grad(out.square().sum(), list(net.parameters()))
            for out, net in ((expected, theirs), (got, ours))
        ]
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(*gradients, strict=True))
        assert torch.allclose(ours.weight_u, theirs.weight_u, atol=1e-6)
        assert torch.allclose(ours.weight_v, theirs.weight_v, atol=1e-6)


@pytest.mark.parametrize(("side", "width"), [(64, 5), (128, 6)])
def test_small_versions_draw(side: int, width: int) -> None:
    random = torch.Generator().manual_seed(0)
    before = torch.get_rng_state()
    network = build(lambda: Generator(classes=9, side=side, width=width), random).eval()
    critic = build(lambda: Critic(side, width=4), random).eval()
    siamese = build(lambda: Siamese(dim=12, width=4), random).eval()
    assert torch.equal(torch.get_rng_state(), before)
    given = torch.rand(2, 6, side, side, generator=random)
    with torch.no_grad():
        first = network(given, torch.eye(9)[[0, 1]])
        second = network(given, torch.eye(9)[[5, 1]])
        assert first.shape == (2, 3, side, side)
        assert (first[0] - second[0]).abs().max() > 1e-4, "the target matters"
        assert torch.equal(first[1], second[1])
        assert critic(first, given[:, :3]).shape == (2, 1)
        assert siamese(first).shape == (2, 12)
    assert ("conv0.conv_r1.conv2d.bias" in network.state_dict()) == (side == 128)


def test_pictures_of_another_side_are_refused() -> None:
    with pytest.raises(ValueError, match="96"):
        Generator(side=96)
    with pytest.raises(ValueError, match="64, 64"):
        build(lambda: Generator(classes=3, side=64, width=4))(torch.zeros(1, 6, 32, 32), None)
