"""What a judging model is: an input specification and one batched call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from raysweep.schema import ARCFACE_SIZE, FloatArray, Frame

if TYPE_CHECKING:
    import torch

__all__ = ["Embedder", "ExpressionModel", "InputSpec"]


@dataclass(frozen=True)
class InputSpec:
    """How a network wants its face. The specification belongs to the weights and stands in `zoo.yaml`.

    Attributes:
        size: side in pixels.
        colour: channel order.
        mean, std: per channel, applied as (x - mean) / std to values 0 to 255.
        region: (x0, y0, x1, y1) of the aligned face in template pixels (0 to 112 is the ArcFace crop).
        layout: axis order.
        batch: fixed batch size of the file, None when any.
    """

    size: int = ARCFACE_SIZE
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    std: tuple[float, ...] = (127.5, 127.5, 127.5)
    region: tuple[float, float, float, float] = (0.0, 0.0, 112.0, 112.0)
    layout: Literal["nchw", "nhwc"] = "nchw"
    batch: int | None = None


class Embedder(ABC):
    """Crops -> identity embeddings.

    Attributes:
        name: as in the zoo.
        dim: D.
        input: what the network is fed with.
        lineage: name of these weights, and of those they were distilled or fine-tuned from.
    """

    name: str
    dim: int
    input: InputSpec
    lineage: frozenset[str]

    @abstractmethod
    def embed(self, images: torch.Tensor, frame: Frame) -> FloatArray:
        """(n, 3, S, S) uint8 RGB crops in `frame` -> (n, D) float32, L2-normalised; the same face alone or in a batch gives the same row."""


class ExpressionModel(ABC):
    """Crops -> probabilities of the seven expressions. Attributes as in `Embedder`."""

    name: str
    input: InputSpec
    lineage: frozenset[str]

    @abstractmethod
    def probabilities(self, images: torch.Tensor, frame: Frame) -> FloatArray:
        """(n, 3, S, S) uint8 RGB crops in `frame` -> (n, 7) float32 in the order of `EXPRESSIONS`, rows summing to 1."""
