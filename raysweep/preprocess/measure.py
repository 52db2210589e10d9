"""Measure clear crops: embeddings and expression probabilities, in batches, on one device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from raysweep.models.base import Embedder, ExpressionModel
from raysweep.preprocess.rows import Columns
from raysweep.schema import EXPRESSIONS, ByteArray, Frame, Measurements

__all__ = ["EMBEDDING", "PROBABILITY", "measure", "measure_columns"]

EMBEDDING, PROBABILITY = "embedding:", "probability:"
"""Prefixes of the columns, before the model's name."""


def measure(
    crops: ByteArray,
    frame: Frame,
    embedders: Sequence[Embedder],
    expression_models: Sequence[ExpressionModel],
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> Measurements:
    """What the judging models say of n crops (n, S, S, 3) uint8 RGB, n may be 0; no realism, the crops are the originals."""
    embeddings = {model.name: np.zeros((len(crops), model.dim), dtype=np.float32) for model in embedders}
    probabilities = {
        model.name: np.zeros((len(crops), len(EXPRESSIONS)), dtype=np.float32) for model in expression_models
    }
    with torch.inference_mode():
        for start in range(0, len(crops), batch_size):
            part = slice(start, start + batch_size)
            pixels = np.ascontiguousarray(crops[part].transpose(0, 3, 1, 2))
            images = torch.from_numpy(pixels).to(device)
            for embedder in embedders:
                embeddings[embedder.name][part] = embedder.embed(images, frame)
            for model in expression_models:
                probabilities[model.name][part] = model.probabilities(images, frame)
    return Measurements(embeddings, probabilities, {})


def measure_columns(
    columns: Columns,
    frame: Frame,
    embedders: Sequence[Embedder],
    expression_models: Sequence[ExpressionModel],
    device: torch.device | str = "cpu",
) -> Columns:
    """Add `embedding:<name>` (n, D) and `probability:<name>` (n, 7) to the columns of `crop_rows`; zero where there is a reason."""
    good = columns["reason"] == ""
    measured = measure(columns["crop"][good], frame, embedders, expression_models, device)
    result = dict(columns)
    for prefix, values in ((EMBEDDING, measured.embeddings), (PROBABILITY, measured.probabilities)):
        for name, rows in values.items():
            whole = np.zeros((len(good), rows.shape[1]), dtype=np.float32)
            whole[good] = rows
            result[prefix + name] = whole
    return result
