"""A2 at its strongest: all weights of a recogniser are trained on anonymized faces of other people, not an adapter behind it.

Only a torch network can be trained so; one in ONNX holds no gradients. Source: SEBA (fully retrained recognisers); CosFace, Wang et al. 2018.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from raysweep.attackers.adapters import MARGIN, SCALE
from raysweep.attackers.restorers import on_one_thread
from raysweep.models.inputs import normalise
from raysweep.preprocess.frame import extract
from raysweep.schema import Frame, IntArray

if TYPE_CHECKING:
    from raysweep.models.embedders import TorchEmbedder

__all__ = ["retrained"]

BATCH, LEARNING_RATE, DECAY = 64, 3e-4, 1e-4


def retrained(
    embedder: TorchEmbedder, faces: torch.Tensor, frame: Frame, labels: IntArray, epochs: int, seed: int
) -> TorchEmbedder:
    """A copy of a recogniser, trained to tell people apart in their anonymized faces; the original is left alone.

    The classes start at the mean embedding of each person, so that the first steps do not undo what the network knows. Batch normalisation
    keeps its statistics: a face must get the same embedding whatever stands beside it.

    Args:
        embedder: to start from.
        faces: (n, 3, S, S) uint8 released faces of role T, in `frame`.
        frame: of the crops.
        labels: (n,) who it is, at least two people.
        epochs: passes over the faces; 0 gives a plain copy.
        seed: of the order of the faces.
    """
    network = copy.deepcopy(embedder.network).eval().requires_grad_()
    made = embedder.with_network(network)
    crops = extract(faces.to(made.device), frame, made.input.region, made.input.size)
    people, index = torch.unique(torch.from_numpy(labels), return_inverse=True)
    target = index.to(made.device)
    with on_one_thread(made.device), torch.enable_grad():
        known = torch.from_numpy(made.embed_crops(crops)).to(made.device)
        centres = nn.Parameter(
            torch.zeros(len(people), known.shape[1], device=made.device).index_add_(0, target, known)
        )
        random = torch.Generator().manual_seed(seed)
        optimiser = torch.optim.AdamW(
            [*network.parameters(), centres], lr=LEARNING_RATE, weight_decay=DECAY, foreach=False, fused=False
        )
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(crops), generator=random).to(made.device), BATCH):
                embedded = F.normalize(network(normalise(crops[rows], made.input)), dim=1)
                cosines = embedded @ F.normalize(centres, dim=1).T
                loss = F.cross_entropy(SCALE * (cosines - MARGIN * F.one_hot(target[rows], len(people))), target[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    network.requires_grad_(False)
    return made
