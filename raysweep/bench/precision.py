"""R16 and R15: what half precision and compiling make of an embedder on a GPU, and how well it then uses the GPU.

The yardstick of R15 is torchvision's ResNet-50 at 224 pixels, on the same GPU in the same run, half and compiled as well: what counts is floating
point operations a second, so that networks of different size can be compared.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from raysweep.anonymizers.batch import face_batch
from raysweep.bench.drawn import drawn_faces, own_cache
from raysweep.bench.finding import Finding, How
from raysweep.faces import Faces
from raysweep.models.embedders import LEAST_COSINE, TorchEmbedder
from raysweep.models.inputs import network_input

__all__ = ["Speeds", "precision", "speeds"]

BATCH = 256


@dataclass(frozen=True)
class Speeds:
    """Of one network.

    Attributes:
        full, half: faces a second, single precision as it is, and half precision compiled.
        flop: of one face.
        cosine: the smallest between the two answers to a face.
    """

    full: float
    half: float
    flop: float
    cosine: float


def precision(how: How) -> list[Finding]:
    """On the first GPU, with the largest torch embedder for drawn faces."""
    device, seconds = torch.device("cuda"), 1.0 if how.quick else 3.0
    with own_cache(how.folder):
        faces = drawn_faces(30, 14)
    network, batch, name = _embedder(faces, device)
    from torchvision.models import resnet50

    yardstick = resnet50(weights=None).eval().to(device)
    pictures = torch.rand((BATCH, 3, 224, 224), device=device)
    found = [speeds(network, batch, seconds) for _ in range(how.repeats)]
    against = [speeds(yardstick, pictures, seconds) for _ in range(how.repeats)]
    least = min(item.cosine for item in found)
    note = f"{name}, {float(np.median([item.full for item in found])):,.0f} faces/s in single precision; smallest cosine {least:.5f}"
    faster = Finding("R16", tuple(item.half / item.full for item in found), note)
    if least < LEAST_COSINE:  # then it is another network, and its speed counts for nothing
        faster = Finding(
            "R16", missing=f"{name}: half precision changes its answers (cosine {least:.5f}, wanted {LEAST_COSINE})"
        )
    rates = [(one.half * one.flop, other.half * other.flop) for one, other in zip(found, against, strict=True)]
    best = float(np.median([other for _, other in rates]))
    return [
        faster,
        Finding("R15", tuple(one / other for one, other in rates), f"{name}; ResNet-50 at {best / 1e12:.1f} TFLOP/s"),
    ]


def speeds(network: nn.Module, batch: torch.Tensor, seconds: float, *, compiled: bool = True) -> Speeds:
    """Both ways on one batch.

    Args:
        network: in evaluation mode.
        batch: its input, single precision.
        seconds: to measure each way.
        compiled: False leaves half precision uncompiled.
    """
    from torch.utils.flop_counter import FlopCounterMode

    small = copy.deepcopy(network).half()
    halved: Callable[[torch.Tensor], torch.Tensor] = torch.compile(small) if compiled else small
    low = batch.half()
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            full = network(batch)
        answers = [nn.functional.normalize(rows.float(), dim=1) for rows in (full, halved(low))]
        cosine = float((answers[0] * answers[1]).sum(dim=1).min())
        return Speeds(
            _rate(lambda: network(batch), batch, seconds),
            _rate(lambda: halved(low), batch, seconds),
            counter.get_total_flops() / len(batch),
            cosine,
        )


def _embedder(faces: Faces, device: torch.device) -> tuple[nn.Module, torch.Tensor, str]:
    """The largest torch embedder, and a batch as it is fed with."""
    sizes: Mapping[TorchEmbedder, int] = {
        model: sum(weights.numel() for weights in model.network.parameters())
        for model in faces.zoo.embedders(device)
        if isinstance(model, TorchEmbedder)
    }
    model = max(sizes, key=lambda item: sizes[item])
    clear = faces.references.faces
    rows = np.resize(np.arange(len(clear), dtype=np.int64), BATCH)
    images = face_batch(clear.take(rows), 0, device, False).image.float() / 255
    return model.network, network_input(images, clear.frame, model.input), model.name


def _rate(work: Callable[[], object], batch: torch.Tensor, seconds: float) -> float:
    def wait() -> None:
        if batch.device.type == "cuda":
            torch.cuda.synchronize(batch.device)

    for _ in range(3):
        work()
    wait()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        for _ in range(4):  # the next one waits on the device, not for us
            work()
        wait()
        done += 4 * len(batch)
    return done / (time.perf_counter() - started)
