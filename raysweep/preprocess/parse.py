"""Parsing masks on photographs: BiSeNet (Yu et al., ECCV 2018) with a ResNet-18, 19 classes of CelebAMask-HQ.

Reads the public state dict of `zllrunning/face-parsing.PyTorch` (`79999_iter.pth`, `cp.*`, `ffm.*`, `conv_out*.*`) or an ONNX file
(1 x 3 x 512 x 512 -> 19 logits). Both see the whole head at 512 pixels, RGB with ImageNet's mean and deviation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raysweep.errors import ModelError
from raysweep.preprocess.sessions import CPU, open_session
from raysweep.schema import PARTS, ByteArray, FloatArray, Frame

__all__ = ["HEAD_FRAME", "BiSeNet", "OnnxParser", "Parser", "TorchParser", "load_bisenet", "open_parser"]

HEAD_FRAME = Frame(size=512, margin=17)
"""What the parser sees: CelebA-HQ's crop is 4 eye distances wide, 146 template pixels, around the template's centre."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class _ConvNormRelu(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class _Refinement(nn.Module):
    """Attention refinement: each channel weighed by a gate on its global mean."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _ConvNormRelu(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = self.bn_atten(self.conv_atten(functional.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(gate)


class _ContextPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.resnet = resnet18(weights=None)
        del self.resnet.fc
        self.arm16 = _Refinement(256, 128)
        self.arm32 = _Refinement(512, 128)
        self.conv_head32 = _ConvNormRelu(128, 128)
        self.conv_head16 = _ConvNormRelu(128, 128)
        self.conv_avg = _ConvNormRelu(512, 128, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        net = self.resnet
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))
        eighth = net.layer2(x)
        sixteenth = net.layer3(eighth)
        deepest = net.layer4(sixteenth)
        mean = self.conv_avg(functional.adaptive_avg_pool2d(deepest, 1))
        up = functional.interpolate(self.arm32(deepest) + mean, size=sixteenth.shape[2:], mode="nearest")
        up = self.arm16(sixteenth) + self.conv_head32(up)
        return eighth, self.conv_head16(functional.interpolate(up, size=eighth.shape[2:], mode="nearest"))


class _Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convblk = _ConvNormRelu(256, 256, kernel=1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([spatial, context], dim=1))
        gate: Tensor = self.conv2(functional.relu(self.conv1(functional.adaptive_avg_pool2d(x, 1))))
        return torch.addcmul(x, x, torch.sigmoid(gate))


class _Head(nn.Module):
    def __init__(self, inputs: int, middle: int, classes: int) -> None:
        super().__init__()
        self.conv = _ConvNormRelu(inputs, middle)
        self.conv_out = nn.Conv2d(middle, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))  # type: ignore[no-any-return]


class BiSeNet(nn.Module):
    """(n, 3, H, W) normalised RGB -> (n, 19, H, W) logits; H and W multiples of 32. The two side heads only train."""

    def __init__(self, classes: int = len(PARTS)) -> None:
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _Fusion()
        self.conv_out = _Head(256, 256, classes)
        self.conv_out16 = _Head(128, 64, classes)
        self.conv_out32 = _Head(128, 64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """As in the class."""
        logits = self.conv_out(self.ffm(*self.cp(x)))
        return functional.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=True)


def load_bisenet(path: Path) -> BiSeNet:
    """The network with the weights of a file (`.pth` read as data only, or `.safetensors`).

    Raises:
        ModelError: missing file, not readable as plain tensors, or keys of another network (the first ones are named).
    """
    if not path.is_file():
        raise ModelError(
            f"{path}: no face parsing weights there; get 79999_iter.pth of zllrunning/face-parsing.PyTorch yourself and put it into the models folder"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: dict[str, Tensor] = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zip and safetensors all raise their own classes for a damaged file
        raise ModelError(f"{path}: cannot be read as plain weights ({type(error).__name__}: {error})") from error
    network = BiSeNet()
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(f"{path}: not the 19-class BiSeNet-ResNet18: {str(error)[:400]}") from error
    return network.eval()


class Parser(ABC):
    """Photographs aligned to `HEAD_FRAME` -> label maps."""

    name: str

    @abstractmethod
    def parse(self, heads: ByteArray) -> ByteArray:
        """(n, 512, 512, 3) uint8 RGB in `HEAD_FRAME` -> (n, 512, 512) uint8 labels of `PARTS`."""


class TorchParser(Parser):
    """BiSeNet in torch."""

    def __init__(self, network: BiSeNet, device: torch.device | str = "cpu") -> None:
        """Args: network: with its weights; device: where it runs."""
        self.name, self._device = "bisenet", torch.device(device)
        self._network = network.eval().to(self._device)

    @torch.inference_mode()
    def parse(self, heads: ByteArray) -> ByteArray:
        """As in the base class; one image at a time on a CPU, where larger batches only cost memory."""
        step = 8 if self._device.type == "cuda" else 1
        labels = []
        for start in range(0, len(heads), step):
            fed = torch.from_numpy(_normalise(heads[start : start + step])).to(self._device)
            labels.append(self._network(fed).argmax(dim=1).to(torch.uint8).cpu().numpy())
        return np.concatenate(labels) if labels else np.zeros((0, *heads.shape[1:3]), dtype=np.uint8)


class OnnxParser(Parser):
    """A 19-class parser in an ONNX file, input 1 x 3 x 512 x 512; the first output is used."""

    def __init__(self, path: Path, providers: Sequence[str] = CPU, threads: int = 1) -> None:
        """Args: path: the file; providers, threads: of its session.

        Raises:
            ModelError: missing file or other shapes.
        """
        self.name = "bisenet-onnx"
        self._session: Any = open_session(path, providers, threads)
        entry, output = self._session.get_inputs()[0], self._session.get_outputs()[0]
        sides = [side for side in entry.shape[2:] if isinstance(side, int)]
        classes = output.shape[1] if len(output.shape) == 4 else None
        if len(entry.shape) != 4 or any(side != HEAD_FRAME.size for side in sides) or classes not in (len(PARTS), None):
            raise ModelError(
                f"{path}: not a face parser known here: input {entry.shape}, output {output.shape}; expected 3 x 512 x 512 -> 19 x 512 x 512"
            )
        self._input, self._output = entry.name, output.name

    def parse(self, heads: ByteArray) -> ByteArray:
        """As in the base class."""
        labels = np.zeros(heads.shape[:3], dtype=np.uint8)
        for row in range(len(heads)):
            logits = self._session.run([self._output], {self._input: _normalise(heads[row : row + 1])})[0]
            labels[row] = logits[0].argmax(axis=0)
        return labels


def open_parser(
    path: Path, device: torch.device | str = "cpu", providers: Sequence[str] = CPU, threads: int = 1
) -> Parser:
    """The parser in a state dict (`.pth`, `.pt`, `.safetensors`) or an ONNX file."""
    if path.suffix == ".onnx":
        return OnnxParser(path, providers, threads)
    return TorchParser(load_bisenet(path), device)


def _normalise(heads: ByteArray) -> FloatArray:
    mean, std = np.array(IMAGENET_MEAN, dtype=np.float32), np.array(IMAGENET_STD, dtype=np.float32)
    return np.ascontiguousarray(((heads.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))
