"""Embed and classify one batch with all judges, cutting each region only once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysweep.models.base import Embedder, ExpressionModel, InputSpec
from raysweep.models.embedders import CropEmbedder
from raysweep.models.expression import CropExpression
from raysweep.preprocess.frame import extract
from raysweep.schema import FloatArray, Frame

if TYPE_CHECKING:
    import torch

__all__ = ["measure"]


def measure(
    images: torch.Tensor, frame: Frame, embedders: Sequence[Embedder], expressions: Sequence[ExpressionModel]
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """All judges on one batch.

    Args:
        images: (n, 3, S, S) uint8 RGB crops in `frame`, on any device.
        frame: geometry of the crops.
        embedders, expressions: judges; those of the zoo share their crops, others (plug-ins) get the images.

    Returns:
        Embeddings (n, D) and probabilities (n, 7) by name, as in `Measurements`.
    """
    cut: dict[tuple[tuple[float, float, float, float], int], torch.Tensor] = {}

    def crops(spec: InputSpec) -> torch.Tensor:
        key = (spec.region, spec.size)
        if key not in cut:
            cut[key] = extract(images, frame, spec.region, spec.size)
        return cut[key]

    embeddings = {
        model.name: model.embed_crops(crops(model.input))
        if isinstance(model, CropEmbedder)
        else model.embed(images, frame)
        for model in embedders
    }
    probabilities = {
        model.name: model.probabilities_of_crops(crops(model.input))
        if isinstance(model, CropExpression)
        else model.probabilities(images, frame)
        for model in expressions
    }
    return embeddings, probabilities
