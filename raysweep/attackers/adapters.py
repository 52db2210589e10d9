"""What an attacker can learn from labelled embeddings of other people: three maps into a space in which people are easier to tell apart.

`lda` and `mlp` start as VoicePrivacy's and our own notes say: standardise, then the principal components whose singular value is above
`KEPT` of the largest, at most `COMPONENTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from raysweep.attackers.whitening import CONSTANT, Whitening
from raysweep.errors import ConfigError
from raysweep.schema import IntArray

if TYPE_CHECKING:
    import torch

__all__ = ["Adapter", "AdapterKind", "attack_device", "fit_adapter", "principal"]

Array = npt.NDArray[np.float64]
Adapter = Callable[[Array], Array]
"""(n, D) embeddings -> (n, F) in the adapted space; cosine is meant."""
AdapterKind = Literal["whitening", "lda", "mlp"]

KEPT = 1e-3
COMPONENTS = 128
HIDDEN, EMBEDDED, DROPOUT = 256, 128, 0.3
SCALE, MARGIN = 16.0, 0.2
"""Of the cosine-margin loss (CosFace, Wang et al. 2018); the published scale 64 is for millions of faces."""
BATCH, LEARNING_RATE, DECAY = 256, 1e-3, 1e-3


def attack_device() -> torch.device:
    """Where networks of an attacker are trained: CUDA when present, else CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit_adapter(kind: AdapterKind, features: Array, labels: IntArray, epochs: int, seed: int) -> Adapter:
    """Learn from (n, D) float64 embeddings and (n,) labels of at least two people.

    Args:
        kind: `whitening` divides out what varies within a person and keeps all directions; `lda` keeps those in which people differ;
            `mlp` is a two-layer network (256, 128, dropout 0.3) trained with a cosine margin.
        features, labels: of role T.
        epochs: of the network; 0 leaves it as drawn. The others have none.
        seed: of the network.

    Raises:
        ConfigError: no such kind, or fewer than 0 epochs.
    """
    if kind not in get_args(AdapterKind) or epochs < 0:
        raise ConfigError(
            f"adapter={kind!r} epochs={epochs}; allowed: {', '.join(get_args(AdapterKind))}; epochs 0 or more"
        )
    if kind == "whitening":
        learned = Whitening.fit(features, labels)
        matrix = learned.matrix()
        return lambda rows: np.asarray((rows - learned.mean) @ matrix)
    reduce = principal(features)
    reduced = reduce(features)
    if not reduced.shape[1]:
        return reduce
    if kind == "lda":
        found = Whitening.fit(reduced, labels)
        directions = found.discriminant()
        return lambda rows: np.asarray((reduce(rows) - found.mean) @ directions)
    network = _train(reduced, labels, epochs, seed)
    return lambda rows: network(reduce(rows))


def principal(features: Array) -> Adapter:
    """Standardise, then the strongest principal components, by the rule above."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > CONSTANT, 1 / np.where(spread > CONSTANT, spread, 1.0), 0.0)
    _, strength, directions = np.linalg.svd((features - mean) * scale, full_matrices=False)
    kept = directions[(strength > KEPT * strength[:1]) & (strength > 0)][:COMPONENTS]
    matrix = scale[:, None] * kept.T
    return lambda rows: np.asarray((rows - mean) @ matrix)


def _train(features: Array, labels: IntArray, epochs: int, seed: int) -> Adapter:
    """The embedding of a small network, trained to tell the people of T apart.

    In float64: so small a network costs little more, and the number of threads then leaves no trace above 1e-9.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    device = attack_device()
    people, index = np.unique(labels, return_inverse=True)
    random = torch.Generator().manual_seed(seed)
    level = float(np.sqrt((features**2).mean()))
    given = torch.from_numpy(features / level).to(device)
    target = torch.from_numpy(index.astype(np.int64)).to(device)

    def drawn(rows: int, columns: int) -> torch.Tensor:
        # He et al. 2015, by hand because the generator is ours.
        values = torch.randn(rows, columns, generator=random, dtype=torch.float64) * (2 / columns) ** 0.5
        return nn.Parameter(values.to(device))

    first, second = drawn(HIDDEN, features.shape[1]), drawn(EMBEDDED, HIDDEN)
    bias = nn.Parameter(torch.zeros(HIDDEN, dtype=torch.float64, device=device))
    centres = drawn(len(people), EMBEDDED)
    # Fused and foreach variants add up in another order on some devices; the plain loop is the same everywhere.
    optimiser = torch.optim.AdamW(
        [first, bias, second, centres], lr=LEARNING_RATE, weight_decay=DECAY, foreach=False, fused=False
    )
    for _ in range(epochs):
        order = torch.randperm(len(given), generator=random)
        for chosen in torch.split(order, BATCH):
            keep = (torch.rand(len(chosen), HIDDEN, generator=random, dtype=torch.float64) >= DROPOUT).to(device)
            rows = chosen.to(device)
            hidden = F.relu(given[rows] @ first.T + bias) * keep / (1 - DROPOUT)
            cosines = F.normalize(hidden @ second.T, dim=1) @ F.normalize(centres, dim=1).T
            margin = MARGIN * F.one_hot(target[rows], len(people))
            loss = F.cross_entropy(SCALE * (cosines - margin), target[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    frozen = [value.detach().cpu().numpy() for value in (first, bias, second)]

    def embed(rows: Array) -> Array:
        hidden = np.maximum(rows / level @ frozen[0].T + frozen[1], 0.0)
        return np.asarray(hidden @ frozen[2].T)

    return embed
