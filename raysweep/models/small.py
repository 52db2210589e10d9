"""Compact convolutional networks for faces: the recognisers of the embedded default, and teachers of its losses.

Input of every network: float (n, 3, H, W) RGB in [-1, 1] (a byte b is (b - 127.5) / 127.5) of the ArcFace crop. The network averages
the pixels down to its own `side` first, so any H, W >= `side` will do and gradients reach every input pixel. No network keeps
state between calls; call `eval()` before judging with one (batch normalisation).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from raysweep.errors import ModelError, nearest
from raysweep.schema import EXPRESSIONS

__all__ = ["ARCHITECTURES", "SmallEmbedder", "SmallExpressionNet", "build_small", "load_small"]

Block = Literal["residual", "depthwise"]


def _convolution(inputs: int, outputs: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = _convolution(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = functional.relu(x + self.second(functional.relu(self.first(x))))
        return out


class _Depthwise(nn.Module):
    """Inverted residual of MobileNetV2 (arXiv 1801.04381), expansion 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = _convolution(channels, 2 * channels, kernel=1)
        self.space = _convolution(2 * channels, 2 * channels, groups=2 * channels)
        self.project = _convolution(2 * channels, channels, kernel=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.project(functional.relu(self.space(functional.relu(self.expand(x)))))
        return out


class _Trunk(nn.Module):
    """(n, 3, H, W) -> (n, 4 * width, side / 8, side / 8)."""

    def __init__(self, width: int, block: Block, side: int, depth: int) -> None:
        super().__init__()
        if side % 8:
            raise ModelError(f"side = {side}: must be a multiple of 8")
        kinds: dict[str, type[_Residual | _Depthwise]] = {"residual": _Residual, "depthwise": _Depthwise}
        if block not in kinds:
            raise ModelError(f"block = {block!r}: unknown{nearest(block, list(kinds))}; known: {', '.join(kinds)}")
        kind = kinds[block]
        self.side = side
        layers: list[nn.Module] = [_convolution(3, width, stride=2), nn.ReLU()]
        for inputs in (width, 2 * width):
            layers += [_convolution(inputs, 2 * inputs, stride=2), nn.ReLU()]
            layers += [kind(2 * inputs) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2:] != (self.side, self.side):
            x = functional.adaptive_avg_pool2d(x, self.side)
        out: torch.Tensor = self.layers(x)
        return out


class SmallEmbedder(nn.Module):
    """Identity embedding: a small trunk, one weight per position and channel (as in MobileFaceNets, arXiv 1804.07573), a projection.

    Args:
        dim: D, length of the embedding.
        width: channels after the first convolution; the trunk ends with four times as many.
        block: `residual` (two full convolutions) or `depthwise` (inverted residual, fewer weights).
        side: pixels the crop is averaged down to, a multiple of 8.
        depth: blocks per stage.

    Raises:
        ModelError: for a side or block that cannot be built.
    """

    def __init__(
        self, dim: int = 128, width: int = 24, block: Block = "residual", side: int = 56, depth: int = 1
    ) -> None:
        super().__init__()
        self.trunk = _Trunk(width, block, side, depth)
        self.place = nn.Sequential(
            nn.Conv2d(4 * width, 4 * width, side // 8, groups=4 * width, bias=False), nn.BatchNorm2d(4 * width)
        )
        self.project = nn.Sequential(nn.Linear(4 * width, dim, bias=False), nn.BatchNorm1d(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) float in [-1, 1] -> (n, D) float, L2-normalised."""
        embedding: torch.Tensor = self.project(self.place(self.trunk(x)).flatten(1))
        return functional.normalize(embedding, dim=1)


class SmallExpressionNet(nn.Module):
    """Seven expressions, in the order of `EXPRESSIONS`.

    Args:
        width, block, side, depth: as in `SmallEmbedder`.
        hidden: F, length of the features before the classifier.

    Raises:
        ModelError: for a side or block that cannot be built.
    """

    def __init__(
        self, width: int = 16, block: Block = "residual", side: int = 56, depth: int = 1, hidden: int = 64
    ) -> None:
        super().__init__()
        self.trunk = _Trunk(width, block, side, depth)
        self.place = nn.Sequential(
            nn.Conv2d(4 * width, 8 * width, side // 8, groups=4 * width, bias=False), nn.BatchNorm2d(8 * width)
        )
        self.hidden = nn.Linear(8 * width, hidden)
        self.classify = nn.Linear(hidden, len(EXPRESSIONS))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) float in [-1, 1] -> (n, F) float >= 0, what the classifier sees."""
        return functional.relu(self.hidden(functional.relu(self.place(self.trunk(x))).flatten(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) float in [-1, 1] -> (n, 7) logits."""
        logits: torch.Tensor = self.classify(self.features(x))
        return logits


ARCHITECTURES: dict[str, type[SmallEmbedder | SmallExpressionNet]] = {
    "small-embedder": SmallEmbedder,
    "small-expression": SmallExpressionNet,
}
"""What `build_small` can build."""


def build_small(architecture: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """An untrained network in evaluation mode.

    Args:
        architecture: a key of `ARCHITECTURES`.
        kwargs: arguments of its constructor.

    Raises:
        ModelError: unknown architecture or argument.
    """
    known = list(ARCHITECTURES)
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"unknown architecture {architecture!r}{nearest(architecture, known)}; known: {', '.join(known)}"
        )
    try:
        network = ARCHITECTURES[architecture](**kwargs)
    except TypeError as error:
        raise ModelError(f"{architecture} cannot be built with {dict(kwargs)}: {error}") from error
    return network.eval()


def load_small(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """A trained network in evaluation mode, float32 on the CPU, and the metadata of its file.

    Args:
        path: safetensors file whose header holds `architecture` and `kwargs` (JSON), as written by `raysweep.training.recognisers`.

    Raises:
        ModelError: the file is missing, damaged, or holds other weights.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            metadata: dict[str, str] = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors: {error}") from error
    if not {"architecture", "kwargs"} <= metadata.keys():
        raise ModelError(f"{path}: the header names no `architecture` and `kwargs`; train it again with this version")
    network = build_small(metadata["architecture"], json.loads(metadata["kwargs"]))
    try:
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except RuntimeError as error:
        raise ModelError(f"{path}: weights do not fit {metadata['architecture']}: {error}") from error
    return network, metadata
