"""The two networks of GANonymization: the U-Net generator and the patch discriminator of pix2pix, of any width and depth.

Hellmann et al., "GANonymization", ACM TOMM 2024, arXiv 2305.02143; Isola et al., "Image-to-image translation with conditional
adversarial networks", CVPR 2017, arXiv 1611.07004. `Generator()` is the published network (54,404,099 parameters) and takes its state
dict: `downK.model.0.weight`, `upK.model.0.weight`, `final.2.weight`, `final.2.bias`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Discriminator", "Generator", "build"]

Network = TypeVar("Network", bound=nn.Module)

PUBLISHED_WIDTH = 64
PUBLISHED_HALVINGS = 8


class _Down(nn.Module):
    """Halve the side: convolution 4 x 4 without bias, [instance norm], leaky ReLU 0.2, [dropout]."""

    def __init__(self, inputs: int, outputs: int, norm: bool, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)]
        if norm:
            layers.append(nn.InstanceNorm2d(outputs))
        layers.append(nn.LeakyReLU(0.2))
        if dropout:
            layers.append(nn.Dropout(dropout))
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.model(x)
        return out


class _Up(nn.Module):
    """Double the side: transposed convolution without bias, instance norm, ReLU, [dropout]; then append the skip connection."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
            nn.InstanceNorm2d(outputs),
            nn.ReLU(),
        ]
        if dropout:
            layers.append(nn.Dropout(dropout))
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.model(x), skip], dim=1)


class _Paint(nn.Conv2d):
    """Nearest upsampling by 2, zero padding (left 1, top 1), convolution 4 x 4 with padding 1: as one 3 x 3 convolution before upsampling.

    Each 4 x 4 window of the upsampled picture shows only 2 or 3 different pixels per axis, so its weights can be added up beforehand, for
    the even and the odd output pixels apart. The numbers are the same up to rounding, at half the work and without the large picture.
    """

    fold: torch.Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4)
        even = [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
        odd = [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
        self.register_buffer("fold", torch.tensor([even, odd], dtype=torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.einsum("apr,bqs,oirs->oabipq", self.fold, self.fold, self.weight)
        folded = F.conv2d(x, weight.reshape(4 * self.out_channels, self.in_channels, 3, 3), padding=1)
        picture = F.pixel_shuffle(folded, 2)
        return picture if self.bias is None else picture + self.bias[None, :, None, None]


class Generator(nn.Module):
    """The U-Net. Fully convolutional: any side that is a multiple of 2 ** halvings.

    Args:
        inputs: channels of the condition; 3 in the published network.
        width: channels after the first block, 64 published; later blocks have 2, 4 and then 8 times as many.
        halvings: blocks of each kind, 8 published (so that 256 pixels shrink to one).

    Raises:
        ValueError: fewer than 2 halvings.
    """

    def __init__(self, inputs: int = 3, width: int = PUBLISHED_WIDTH, halvings: int = PUBLISHED_HALVINGS) -> None:
        super().__init__()
        if halvings < 2:
            raise ValueError(f"a generator needs at least 2 halvings, not {halvings}")
        self.halvings = halvings
        channels = [inputs] + [width * min(2**level, 8) for level in range(halvings)]
        for level in range(1, halvings + 1):
            norm = level not in (1, halvings)
            self.add_module(f"down{level}", _Down(channels[level - 1], channels[level], norm, _dropout(level)))
        below = channels[halvings]
        for number, level in enumerate(range(halvings - 1, 0, -1), start=1):
            self.add_module(f"up{number}", _Up(below, channels[level], _dropout(level)))
            below = 2 * channels[level]
        self.final = nn.ModuleDict({"2": _Paint(below, 3)})

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """(n, inputs, H, W) float in [-1, 1] -> face (n, 3, H, W) float in [-1, 1].

        Raises:
            ValueError: a side is no multiple of 2 ** halvings.
        """
        step = 2**self.halvings
        if condition.shape[-1] % step or condition.shape[-2] % step:
            raise ValueError(f"sides {tuple(condition.shape[-2:])} must be multiples of {step}")
        skips = []
        x = condition
        for level in range(1, self.halvings + 1):
            x = self.get_submodule(f"down{level}")(x)
            skips.append(x)
        for number in range(1, self.halvings):
            x = self.get_submodule(f"up{number}")(x, skips[-1 - number])
        return torch.tanh(self.final["2"](x))


def _dropout(level: int) -> float:
    """Half of the units from the fourth halving on, on the way down as on the way up."""
    return 0.5 if level >= 4 else 0.0


class Discriminator(nn.Module):
    """PatchGAN: tells for each patch whether the face belongs to the condition.

    Args:
        inputs: channels of the face and of the condition together; 6 published.
        width: channels after the first convolution; 64 published.
    """

    def __init__(self, inputs: int = 6, width: int = PUBLISHED_WIDTH) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for factor in (1, 2, 4):
            layers += [
                nn.Conv2d(factor * width, 2 * factor * width, 4, stride=2, padding=1),
                nn.InstanceNorm2d(2 * factor * width),
                nn.LeakyReLU(0.2),
            ]
        layers += [nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(8 * width, 1, 4, padding=1, bias=False)]
        self.model = nn.Sequential(*layers)

    def forward(self, face: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) and (n, inputs - 3, H, W) -> (n, 1, H / 16, W / 16), near 1 for real."""
        verdict: torch.Tensor = self.model(torch.cat([face, condition], dim=1))
        return verdict


def build(make: Callable[[], Network], random: torch.Generator | None = None) -> Network:
    """Make a network without touching the global random state, and draw its weights as published.

    Every (transposed) convolution's weight comes from N(0, 0.02); biases are 0 (published: torch's default).

    Args:
        make: makes the network, on the CPU.
        random: the random numbers; None leaves the weights to whoever loads them.
    """
    # torch fills new layers with numbers from the global state, which is not ours to move on.
    with torch.random.fork_rng(devices=[]):
        network = make()
    if random is not None:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02, generator=random)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return network
