"""The generator against the published implementation: outputs stored in `deepprivacy2.golden.npz`, weights from a recipe, no third party's weights."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raysweep.anonymizers.deepprivacy2.network import FDF128, Conv, Generator

HERE = Path(__file__).resolve().parent
TOLERANCE = 5e-4
MEAN_TOLERANCE = 2e-5
SEED = 20240601

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_recipe", HERE / "golden_recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(HERE / "deepprivacy2.golden.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def weights(recipe: ModuleType, golden: Any) -> Tensors:
    manifest = recipe.load_manifest(HERE / "deepprivacy2.manifest.json")
    state = recipe.golden_state_dict(manifest, SEED)
    assert recipe.weights_digest(manifest, state) == str(golden["weights_digest"])
    return dict(recipe.to_torch(state))


@pytest.fixture(scope="module")
def inputs(recipe: ModuleType, golden: Any) -> Tensors:
    arrays = recipe.golden_input("deepprivacy2", SEED)
    assert recipe.inputs_digest(arrays) == str(golden["inputs_digest"])
    return dict(recipe.to_torch(arrays))


@pytest.fixture
def generator(weights: Tensors) -> Generator:
    network = Generator()
    network.load_state_dict(weights, strict=True)
    return network.eval()


def paint(network: Generator, inputs: Tensors, rows: int = 2, **style: float) -> torch.Tensor:
    with torch.no_grad():
        w = network.style(inputs["z"][:rows], **style)
        return network(inputs["condition"][:rows], inputs["mask"][:rows], w)


def apart(ours: torch.Tensor, expected: Any) -> tuple[float, float]:
    """Largest and mean absolute difference."""
    difference = np.abs(ours.numpy() - expected[: len(ours)])
    return float(difference.max()), float(difference.mean())


def test_the_state_dict_is_the_published_one(weights: Tensors) -> None:
    network = Generator()
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert len(ours) == 147
    assert sum(parameter.numel() for parameter in network.parameters()) == 43_131_523


def test_the_variant_for_128_pixels() -> None:
    """Base width 128, at most four times as many channels, innermost side 8."""
    network = Generator(FDF128)
    wide = [block.conv0.weight.shape[:2] for block in network.encoder]
    assert wide == [(256, 128), (512, 256), (512, 512), (512, 512), (512, 512)]
    assert [block.conv1.weight.shape[0] for block in network.decoder] == [512, 512, 512, 256, 128]


def test_output_and_every_stage(generator: Generator, inputs: Tensors, golden: Any, recipe: ModuleType) -> None:
    seen: Tensors = {}
    for name, module in generator.named_modules():
        if f"tap/{name}" in golden:
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    most, mean = apart(paint(generator, inputs), golden["out"])
    assert most <= TOLERANCE
    assert mean <= MEAN_TOLERANCE
    assert {f"tap/{name}" for name in seen} == {name for name in golden if name.startswith("tap/")}
    for name, out in seen.items():
        assert np.abs(recipe.tap(out.numpy()) - golden[f"tap/{name}"]).max() <= TOLERANCE, name


@pytest.mark.slow
def test_style_and_its_truncation(generator: Generator, inputs: Tensors, golden: Any) -> None:
    with torch.no_grad():
        assert apart(generator.style(inputs["z"]), golden["w"])[0] <= TOLERANCE
    for truncation, name in ((0.0, "out_trunc0_s4"), (0.5, "out_trunc05_s4")):
        out = paint(generator, inputs, rows=1, truncation=truncation)[:, :, ::4, ::4]
        assert apart(out, golden[name])[0] <= TOLERANCE, name


def clamp_probe(network: Generator, inputs: Tensors) -> torch.Tensor:
    loud = {"condition": inputs["condition"] * 1000, "mask": torch.zeros_like(inputs["mask"]), "z": inputs["z"]}
    return paint(network, loud, rows=1)[:, :, ::8, ::8]


@pytest.mark.slow
def test_the_clamp_is_where_it_was(generator: Generator, inputs: Tensors, golden: Any) -> None:
    assert apart(clamp_probe(generator, inputs), golden["out_clamp_probe_s8"])[0] <= TOLERANCE
    for module in generator.modules():
        if isinstance(module, Conv):
            module.clamp = None
    assert apart(clamp_probe(generator, inputs), golden["out_clamp_probe_s8"])[0] > 1.0


@pytest.mark.slow
def test_half_precision(generator: Generator, inputs: Tensors, golden: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands and results of all products rounded to half, as on a tensor core: what `precision=float16` is said to cost."""

    def rounded(x: torch.Tensor | None) -> torch.Tensor | None:
        return None if x is None else x.half().float()

    for name in ("conv2d", "conv_transpose2d", "linear"):
        exact = getattr(F, name)

        def half(x: Any, weight: Any, bias: Any = None, exact: Any = exact, **how: Any) -> Any:
            return rounded(exact(rounded(x), rounded(weight), rounded(bias), **how))

        monkeypatch.setattr(F, name, half)
    most, mean = apart(paint(generator, inputs, rows=1), golden["out"])
    assert TOLERANCE < most < 0.01
    assert mean < 0.001


# ---------------------------------------------------------------- a mistake anywhere shows
def flip_an_up_kernel(network: Generator) -> None:
    conv = network.decoder[2].conv1
    conv.weight.copy_(conv.weight.flip(2, 3))


def drop_a_norm(network: Generator) -> None:
    network.decoder[3].conv0.norm = False


def drop_a_norm_of_a_skip(network: Generator) -> None:
    network.get_submodule("unet_block3").norm = False


def change_a_slope(network: Generator) -> None:
    conv = network.encoder[2].conv0
    conv.activate = False
    conv.register_forward_hook(lambda _, __, out: F.leaky_relu(out, 0.1) * math.sqrt(2.0))


def change_a_gain(network: Generator) -> None:
    network.get_submodule("unet_block2").gain = math.sqrt(1 / 2)


def change_the_gain_of_a_block(network: Generator) -> None:
    network.decoder[4].conv1.gain = math.sqrt(1 / 2)


def activate_a_skip(network: Generator) -> None:
    network.decoder[1].skip.activate = True


def filter_with_a_box(network: Generator) -> None:
    network.encoder[3].conv0.resample_filter.fill_(1 / 16)


def forget_a_shift(network: Generator) -> None:
    network.decoder[1].conv0.affine_beta.weight.zero_()


def change_an_epsilon(network: Generator) -> None:
    for module in network.modules():
        if isinstance(module, Conv):
            module.epsilon = 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake",
    [
        flip_an_up_kernel,
        drop_a_norm,
        drop_a_norm_of_a_skip,
        change_a_slope,
        change_a_gain,
        change_the_gain_of_a_block,
        activate_a_skip,
        filter_with_a_box,
        forget_a_shift,
        change_an_epsilon,
    ],
)
def test_any_mistake_shows(
    mistake: Callable[[Generator], None], generator: Generator, inputs: Tensors, golden: Any
) -> None:
    with torch.no_grad():
        mistake(generator)
    assert apart(paint(generator, inputs, rows=1), golden["out"])[0] > 5 * TOLERANCE
