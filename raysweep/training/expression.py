"""Training of an expression classifier: seven classes, class-balanced, augmented; and what it scored on people it has not seen.

ResNet-18 (He et al., CVPR 2016, arXiv 1512.03385) on crops like those of FER-2013 (arXiv 1307.0414); AdamW with a warm-up and a cosine
schedule, label smoothing. A teacher without gradients (a vision transformer in ONNX) may give soft targets: distillation needs its answers only
(Hinton et al., arXiv 1503.02531).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from raysweep.errors import ConfigError
from raysweep.metrics.uncertainty import percentile_interval, wilson
from raysweep.models.base import InputSpec
from raysweep.models.inputs import normalise
from raysweep.preprocess.frame import extract
from raysweep.schema import EXPRESSIONS, AlignedFaces, Frame, IntArray
from raysweep.training.trainer import Update

if TYPE_CHECKING:
    from torch import nn

    from raysweep.schema import ByteArray, FloatArray
    from raysweep.training.trainer import Batch

__all__ = ["Augmentation", "ExpressionExamples", "ExpressionTrainer", "input_spec", "predict", "scores"]

REGION = (6.0, 14.0, 106.0, 114.0)
"""Template pixels that a picture of FER-2013 covers on average (150 pictures, five points by SCRFD)."""
DRAWN_REGION = (0.0, 0.0, 112.0, 112.0)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

BORDER = 0.12
"""Of the region on each side, cut with it so that turning and shifting find pixels there."""
WARM_UP = 0.05
CLASSES = len(EXPRESSIONS)


def input_spec(size: int, synthetic: bool) -> InputSpec:
    """What a classifier of this project is fed with: RGB, ImageNet statistics, the region of FER-2013 (drawn faces: the whole crop)."""
    return InputSpec(
        size=size,
        colour="rgb",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        region=DRAWN_REGION if synthetic else REGION,
        layout="nchw",
        batch=None,
    )


@dataclass(frozen=True)
class Augmentation:
    """How much a picture is changed at random; 0 switches one off.

    Attributes:
        flip: mirror half of them.
        rotate: up to so many degrees either way.
        crop: the side of what is seen shrinks or grows by up to this share, and its middle moves by up to half of it.
        brightness: brightness and contrast change by up to this share.
    """

    flip: bool = True
    rotate: float = 10.0
    crop: float = 0.12
    brightness: float = 0.25


@dataclass(frozen=True)
class ExpressionExamples:
    """Labelled crops; `raysweep.training.trainer.Examples`, drawn so that each class comes equally often.

    Attributes:
        crop: (M, S, S, 3) uint8, may be a memory map.
        rows: (N,) which of them.
        label: (N,) class, -1 where only a teacher knows.
        frame: of the crops.
        spec: of the network.
        augmentation: how pictures are changed.
        balanced: draw classes equally often.
        device: where pictures are made.
        soft: (N, 7) float32 a teacher's probabilities, or None.
    """

    crop: ByteArray
    rows: IntArray
    label: IntArray
    frame: Frame
    spec: InputSpec
    augmentation: Augmentation
    balanced: bool
    device: torch.device
    soft: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def weights(self) -> torch.Tensor:
        """(N,) so that each class that occurs has the same sum; equal without `balanced`."""
        if not self.balanced:
            return torch.ones(len(self), dtype=torch.float64)
        group = self.label if self.soft is None else np.where(self.label >= 0, self.label, self.soft.argmax(axis=1))
        count = np.bincount(group, minlength=CLASSES)
        return torch.from_numpy(1.0 / count[group])

    def batch(self, rows: torch.Tensor, random: torch.Generator) -> Batch:
        """`input` (n, 3, size, size) normalised, `label` (n,) int64; with a teacher `soft` (n, 7)."""
        chosen = rows.numpy()
        images = torch.from_numpy(np.ascontiguousarray(self.crop[self.rows[chosen]].transpose(0, 3, 1, 2)))
        pictures = augment(images.to(self.device), self.frame, self.spec, self.augmentation, random)
        batch = {"input": normalise(pictures, self.spec), "label": torch.from_numpy(self.label[chosen])}
        if self.soft is not None:
            batch["soft"] = torch.from_numpy(self.soft[chosen])
        return batch


def augment(
    images: torch.Tensor, frame: Frame, spec: InputSpec, how: Augmentation, random: torch.Generator
) -> torch.Tensor:
    """Cut the region out of crops, each a little differently.

    Args:
        images: (n, 3, S, S) uint8 crops in `frame`.
        frame, spec: geometry of the crops and of the network's input.
        how: how much.
        random: six numbers per picture, on the CPU.

    Returns:
        (n, 3, size, size) float32, 0 to 255.
    """
    n, device = len(images), images.device
    x0, y0, x1, y1 = spec.region
    pad = round(BORDER * spec.size)
    more, inner = pad / spec.size * (x1 - x0), spec.size / (spec.size + 2 * pad)
    wide = extract(images.float(), frame, (x0 - more, y0 - more, x1 + more, y1 + more), spec.size + 2 * pad)
    draw = torch.rand(n, 6, generator=random).to(device)
    either = 2.0 * draw - 1.0
    angle = either[:, 0] * math.radians(how.rotate)
    zoom = (1.0 + either[:, 1] * how.crop) * inner
    mirror = torch.where(draw[:, 2] < 0.5, -1.0, 1.0) if how.flip else torch.ones(n, device=device)
    shift = either[:, 3:5] * how.crop * inner
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(theta, [n, 3, spec.size, spec.size], align_corners=False)
    pictures = F.grid_sample(wide, grid, mode="bilinear", padding_mode="border", align_corners=False)
    light = 1.0 + how.brightness * either[:, 5].view(n, 1, 1, 1)
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    # One number moves brightness and, half as much, contrast.
    return ((pictures - mean) * (1.0 + (light - 1.0) / 2) + mean * light).clamp(0, 255)


class ExpressionTrainer:
    """Cross-entropy with label smoothing, or a mixture with a teacher's soft targets; a `raysweep.training.trainer.Trainer`.

    Args:
        network: (n, 3, size, size) -> (n, 7) logits; trained in place.
        steps: updates in all, for the schedule.
        learning_rate: its peak.
        weight_decay: of AdamW.
        smoothing: of the labels, 0 to 1.
        distil: weight of the teacher's soft targets, 0 to 1; rows without a label learn from them alone.
        update: precision and step.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        steps: int,
        learning_rate: float,
        weight_decay: float = 0.01,
        smoothing: float = 0.1,
        distil: float = 0.0,
        update: Update | None = None,
    ) -> None:
        self.update = Update() if update is None else update
        layout = torch.channels_last if self.update.device.type == "cuda" else torch.contiguous_format
        self.network = network.to(self.update.device).to(memory_format=layout).train().requires_grad_(True)
        self.steps, self.learning_rate, self.smoothing, self.distil, self.done = (
            steps,
            learning_rate,
            smoothing,
            distil,
            0,
        )
        self._parameters = list(network.parameters())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay)

    @property
    def rate(self) -> float:
        """Learning rate of the next step: linear warm-up over a twentieth, then half a cosine to 0."""
        warm = max(1, round(WARM_UP * self.steps))
        if self.done < warm:
            return self.learning_rate * (self.done + 1) / warm
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * (self.done - warm) / max(1, self.steps - warm)))

    def step(self, batch: Batch) -> dict[str, float]:
        """One update. Returns `loss` and `accuracy` of the batch as it was augmented, and `distil` with a teacher."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate
        device = self.update.device
        label = batch["label"].to(device)
        known = label >= 0
        with self.update.forward():
            logits = self.network(batch["input"].to(device)).float()
            each = F.cross_entropy(logits, label.clamp_min(0), label_smoothing=self.smoothing, reduction="none")
            total = (each * known).sum() / len(label)
            terms = {"loss": total}
            if "soft" in batch:
                taught = F.cross_entropy(logits, batch["soft"].to(device), reduction="none")
                weight = torch.where(known, self.distil, 1.0)
                total = ((1 - weight) * each * known + weight * taught).mean()
                terms = {"loss": total, "distil": taught.mean()}
        self.update(self._optimizer, self._parameters, total)
        self.done += 1
        numbers = {name: float(value.detach()) for name, value in terms.items()}
        if bool(known.any()):
            numbers["accuracy"] = float((logits.argmax(1) == label)[known].float().mean())
        return numbers

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, scaler and the count of steps."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "update": self.update.state_dict(),
            "done": self.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.update.load_state_dict(state["update"])
        self.done = int(state["done"])

    def modules(self) -> dict[str, nn.Module]:
        """`network`."""
        return {"network": self.network}


def predict(
    network: nn.Module, faces: AlignedFaces, rows: IntArray, spec: InputSpec, device: torch.device, batch: int = 64
) -> IntArray:
    """(n,) class of each row, from the picture as it is, in float32."""
    network = network.to(device).eval()
    found = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(rows), batch):
        crops = faces.crop[rows[start : start + batch]].transpose(0, 3, 1, 2)
        images = torch.from_numpy(np.ascontiguousarray(crops)).to(device)
        with torch.inference_mode():
            given = normalise(extract(images, faces.frame, spec.region, spec.size), spec)
            found.append(network(given).argmax(1).cpu().numpy())
    return np.concatenate(found)


def scores(truth: IntArray, answer: IntArray, cluster: IntArray, seed: int, draws: int = 1000) -> dict[str, Any]:
    """Accuracy, unweighted average recall and macro F1 with 95 % intervals, and the confusion matrix.

    People (or photographs) are resampled with all their rows. Recall and F1 are means over the classes that occur.

    Args:
        truth, answer: (n,) classes, all known.
        cluster: (n,) number of the person or photograph.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Returns:
        `n`, `clusters`, `accuracy`, `uar`, `macro_f1` (each `value`, `lo`, `hi`; None where undefined), `classes`, `confusion` (truth by answer),
        `missing` classes.

    Raises:
        ConfigError: no row.
    """
    if not len(truth):
        raise ConfigError("nothing to check with: no held-out row has a label")
    names, place = np.unique(cluster, return_inverse=True)
    tables = np.zeros((len(names), CLASSES, CLASSES))
    np.add.at(tables, (place, truth, answer), 1.0)
    random = np.random.default_rng(seed)
    weights = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(np.float64)
    resampled = (weights @ tables.reshape(len(names), -1)).reshape(draws, CLASSES, CLASSES)
    whole = tables.sum(axis=0)
    result: dict[str, Any] = {"n": len(truth), "clusters": len(names)}
    for name, value in _rates(whole[None]).items():
        lo, hi = (math.nan, math.nan)
        if len(names) >= 2:
            lo, hi = percentile_interval(_rates(resampled)[name], n=len(names))
            if value[0] in (0.0, 1.0):  # all right or all wrong: resampling shows no spread
                lo, hi = wilson(float(value[0]) * len(names), len(names))
        result[name] = {"value": float(value[0]), "lo": _plain(lo), "hi": _plain(hi)}
    result["classes"] = list(EXPRESSIONS)
    result["confusion"] = whole.astype(int).tolist()
    result["missing"] = [EXPRESSIONS[label] for label in np.flatnonzero(whole.sum(axis=1) == 0).tolist()]
    return result


def _rates(tables: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """(B, 7, 7) confusion -> each (B,)."""
    right = np.diagonal(tables, axis1=1, axis2=2)
    truth, answer = tables.sum(axis=2), tables.sum(axis=1)
    occurs = truth > 0
    recall = np.divide(right, truth, where=occurs, out=np.zeros_like(right))
    f1 = np.divide(2 * right, truth + answer, where=(truth + answer) > 0, out=np.zeros_like(right))
    classes = np.maximum(occurs.sum(axis=1), 1)
    return {
        "accuracy": right.sum(axis=1) / truth.sum(axis=1),
        "uar": (recall * occurs).sum(axis=1) / classes,
        "macro_f1": (f1 * occurs).sum(axis=1) / classes,
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
