"""The face generator of DeepPrivacy2: a U-Net whose decoder is steered by a style vector, of any side and width.

Hukkelas & Lindseth, "DeepPrivacy2: Towards Realistic Full-Body Anonymization", WACV 2023, arXiv 2211.09454; equalised layers, style and
resampling after Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, arXiv 1912.04958. Written from the
mathematics: a convolution's stored weight has unit scale and is divided by sqrt(fan-in) when used; the style acts on the *input* channels,
as a plain product and sum; there is no weight demodulation and no noise. `Generator()` is the published network for FDF256
(43,131,523 parameters) and takes its state dict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["FDF128", "FDF256", "Architecture", "Block", "Conv", "Dense", "Generator", "build"]

Network = TypeVar("Network", bound=nn.Module)
Resample = Literal["down", "up"] | None

SLOPE = 0.2
CLAMP = 256.0
TAPS = (1.0, 3.0, 3.0, 1.0)


@dataclass(frozen=True)
class Architecture:
    """What decides the shapes of a generator.

    Attributes:
        side: of the picture in pixels; a power of 2 times `lowest`.
        width: channels at full side.
        widest: channels double with each halving up to this many times `width`.
        lowest: side of the innermost features.
        latent: length of z and of w.

    Raises:
        ValueError: the side is not `lowest` times a power of 2, or something is not above 0.
    """

    side: int = 256
    width: int = 64
    widest: int = 8
    lowest: int = 8
    latent: int = 512

    def __post_init__(self) -> None:
        if min(self.side, self.width, self.widest, self.lowest, self.latent) < 1:
            raise ValueError(f"{self}: every number must be above 0")
        if self.lowest << (self.levels - 1) != self.side:
            raise ValueError(f"{self}: side must be lowest times a power of 2")

    @property
    def levels(self) -> int:
        """Blocks of the encoder, and of the decoder."""
        return max(self.side // self.lowest, 1).bit_length()

    def channels(self, level: int) -> int:
        """Channels after `level` blocks of the encoder."""
        return self.width * min(1 << level, self.widest)


FDF256 = Architecture()
"""The published network for 256 pixels."""

FDF128 = Architecture(side=128, width=128, widest=4)
"""The published network for 128 pixels."""


def resampling_filter() -> torch.Tensor:
    """(4, 4) float32, sum 1: the outer product of 1 3 3 1."""
    taps = torch.tensor(TAPS)
    filter_ = taps[:, None] * taps[None, :]
    return filter_ / filter_.sum()


def _lrelu(x: torch.Tensor) -> torch.Tensor:
    """Leaky ReLU that keeps the mean square: times sqrt 2."""
    return F.leaky_relu(x, SLOPE) * math.sqrt(2.0)


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate.

    Args:
        inputs, outputs: features.
        start: what the bias starts at.
        rate: learning rate relative to the other layers; stored weights are larger by its inverse.
        activate: leaky ReLU afterwards, else linear.
    """

    def __init__(
        self, inputs: int, outputs: int, start: float = 0.0, rate: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), start / rate))
        self.rate = rate
        self.activate = activate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs) -> (n, outputs)."""
        out = F.linear(x, self.weight * (self.rate / math.sqrt(self.weight.shape[1])), self.bias * self.rate)
        return _lrelu(out) if self.activate else out


class Conv(nn.Module):
    """[style], convolution with resampling, [instance norm], [bias], [leaky ReLU], gain, [clamp]: in this order.

    Args:
        inputs, outputs: channels.
        kernel: 1 or 3, padded with zeros to keep the side.
        resample: halve (`down`) or double (`up`) the side.
        style: length of w, 0 for none: each input channel is multiplied by one linear function of w and shifted by another.
        norm: instance norm without parameters.
        bias: has one.
        activate: leaky ReLU, else linear.
        gain: factor at the end.
        clamp: limit of the output's size before the gain; None for none.
    """

    resample_filter: torch.Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        resample: Resample = None,
        style: int = 0,
        norm: bool = False,
        bias: bool = True,
        activate: bool = True,
        gain: float = 1.0,
        clamp: float | None = CLAMP,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        if resample is not None:
            self.register_buffer("resample_filter", resampling_filter())
        if style:
            self.affine = Dense(style, inputs, start=1.0)
            self.affine_beta = Dense(style, inputs)
        self.resample = resample
        self.styled = style > 0
        self.norm = norm
        self.activate = activate
        self.gain = gain
        self.clamp = clamp
        self.epsilon = 1e-5

    def forward(self, x: torch.Tensor, w: torch.Tensor | None = None) -> torch.Tensor:
        """(n, inputs, H, W), and (n, style) when styled -> (n, outputs, H', W')."""
        if self.styled:
            if w is None:
                raise ValueError("a styled convolution needs a style vector")
            gamma, beta = self.affine(w), self.affine_beta(w)
            x = x * gamma[:, :, None, None] + beta[:, :, None, None]
        x = self._convolve(x, self.weight / math.sqrt(self.weight[0].numel()))
        if self.norm:
            x = F.instance_norm(x, eps=self.epsilon)
        if self.bias is not None:
            x = x + self.bias[:, None, None]
        if self.activate:
            x = _lrelu(x)
        if self.gain != 1.0:
            x = x * self.gain
        return x if self.clamp is None else x.clamp(-self.clamp * self.gain, self.clamp * self.gain)

    def _convolve(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wide = weight.shape[-1] > 1
        match self.resample:
            case "down" if wide:
                return F.conv2d(self._filter(x, padding=2), weight, stride=2)
            case "down":
                return F.conv2d(self._filter(x, padding=1, stride=2), weight)
            case "up" if wide:
                # The transposed convolution leaves one row and column too many; padding 1 before a filter of 4 takes them off.
                return self._filter(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4.0)
            case "up":
                return self._spread(F.conv2d(x, weight))
            case _:
                return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def _filter(self, x: torch.Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> torch.Tensor:
        """Each channel with the 4 x 4 filter, zeros around."""
        return F.conv2d(x, self._kernels(x, gain), stride=stride, padding=padding, groups=x.shape[1])

    def _spread(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels to the even places of a picture twice as large, 2 zeros before and 1 after, then the filter times 4; in one step.

        The filter is symmetric, so that the transposed convolution does not flip it.
        """
        return F.conv_transpose2d(x, self._kernels(x, 4.0), stride=2, padding=1, groups=x.shape[1])

    def _kernels(self, x: torch.Tensor, gain: float) -> torch.Tensor:
        return (self.resample_filter * gain).to(x.dtype).expand(x.shape[1], 1, -1, -1)


class Block(nn.Module):
    """Residual block: a linear 1 x 1 skip plus two 3 x 3 convolutions; the first takes the halving, the second the doubling.

    Args:
        gain: of both branches, so that their sum keeps its scale.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        gain: float,
        *,
        down: bool = False,
        up: bool = False,
        style: int = 0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        halve: Resample = "down" if down else None
        double: Resample = "up" if up else None
        self.conv0 = Conv(inputs, outputs, 3, resample=halve, style=style, norm=norm)
        self.conv1 = Conv(outputs, outputs, 3, resample=double, style=style, norm=norm, gain=gain)
        self.skip = Conv(
            inputs, outputs, 1, resample=halve or double, bias=False, activate=False, gain=gain, clamp=None
        )

    def forward(self, x: torch.Tensor, w: torch.Tensor | None = None) -> torch.Tensor:
        """(n, inputs, H, W) -> (n, outputs, H', W')."""
        out: torch.Tensor = self.skip(x) + self.conv1(self.conv0(x, w), w)
        return out


class _Style(nn.Module):
    """z -> w: normalise, then two layers; and where w is drawn to."""

    w_avg: torch.Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.register_buffer("w_avg", torch.zeros(latent))
        self.fc0 = Dense(latent, latent, rate=0.01, activate=True)
        self.fc1 = Dense(latent, latent, rate=0.01, activate=True)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(n, latent) -> (n, latent)."""
        z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        w: torch.Tensor = self.fc1(self.fc0(z))
        return w


class Generator(nn.Module):
    """Paints what a mask leaves open into a picture.

    Args:
        architecture: `FDF256`, `FDF128` or one of your own.
    """

    def __init__(self, architecture: Architecture = FDF256) -> None:
        super().__init__()
        self.architecture = architecture
        levels, latent = architecture.levels, architecture.latent
        down, up = math.sqrt(1 / 2), math.sqrt(1 / 3)
        wide = [architecture.channels(level) for level in range(levels + 1)]
        self.style_net = _Style(latent)
        self.from_rgb = Conv(4, wide[0], 1, clamp=None)
        self.encoder = nn.ModuleList(
            Block(wide[level], wide[level + 1], down, down=level > 0) for level in range(levels)
        )
        self.decoder = nn.ModuleList(
            Block(wide[level + 1], wide[level], up, up=level > 0, style=latent, norm=True)
            for level in reversed(range(levels))
        )
        for number in range(1, levels):
            channels = wide[levels - number]
            self.add_module(f"unet_block{number}", Conv(channels, channels, 1, norm=True, gain=up))
        self.to_rgb = Conv(wide[0], 3, 1, activate=False)

    def style(self, z: torch.Tensor, truncation: float = 1.0, centre: torch.Tensor | None = None) -> torch.Tensor:
        """The style vector of a latent, drawn towards a centre.

        Args:
            z: (n, latent) float32, standard normal.
            truncation: 0 to 1; 0 gives the centre for every z, 1 leaves w alone.
            centre: (latent,) or (n, latent); None for the mean style of the training.

        Returns:
            (n, latent).
        """
        w: torch.Tensor = self.style_net(z)
        towards = self.style_net.w_avg if centre is None else centre
        return w if truncation == 1.0 else towards + truncation * (w - towards)

    def forward(self, condition: torch.Tensor, mask: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Paint.

        Args:
            condition: (n, 3, side, side) float, the picture in [-1, 1] with 0 where the mask is 0.
            mask: (n, 1, side, side) float, 1 keeps a pixel, 0 paints it.
            w: (n, latent) style vectors.

        Returns:
            (n, 3, side, side), equal to the condition where the mask is 1; elsewhere not limited to [-1, 1].

        Raises:
            ValueError: the pictures have another side.
        """
        side = self.architecture.side
        if condition.shape[-2:] != (side, side):
            raise ValueError(f"pictures of {tuple(condition.shape[-2:])} pixels; this generator paints {side} x {side}")
        x = self.from_rgb(torch.cat([condition, mask], dim=1))
        features = []
        for block in self.encoder:
            x = block(x)
            features.append(x)
        for number, block in enumerate(self.decoder):
            if number:
                x = x + self.get_submodule(f"unet_block{number}")(features[-1 - number])
            x = block(x, w)
        painted: torch.Tensor = self.to_rgb(x)
        return condition * mask + (1.0 - mask) * painted


def build(make: Callable[[], Network], random: torch.Generator | None = None) -> Network:
    """Make a network and draw its weights as published, leaving the global random state alone.

    Weights come from N(0, 1), those of the style net from N(0, 100), each at the scale it is stored in; biases keep what they start at.

    Args:
        make: makes the network, on the CPU.
        random: the random numbers; None leaves the weights (zeros) to whoever loads them.
    """
    network = make()
    if random is not None:
        for module in network.modules():
            if isinstance(module, Conv | Dense):
                rate = module.rate if isinstance(module, Dense) else 1.0
                nn.init.normal_(module.weight, 0.0, 1.0 / rate, generator=random)
    return network
