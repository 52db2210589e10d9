"""From an anonymized face back to a clear one: what the reversal attacker learns on the pixels of T.

`ridge`, `autoencoder` and `unet` learn the inverse from pairs at 64 x 64. `operator` needs no pairs of the method: it knows the method's
own map and looks for the clear face that the map would turn into the published bytes.

Sources: Todt, Hanisch and Strufe 2024 (learned reversal); McPherson, Shokri and Shmatikov 2016; the operator attack is maximum a posteriori
estimation with a Gaussian prior on faces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from raysweep.attackers.reversal import Reversal

__all__ = ["SIDE", "Operator", "Pairs", "on_one_thread", "restore"]

Operator = Callable[[torch.Tensor], torch.Tensor]
"""(n, 3, S, S) float crops from 0 to 255 -> the published crops before rounding; differentiable."""

SIDE = 64
"""Side in pixels at which restorers learn."""
ALPHA = 1.0
"""Of the ridge regression, on pixels from 0 to 1."""
CHUNK = 256
"""Faces at a time, whatever the batch size of the sweep: a result must not depend on that."""
BATCH, LEARNING_RATE = 32, 2e-3
COMPONENTS = 128
"""Of the prior on faces, at most."""
STEP, FREE_STEP = 0.15, 1.0
"""Step of the optimisation in prior units, and of free pixels in grey levels."""
NOISE, FREE = 2.0, 0.02
"""Grey levels by which the published bytes may be missed; weight of pixels outside the prior."""


@dataclass(frozen=True)
class Pairs:
    """Faces of T.

    Attributes:
        anonymized, clear: (n, 3, S, S) uint8 on the device, row by row the same face.
    """

    anonymized: torch.Tensor
    clear: torch.Tensor

    def __len__(self) -> int:
        return len(self.clear)


def restore(how: Reversal, pairs: Pairs, probes: torch.Tensor, operator: Operator | None, seed: int) -> torch.Tensor:
    """Learn from pairs and restore.

    Args:
        how: which restorer, with its budget.
        pairs: of T.
        probes: (P, 3, S, S) uint8 anonymized crops, on the device of the pairs.
        operator: of the anonymizer, for `operator`.
        seed: of the networks.

    Returns:
        (P, 3, S, S) uint8 on the same device.

    Raises:
        ValueError: `operator` without an operator, or fewer than two pairs for the others.
    """
    if how.restorer == "operator":
        if operator is None:
            raise ValueError("restorer=operator needs the operator of the anonymizer")
        with on_one_thread(probes.device):
            parts = [_invert(operator, part, pairs, how.iterations) for part in torch.split(probes, CHUNK)]
        return torch.cat(parts) if parts else probes.clone()
    if len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pairs; a restorer learns from two or more")
    if how.restorer == "ridge":
        return _ridge(pairs, probes)
    with on_one_thread(probes.device), torch.enable_grad():
        network = _train(how, pairs, seed)
    with on_one_thread(probes.device), torch.inference_mode():
        parts = [
            _large(network(_small(part)[0] * 2 - 1) * 0.5 + 0.5, probes.shape[-1])
            for part in torch.split(probes, CHUNK)
        ]
    return torch.cat(parts) if parts else probes.clone()


@contextmanager
def on_one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU the order of float32 sums depends on the number of threads, and training magnifies it; a result must not depend on how
    many workers share the machine."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _small(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """(n, 3, S, S) uint8 -> ((n, 3, SIDE, SIDE) in [0, 1],)."""
    floats = images.float() / 255
    if floats.shape[-1] != SIDE:
        floats = F.interpolate(floats, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return (floats.to(dtype),)


def _large(images: torch.Tensor, side: int) -> torch.Tensor:
    """(n, 3, SIDE, SIDE) in [0, 1] -> (n, 3, side, side) uint8."""
    if images.shape[-1] != side:
        images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _ridge(pairs: Pairs, probes: torch.Tensor) -> torch.Tensor:
    """Linear regression from pixels to pixels in its dual form: as many unknowns as faces, not as pixels.

    In float64, so that neither the order of sums nor the number of threads moves a byte.
    """

    def rows(images: torch.Tensor) -> torch.Tensor:
        return torch.cat([_small(part, torch.float64)[0].flatten(1) for part in torch.split(images, CHUNK)])

    given, wanted = rows(pairs.anonymized), rows(pairs.clear)
    centre, target = given.mean(dim=0), wanted.mean(dim=0)
    given -= centre
    wanted -= target
    kernel = given @ given.T
    kernel.diagonal().add_(ALPHA)
    factor = torch.linalg.cholesky(kernel)
    parts = []
    for part in torch.split(probes, CHUNK):
        near = (rows(part) - centre) @ given.T
        share = torch.cholesky_solve(near.T, factor).T
        parts.append(_large((share @ wanted + target).view(-1, 3, SIDE, SIDE), probes.shape[-1]))
    return torch.cat(parts) if parts else probes.clone()


class _Restorer(nn.Module):
    """Three halvings and back, 32 to 128 channels; `skips` makes it a U-Net whose input is added to its output."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.skips = skips
        again = 2 if skips else 1
        self.down1 = nn.Conv2d(3, 32, 4, 2, 1)
        self.down2 = nn.Conv2d(32, 64, 4, 2, 1)
        self.down3 = nn.Conv2d(64, 128, 4, 2, 1)
        self.up3 = nn.Conv2d(128, 64, 3, 1, 1)
        self.up2 = nn.Conv2d(64 * again, 32, 3, 1, 1)
        self.up1 = nn.Conv2d(32 * again, 12, 3, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, 64, 64) in [-1, 1] -> the same."""
        first = F.leaky_relu(self.down1(images), 0.2)
        second = F.leaky_relu(self.down2(first), 0.2)
        third = F.leaky_relu(self.down3(second), 0.2)
        back = F.leaky_relu(self.up3(F.interpolate(third, scale_factor=2.0)), 0.2)
        back = torch.cat([back, second], dim=1) if self.skips else back
        back = F.leaky_relu(self.up2(F.interpolate(back, scale_factor=2.0)), 0.2)
        back = torch.cat([back, first], dim=1) if self.skips else back
        drawn = F.pixel_shuffle(self.up1(back), 2)
        return drawn + images if self.skips else torch.tanh(drawn)


def _train(how: Reversal, pairs: Pairs, seed: int) -> nn.Module:
    device = pairs.clear.device
    random = torch.Generator().manual_seed(seed)
    network = _Restorer(skips=how.restorer == "unet")
    with torch.no_grad():
        for name, value in network.named_parameters():
            # He et al. 2015, by hand because the generator is ours.
            spread = 0.0 if name.endswith("bias") else (2 / value[0].numel()) ** 0.5
            value.copy_(torch.randn(value.shape, generator=random) * spread)
    network.to(device)
    given, wanted = (
        torch.cat([_small(part)[0] for part in torch.split(side, CHUNK)]) * 2 - 1
        for side in (pairs.anonymized, pairs.clear)
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    total = how.epochs * -(-len(pairs) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, total))
    for _ in range(how.epochs):
        order = torch.randperm(len(pairs), generator=random).to(device)
        for rows in torch.split(order, BATCH):
            loss = (network(given[rows]) - wanted[rows]).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def _invert(operator: Operator, published: torch.Tensor, pairs: Pairs, iterations: int) -> torch.Tensor:
    """min ||y - q(G(x))||^2 + prior over x = mean + basis z + free pixels, all faces of the batch at once.

    q rounds to bytes; its gradient is passed straight through. The prior is the Gaussian of the clear faces of T, z ~ N(0, 1).
    """
    target = published.float()
    mean, basis = _prior(pairs, target)
    # The published face's own place in the prior is where the search starts.
    strength = (basis**2).sum(dim=1).clamp_min(1e-12)
    level = (((target - mean).flatten(1) @ basis.T) / strength).clamp(-3, 3).requires_grad_()
    free = torch.zeros_like(target, requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [level], "lr": STEP}, {"params": [free], "lr": FREE_STEP}])

    def face() -> torch.Tensor:
        return mean + (level @ basis).view_as(target) + free

    with torch.enable_grad():
        for _ in range(iterations):
            seen = operator(face())
            rounded = seen + ((seen + 0.5).floor() - seen).detach()
            missed = ((target - rounded) ** 2).flatten(1).sum(dim=1) / (2 * NOISE**2)
            unlikely = 0.5 * (level**2).sum(dim=1) + FREE * (free**2).flatten(1).sum(dim=1)
            optimiser.zero_grad()
            (missed + unlikely).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return face().detach().round().clamp(0, 255).to(torch.uint8)


def _prior(pairs: Pairs, published: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, S, S) mean face and (k, 3 S S) principal components, each as long as its standard deviation; without T the published face itself."""
    if len(pairs) < 2:
        return published, published.new_zeros(0, published[0].numel())
    clear = pairs.clear.float().flatten(1)
    mean = clear.mean(dim=0)
    centred = clear - mean
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    kept = torch.argsort(values, descending=True)[: min(COMPONENTS, len(pairs) - 1)]
    kept = kept[values[kept] > 1e-6 * values.max()]
    basis = (vectors[:, kept].T.float() @ centred) / (len(pairs) - 1) ** 0.5
    return mean.view(published.shape[1:]), basis
