"""LPIPS with backbone weights from a local file: never downloaded, never untrained."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raysweep.errors import ModelError
from raysweep.models.loading import read_state
from raysweep.schema import FloatArray

if TYPE_CHECKING:
    import torch

    from raysweep.models.zoo import Zoo

__all__ = ["LpipsMetric", "load_perceptual", "map_backbone"]

MIN_SIDE = 64
"""Below this the deepest maps of the backbone are a few pixels and the distance means nothing."""
CHUNK = 32


def map_backbone(
    state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], where: str
) -> dict[str, torch.Tensor]:
    """Names of a torchvision classifier -> names of the lpips trunk.

    lpips cuts `features` into slices and keeps the number of each layer: `features.3.weight` is `slice2.3.weight`.

    Args:
        state: torchvision state dict (its `classifier` is left out).
        wanted: state dict of the trunk.
        where: for the message.

    Raises:
        ModelError: names the first layer that is missing or of another shape.
    """
    mapped = {}
    for name, tensor in wanted.items():
        source = re.sub(r"^slice\d+\.", "features.", name)
        if source not in state:
            raise ModelError(f"{where}: not the backbone it is named for: {source} is missing")
        if state[source].shape != tensor.shape:
            raise ModelError(
                f"{where}: not the backbone it is named for: {source} is {tuple(state[source].shape)}, wanted {tuple(tensor.shape)}"
            )
        mapped[name] = state[source].float()
    return mapped


class LpipsMetric:
    """Learned perceptual distance (Zhang et al., arXiv 1801.03924, version 0.1): 0 for equal images, larger for less alike.

    Args:
        backbone: torchvision weights of the trunk.
        device: where to compute.
        net: `alex`, `squeeze` or `vgg`; values of different nets are not comparable.

    Raises:
        ModelError: the file holds other weights.
    """

    higher_is_better = False

    def __init__(self, backbone: Path, device: str | torch.device = "cpu", net: str = "alex") -> None:
        import lpips
        import torch

        self.name = f"lpips_{net}"
        self.device = torch.device(device)
        state, _ = read_state(backbone)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            # The random trunk is overwritten below, every tensor of it; its draws must not disturb the caller's.
            with torch.random.fork_rng(devices=[]):
                network: Any = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        network.net.load_state_dict(map_backbone(state, network.net.state_dict(), str(backbone)), strict=True)
        heads = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
        linear, _ = read_state(heads)
        lacking, surplus = network.load_state_dict(linear, strict=False)
        known = {f"lin{index}.model.1.weight" for index in range(network.L)}
        # `lins` lists the same layers again, and the trunk and its scaling are set already.
        untouched = [
            name for name in lacking if name.startswith("lin") and not name.startswith("lins.") and name not in linear
        ]
        if untouched or surplus or not known <= linear.keys():
            raise ModelError(
                f"{heads}: the linear layers of lpips do not fit this version of the package; install lpips again"
            )
        self._network = network.to(self.device).eval().requires_grad_(False)

    def __call__(self, clear: torch.Tensor, other: torch.Tensor) -> FloatArray:
        """Distance of each pair.

        Args:
            clear, other: (n, 3, S, S) RGB, uint8 0 to 255 (or float in [0, 1]), S at least 64.

        Returns:
            (n,) float32.

        Raises:
            ValueError: shapes differ or the side is below 64.
        """
        import torch

        if clear.shape != other.shape or clear.ndim != 4 or min(clear.shape[-2:]) < MIN_SIDE:
            raise ValueError(
                f"LPIPS needs two (n, 3, S, S) with S >= {MIN_SIDE}, given {tuple(clear.shape)} and {tuple(other.shape)}"
            )
        parts = [np.zeros(0, np.float32)]
        with torch.inference_mode():
            for start in range(0, len(clear), CHUNK):
                pair = [scale(side[start : start + CHUNK].to(self.device)) for side in (clear, other)]
                parts.append(self._network(*pair).flatten().float().cpu().numpy())
        return np.concatenate(parts)


def scale(images: torch.Tensor) -> torch.Tensor:
    """uint8, or float in [0, 1] -> float32 in [-1, 1], which LPIPS was calibrated on."""
    values = images.float()
    return values * 2 - 1 if images.is_floating_point() else values / 127.5 - 1


def load_perceptual(zoo: Zoo, device: str | torch.device = "cpu", net: str = "alex") -> LpipsMetric | str:
    """LPIPS, or the reason why it is undefined.

    Raises:
        ModelError: the backbone's file is there but holds other weights.
    """
    found = zoo.perceptual(net)
    if found is None:
        entry = next((item for item in zoo.entries if item.task == "perceptual" and item.family == net), None)
        if entry is None:
            return f"LPIPS undefined: unknown backbone {net!r}"
        return f"LPIPS undefined: {net} backbone not found, put {entry.file} into {zoo.source} ({entry.where})"
    return LpipsMetric(found.path, device, net)
