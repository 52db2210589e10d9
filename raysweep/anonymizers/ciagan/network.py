"""The three networks of CIAGAN: generator, critic, and the siamese network that tells who is shown.

Maximov, Elezi, Leal-Taixe, "CIAGAN: Conditional Identity Anonymization Generative Adversarial Networks", CVPR 2020, arXiv 2005.09544.
`Generator()` is the published network (11,801,123 parameters) and takes its state dict of 248 tensors, spectral norm in three of them
(`weight_orig`, `weight_u`, `weight_v`) per convolution. `fold` turns those into plain convolutions for use.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["CLASSES", "SIDES", "Critic", "Generator", "Siamese", "SpectralConv", "build", "fold"]

Network = TypeVar("Network", bound=nn.Module)

CLASSES = 1200
"""Target identities of the published network."""

SIDES = (64, 128)
"""Sides of the pictures that the original has a generator for."""

CODE = 4
"""Side of the innermost picture, where the target identity comes in."""

EPSILON = 1e-12


class SpectralConv(nn.Module):
    """Reflection padding, then a convolution whose weight is divided by an estimate of its largest singular value.

    Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018, arXiv 1802.05957; tensors named and used as by
    `torch.nn.utils.spectral_norm`: sigma = u . (M v), M the weight as (out, in * k * k). Training mode refines u and v by one step of the
    power iteration before each use; evaluation takes them as stored.
    """

    weight_u: torch.Tensor
    weight_v: torch.Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.padding = kernel // 2
        plain = nn.Conv2d(inputs, outputs, kernel)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.weight_orig = nn.Parameter(plain.weight.detach().clone())
        self.register_buffer("weight_u", F.normalize(torch.ones(outputs), dim=0, eps=EPSILON))
        self.register_buffer("weight_v", F.normalize(torch.ones(inputs * kernel**2), dim=0, eps=EPSILON))

    def weight(self) -> torch.Tensor:
        """The normalised weight (out, in, k, k)."""
        matrix = self.weight_orig.flatten(1)
        if self.training:
            with torch.no_grad():
                self.weight_v.copy_(F.normalize(matrix.T.mv(self.weight_u), dim=0, eps=EPSILON))
                self.weight_u.copy_(F.normalize(matrix.mv(self.weight_v), dim=0, eps=EPSILON))
        # Copies: a later step moves the buffers on while this step's gradient still needs them.
        sigma = self.weight_u.clone().dot(matrix.mv(self.weight_v.clone()))
        return self.weight_orig / sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in, H, W) -> (n, out, H, W)."""
        return F.conv2d(_reflect(x, self.padding), self.weight(), self.bias)

    def folded(self) -> nn.Conv2d:
        """The same convolution with the norm multiplied out."""
        outputs, inputs, kernel, _ = self.weight_orig.shape
        with torch.random.fork_rng(devices=[]):
            plain = nn.Conv2d(inputs, outputs, kernel, padding=self.padding, padding_mode="reflect")
        with torch.no_grad():
            sigma = self.weight_u.dot(self.weight_orig.flatten(1).mv(self.weight_v))
            plain.weight.copy_(self.weight_orig / sigma)
            plain.bias.copy_(self.bias)  # type: ignore[union-attr]
        return plain.to(self.bias.device, self.bias.dtype)


def _reflect(x: torch.Tensor, padding: int) -> torch.Tensor:
    return F.pad(x, (padding,) * 4, mode="reflect") if padding else x


class _Conv(nn.Module):
    """One level of names, as published: `NAME.conv2d.weight_orig`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv2d: nn.Module = SpectralConv(inputs, outputs, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv2d(x)
        return out


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)


class _Down(nn.Module):
    """Halve the side: (ReLU, conv, ReLU, conv, mean of 2 x 2) plus (conv 1 x 1, mean of 2 x 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_r1 = _Conv(inputs, outputs)
        self.conv_r2 = _Conv(outputs, outputs)
        self.conv_l = _Conv(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right = self.conv_r2(F.relu(self.conv_r1(F.relu(x))))
        # Published: each branch is averaged and then added; the mean of the sum is the same with one pass less.
        out: torch.Tensor = F.avg_pool2d(right + self.conv_l(x), 2)
        return out


class _Up(nn.Module):
    """Double the side: (norm, ReLU, repeat, conv, norm, ReLU, conv) plus (repeat, conv 1 x 1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm_r1 = _norm(inputs)
        self.conv_r1 = _Conv(inputs, outputs)
        self.norm_r2 = _norm(outputs)
        self.conv_r2 = _Conv(outputs, outputs)
        self.conv_l = _Conv(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right = self.conv_r1(_twice(F.relu(self.norm_r1(x))))
        right = self.conv_r2(F.relu(self.norm_r2(right)))
        # Published: repeated, then convolved; a 1 x 1 convolution does not care, and has a quarter of the pixels before.
        out: torch.Tensor = right + _twice(self.conv_l(x))
        return out


def _twice(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class _Residual(nn.Module):
    """Conv, norm, ReLU, conv, norm, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _Conv(channels, channels)
        self.in1 = _norm(channels)
        self.conv2 = _Conv(channels, channels)
        self.in2 = _norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.in2(self.conv2(F.relu(self.in1(self.conv1(x)))))
        return out + x


class Generator(nn.Module):
    """Draws the face region for a target identity. No skip connections; the output is linear and meant for [0, 1].

    Args:
        classes: number of target identities; 1200 published.
        side: of the pictures, 64 or 128 (published).
        width: channels; 32 published, must be even for side 128.
        residuals: blocks in the middle; 4 published.

    Raises:
        ValueError: a side that the original has no generator for, or an odd width for 128 pixels.
    """

    def __init__(self, classes: int = CLASSES, side: int = 128, width: int = 32, residuals: int = 4) -> None:
        super().__init__()
        if side not in SIDES:
            raise ValueError(f"side {side}: there are generators for {' and '.join(map(str, SIDES))} pixels")
        if width % 2 and side == 128:
            raise ValueError(f"width {width}: must be even for 128 pixels, the last block halves it")
        self.classes: int = classes
        self.side: int = side
        self.width: int = width
        self.residuals: int = residuals
        self.levels = 5 if side == 128 else 4
        # Published order: conv0 and deconv0 exist for 128 pixels only.
        first = 5 - self.levels
        channels = [6, width, 2 * width, 4 * width, 8 * width, 8 * width]
        if first:
            channels[first] = 6
        inner = 8 * width
        for level in range(first, 5):
            self.add_module(f"conv{level}", _Down(channels[level], channels[level + 1]))
            self.add_module(f"in{level}_e", _norm(channels[level + 1]))
        self.embed = nn.Sequential(_Conv(2 * inner, inner), _norm(inner))
        for number in range(1, residuals + 1):
            self.add_module(f"res{number}", _Residual(inner))
        above = [width // 2, width, 2 * width, 4 * width, inner]
        below = inner
        for level in range(4, first - 1, -1):
            self.add_module(f"deconv{level}", _Up(below, above[level]))
            self.add_module(f"in{level}_d", _norm(above[level]))
            below = above[level]
        self.conv_end = nn.Sequential(nn.Conv2d(below, 3, 3, padding=1))
        sizes = [classes, inner, inner, inner, inner, 2 * inner, 2 * inner, 2 * inner]
        linear: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            linear += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.encode_one_hot = nn.Sequential(*linear)
        drawn: list[nn.Module] = []
        for before, after in ((width, 2 * width), (2 * width, 4 * width), (4 * width, inner)):
            drawn += [_Conv(before, after), _norm(after)]
        # Convolution, slope, norm: published names are 0, 2, 3, 5, 6, 8 with the slope between.
        self.encode_noise = nn.Sequential(
            *(
                layer
                for conv, norm in zip(drawn[::2], drawn[1::2], strict=True)
                for layer in (conv, nn.LeakyReLU(0.2), norm)
            )
        )

    def identity_code(self, target: torch.Tensor) -> torch.Tensor:
        """(n, classes) float -> (n, 8 * width, 4, 4): what the target adds in the middle."""
        code = self.encode_one_hot(target).view(-1, self.width, CODE, CODE)
        out: torch.Tensor = self.encode_noise(code)
        return out

    def forward(self, given: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Draw.

        Args:
            given: (n, 6, side, side) float in [0, 1]: landmark picture and blacked-out photograph, RGB each.
            target: (n, classes) float, one-hot; None leaves the identity out, and `embed` with it.

        Returns:
            (n, 3, side, side) float, about [0, 1], not clamped.

        Raises:
            ValueError: pictures of another side.
        """
        if given.shape[1:] != (6, self.side, self.side):
            raise ValueError(f"pictures {tuple(given.shape[1:])} where (6, {self.side}, {self.side}) is expected")
        return self.draw(given, None if target is None else self.identity_code(target))

    def draw(self, given: torch.Tensor, code: torch.Tensor | None) -> torch.Tensor:
        """As `forward`, with the `identity_code` of the targets, which can be kept and used again."""
        x = given
        for level in range(5 - self.levels, 5):
            x = self.get_submodule(f"in{level}_e")(self.get_submodule(f"conv{level}")(x))
        if code is not None:
            x = self.embed(torch.cat([x, code], dim=1))
        for number in range(1, self.residuals + 1):
            x = self.get_submodule(f"res{number}")(x)
        for level in range(4, 4 - self.levels, -1):
            x = self.get_submodule(f"in{level}_d")(self.get_submodule(f"deconv{level}")(x))
        out: torch.Tensor = self.conv_end(x)
        return out


class Critic(nn.Module):
    """Tells for a picture and its landmark picture whether the face is real.

    Args:
        side: of the pictures, 64 or 128.
        width: channels after the first block; 64 published.
    """

    def __init__(self, side: int = 128, width: int = 64) -> None:
        super().__init__()
        channels = [6, width, 2 * width, 4 * width, 8 * width, *([8 * width] if side == 128 else [])]
        self.blocks = nn.Sequential(*(_Down(a, b) for a, b in itertools.pairwise(channels)))
        self.score = nn.Sequential(
            nn.Linear(8 * width * CODE**2, 16 * width), nn.LeakyReLU(0.2), nn.Linear(16 * width, 1), nn.LeakyReLU(0.2)
        )

    def forward(self, picture: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) twice, in [0, 1] -> (n, 1), near 1 for real."""
        out: torch.Tensor = self.score(self.blocks(torch.cat([picture, landmarks], dim=1)).flatten(1))
        return out


class _Basic(nn.Module):
    """The basic block of a ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.right = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.left = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.right(x) + self.left(x))


class Siamese(nn.Module):
    """Who is shown, as a point: pictures of one person lie close, those of two at least the margin apart.

    A ResNet-18 with a 3 x 3 stem of stride 1 (He et al., CVPR 2016) and two linear layers.

    Args:
        dim: length of the point; 1200 published.
        width: channels of the stem; 64 published.
        pool: pixels averaged to one before anything else; 1 published.
    """

    def __init__(self, dim: int = CLASSES, width: int = 64, pool: int = 1) -> None:
        super().__init__()
        self.pool = pool
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
        for level in range(4):
            after = width * 2**level
            for stride in (1 if level == 0 else 2, 1):
                layers.append(_Basic(before, after, stride))
                before = after
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.point = nn.Sequential(nn.Linear(before, 2 * before), nn.ReLU(), nn.Linear(2 * before, dim))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W) in [0, 1] -> (n, dim)."""
        out: torch.Tensor = self.point(self.trunk(F.avg_pool2d(picture, self.pool) if self.pool > 1 else picture))
        return out


def build(make: Callable[[], Network], random: torch.Generator | None = None) -> Network:
    """Make a network without touching the global random state, and draw its weights as published.

    Convolutions: Xavier normal with bias 0.01; linear layers: torch's default; spectral norm: u and v random unit vectors, settled by 15 steps
    of the power iteration as `torch.nn.utils.spectral_norm` does.

    Args:
        make: makes the network, on the CPU.
        random: the random numbers; None leaves the weights to whoever loads them.
    """
    # torch fills new layers with numbers from the global state, which is not ours to move on.
    with torch.random.fork_rng(devices=[]):
        network = make()
    if random is not None:
        with torch.no_grad():
            for module in network.modules():
                _draw(module, random)
    return network


def _draw(module: nn.Module, random: torch.Generator) -> None:
    if isinstance(module, SpectralConv):
        nn.init.xavier_normal_(module.weight_orig, generator=random)
        nn.init.constant_(module.bias, 0.01)
        matrix = module.weight_orig.flatten(1)
        u = F.normalize(torch.randn(len(matrix), generator=random), dim=0, eps=EPSILON)
        for _ in range(15):
            v = F.normalize(matrix.T.mv(u), dim=0, eps=EPSILON)
            u = F.normalize(matrix.mv(v), dim=0, eps=EPSILON)
        module.weight_u.copy_(u)
        module.weight_v.copy_(v)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_normal_(module.weight, generator=random)
        if module.bias is not None:
            nn.init.constant_(module.bias, 0.01)
    elif isinstance(module, nn.Linear):
        bound = 1.0 / math.sqrt(module.in_features)
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=random)
        nn.init.uniform_(module.bias, -bound, bound, generator=random)


def fold(network: nn.Module) -> nn.Module:
    """Replace every spectrally normalised convolution of a network by the plain one it amounts to, in place; for evaluation only.

    Returns:
        the network, in evaluation mode.
    """
    holders: Sequence[nn.Module] = [module for module in network.modules() if isinstance(module, _Conv)]
    for holder in holders:
        inner = holder.conv2d
        if isinstance(inner, SpectralConv):
            holder.conv2d = inner.folded()
    return network.eval()
