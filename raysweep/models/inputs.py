"""From crops to what a network is fed with, by its input specification; one implementation for judges and teachers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from raysweep.models.base import InputSpec
from raysweep.preprocess.frame import extract
from raysweep.schema import ByteArray, Frame

if TYPE_CHECKING:
    import torch

__all__ = ["CHUNK", "PROBE_FRAME", "in_chunks", "network_input", "normalise", "probe"]

CHUNK = {"onnx cpu": 8, "torch cpu": 32, "onnx cuda": 128, "torch cuda": 128}
"""Crops fed at once, always this many: the last ones are filled up, because the libraries choose another order of summation for another
batch size, and equal faces must get equal rows to the last bit (a constant face must tie, not rank by rounding noise). On a CPU
onnxruntime was up to 2 times as fast with 8 as with 32 (mini_XCEPTION), the small torch networks 1.2 times as fast with 32 as with 8."""

PROBE_FRAME = Frame(size=160, margin=24)
"""Frame of the probe image for known answers."""


def normalise(crops: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """Crops of the right size -> network input.

    Args:
        crops: (n, 3, size, size) RGB, uint8 or float, values 0 to 255.
        spec: of the network.

    Returns:
        (n, 3 or 1, size, size), or (n, size, size, channels) for layout nhwc; float32.
    """
    import torch

    x = crops.to(torch.float32)
    if spec.colour == "bgr":
        x = x.flip(1)
    elif spec.colour == "grey":
        # ITU-R BT.601, as OpenCV and Pillow
        weights = torch.tensor([0.299, 0.587, 0.114], device=x.device).view(1, 3, 1, 1)
        x = (x * weights).sum(1, keepdim=True)
    if any(spec.mean) or any(value != 1 for value in spec.std):
        mean = torch.tensor(spec.mean, device=x.device, dtype=torch.float32).view(1, -1, 1, 1)
        std = torch.tensor(spec.std, device=x.device, dtype=torch.float32).view(1, -1, 1, 1)
        x = (x - mean) / std
    return x if spec.layout == "nchw" else x.permute(0, 2, 3, 1)


def network_input(images: torch.Tensor, frame: Frame, spec: InputSpec) -> torch.Tensor:
    """(n, 3, S, S) crops in `frame`, uint8, or float in [0, 1] (then differentiable) -> network input as in `normalise`."""
    if images.is_floating_point():
        images = images * 255
    return normalise(extract(images, frame, spec.region, spec.size), spec)


def in_chunks(
    crops: torch.Tensor,
    spec: InputSpec,
    device: torch.device,
    step: int,
    run: Callable[[torch.Tensor], npt.NDArray[np.float32]],
) -> npt.NDArray[np.float32]:
    """Normalise and run `step` crops at a time.

    Args:
        crops: (n, 3, size, size) uint8 RGB, n >= 1.
        spec: of the network.
        device: where it computes.
        step: crops at a time, of `CHUNK`.
        run: network input of `step` rows -> (step, K).

    Returns:
        (n, K).
    """
    import torch

    parts = []
    for start in range(0, len(crops), step):
        part = crops[start : start + step].to(device)
        if len(part) < step:
            part = torch.cat([part, part.new_zeros((step - len(part), *part.shape[1:]))])
        parts.append(run(normalise(part, spec)))
    return np.concatenate(parts)[: len(crops)]


def probe() -> ByteArray:
    """The probe image, (1, 3, 160, 160) uint8: a drawn face in whole-number arithmetic, the same on every machine."""
    side = PROBE_FRAME.size
    y, x = np.mgrid[:side, :side].astype(np.int64)
    image = np.stack([40 + x // 4, 60 + y // 4, 100 - (x + y) // 8])

    def paint(cx: int, cy: int, a: int, b: int, colour: tuple[int, int, int]) -> None:
        inside = (x - cx) ** 2 * b * b + (y - cy) ** 2 * a * a <= a * a * b * b
        for channel, value in enumerate(colour):
            image[channel][inside] = value + (x[inside] - y[inside]) // 8

    paint(80, 84, 46, 62, (205, 160, 130))
    for eye in (62, 98):
        paint(eye, 62, 14, 3, (60, 40, 30))
        paint(eye, 75, 10, 5, (235, 235, 235))
        paint(eye, 75, 4, 4, (50, 70, 60))
    paint(80, 94, 7, 12, (190, 140, 110))
    paint(80, 117, 19, 6, (170, 60, 70))
    paint(80, 26, 44, 22, (70, 45, 30))
    return np.asarray(np.clip(image, 0, 255)[None], dtype=np.uint8)
