"""Torch networks whose published weights we can load: name -> untrained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from raysweep.errors import ModelError, nearest
from raysweep.models.small import ARCHITECTURES as SMALL
from raysweep.models.small import build_small

__all__ = ["MobileFaceNet", "build", "known_architectures", "with_features"]


def _convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            _convolution(inputs, inner),
            _convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x)
        return x + out if self.shortcut else out


class _Separable(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn2(self.pointwise(torch.relu(self.bn1(self.depthwise(x))))))


class _GlobalDepthwise(nn.Module):
    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, side, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.bn(self.depthwise(x))
        return out


class MobileFaceNet(nn.Module):
    """MobileFaceNet (arXiv 1804.07573, table 1) with the names of the public state dict of foamliu: (n, 3, 112, 112) -> (n, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 64, 3, stride=2)
        self.dw_conv = _Separable(64)
        blocks: list[nn.Module] = []
        inputs = 64
        for expansion, outputs, count, stride in (
            (2, 64, 5, 2),
            (4, 128, 1, 2),
            (2, 128, 6, 1),
            (4, 128, 1, 2),
            (2, 128, 2, 1),
        ):
            for index in range(count):
                blocks.append(_Bottleneck(inputs, outputs, expansion, stride if index == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*blocks)
        self.conv2 = _convolution(inputs, 512)
        self.gdconv = _GlobalDepthwise(512, 7)
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm2d(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised crops -> embedding, not yet of unit length."""
        x = self.gdconv(self.conv2(self.features(self.dw_conv(self.conv1(x)))))
        out: torch.Tensor = self.bn(self.conv3(x)).flatten(1)
        return out


def _resnet18(classes: int = 7) -> nn.Module:
    from torchvision.models import resnet18

    network: nn.Module = resnet18(weights=None, num_classes=classes)
    return network


_BUILDERS: dict[str, Callable[..., nn.Module]] = {"mobilefacenet": MobileFaceNet, "resnet18-7": _resnet18}


def known_architectures() -> list[str]:
    """Names that `build` knows."""
    return [*SMALL, *_BUILDERS]


def build(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    """An untrained network in evaluation mode.

    Raises:
        ModelError: unknown architecture, or arguments it does not take.
    """
    if architecture in SMALL:
        return build_small(architecture, arguments)
    if architecture not in _BUILDERS:
        known = known_architectures()
        raise ModelError(
            f"unknown architecture {architecture!r}{nearest(architecture, known)}; known: {', '.join(known)}"
        )
    try:
        return _BUILDERS[architecture](**arguments).eval()
    except TypeError as error:
        raise ModelError(f"{architecture} cannot be built with {dict(arguments)}: {error}") from error


def with_features(network: nn.Module) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """x -> (output, what the last linear layer saw), in one pass and with gradients.

    Raises:
        ModelError: the network has no linear layer.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ModelError(f"{type(network).__name__} has no linear layer whose input could serve as features")
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0])

    linear[-1].register_forward_pre_hook(keep)

    def call(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.clear()
        output: torch.Tensor = network(x)
        return output, seen.pop()

    return call
