from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from raysweep.errors import ModelError
from raysweep.models.perceptual import LpipsMetric, load_perceptual, scale
from raysweep.models.zoo import Found, Zoo, open_zoo


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the form of torchvision's file (its classifier, which LPIPS does not use, cut short)."""
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(value.shape, generator=generator) * 0.05
        for name, value in alexnet(weights=None).features.state_dict(prefix="features.").items()
    }
    path = tmp_path_factory.mktemp("lpips") / "alexnet.pth"
    torch.save(state | {"classifier.1.weight": torch.zeros(1)}, path)
    return path


def pictures(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 256, (2, n, 3, 64, 64), dtype=np.uint8)
    return torch.from_numpy(first), torch.from_numpy(second)


def lpips_by_hand(path: Path, clear: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    """Section 3 of arXiv 1801.03924 written out on torchvision's own network: the oracle."""
    import lpips

    network = alexnet(weights=None).features
    state = torch.load(path, weights_only=True)
    network.load_state_dict(
        {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
    )
    heads = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    spread = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

    def maps(image: torch.Tensor) -> list[torch.Tensor]:
        x, found = (image.float() / 127.5 - 1 - shift) / spread, []
        for index, layer in enumerate(network):
            x = layer(x)
            if index in (1, 4, 7, 9, 11):
                found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
                x = x.clone()
        return found

    with torch.no_grad():
        pairs = zip(maps(clear), maps(other), strict=True)
        terms = [((a - b) ** 2 * heads[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2)) for i, (a, b) in enumerate(pairs)]
    return torch.stack(terms).sum(0).numpy()


def test_every_weight_is_where_it_belongs(backbone: Path) -> None:
    clear, other = pictures()
    values = LpipsMetric(backbone)(clear, other)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, lpips_by_hand(backbone, clear, other), rtol=1e-4)
    assert (values > 0).all()


def test_equal_images_have_distance_zero(backbone: Path) -> None:
    clear, _ = pictures()
    np.testing.assert_array_equal(LpipsMetric(backbone)(clear, clear), 0)


def test_bytes_and_floats_give_the_same_distance(backbone: Path) -> None:
    clear, other = pictures()
    metric = LpipsMetric(backbone)
    np.testing.assert_allclose(metric(clear, other), metric(clear.float() / 255, other.float() / 255), rtol=1e-4)


def test_inputs_are_scaled_to_minus_one_to_one() -> None:
    assert scale(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]
    assert scale(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]


def test_the_random_state_is_left_alone(backbone: Path) -> None:
    torch.manual_seed(5)
    LpipsMetric(backbone)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("features.6.bias"), "features.6.bias is missing"),
        (
            lambda state: state.update({"features.0.weight": torch.zeros(64, 3, 3, 3)}),
            r"features.0.weight is \(64, 3, 3, 3\), wanted \(64, 3, 11, 11\)",
        ),
    ],
)
def test_other_weights_are_refused(
    backbone: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    state = torch.load(backbone, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=message):
        LpipsMetric(tmp_path / "other.pth")


def test_small_or_unequal_images_are_refused(backbone: Path) -> None:
    clear, other = pictures()
    metric = LpipsMetric(backbone)
    with pytest.raises(ValueError, match="S >= 64"):
        metric(clear[..., :32, :32], other[..., :32, :32])
    with pytest.raises(ValueError, match="LPIPS needs two"):
        metric(clear, other[:2])


def test_without_weights_there_is_a_reason_and_no_number(tmp_path: Path) -> None:
    reason = load_perceptual(open_zoo(tmp_path))
    assert isinstance(reason, str)
    assert reason.startswith("LPIPS undefined: alex backbone not found, put alexnet-owt-7be5be79.pth into ")


def test_the_zoo_finds_the_backbone(backbone: Path, make_found: Callable[..., Found]) -> None:
    item = make_found(backbone, task="perceptual", family="alex", format="torch-state-dict", architecture="alexnet")
    zoo = Zoo(backbone.parent, (item.entry,), {item.name: item})
    assert isinstance(load_perceptual(zoo), LpipsMetric)
    assert load_perceptual(zoo, net="vgg") == "LPIPS undefined: unknown backbone 'vgg'"
