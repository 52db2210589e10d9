"""Training of a small DeepPrivacy2 generator: paint a face into its surroundings; and the command that makes the shipped weights.

    python -m raysweep.training.inpainting --out raysweep/assets

draws synthetic faces, trains the small generator on their windows and writes `deepprivacy2-synthetic.safetensors`; some eight minutes on one
core, the same file each time on the same machine and library versions.

As published (arXiv 2211.09454 and its configuration): a StyleGAN2-like discriminator that sees picture, condition and mask, the non-saturating
logistic loss, R1 every 16th step, a small penalty on large verdicts of real faces, Adam with betas (0, 0.99) adjusted for the lazy R1, and a
running average of the generator's weights, which is what is kept. Minutes on a few thousand drawings are not 35 million photographs, so
that four things differ: L1 to the clear face is added, and alone teaches for the first steps; a diversity term pays for different faces from
different latents, without which L1 would make the generator ignore them; styles start with a weaker influence; and the learning rate is higher,
with some momentum.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from raysweep.anonymizers.deepprivacy2.conditioning import Places, face_boxes, masks, pictures, place
from raysweep.anonymizers.deepprivacy2.network import Architecture, Block, Conv, Dense, Generator, build
from raysweep.schema import AlignedFaces, FloatArray
from raysweep.training.shipped import aligned_drawings, make, write_shipped
from raysweep.training.trainer import Batch, Update

__all__ = [
    "ASSET",
    "Discriminator",
    "FaceWindows",
    "InpaintingObjective",
    "InpaintingTrainer",
    "Recipe",
    "centres_of",
    "main",
    "painted_difference",
    "pretrain",
    "sameness",
    "trainer_of",
    "write",
]

ASSET = "deepprivacy2-synthetic.safetensors"
LAZY = 16
"""Steps between two R1 penalties."""
TWICE = 4
"""Every fourth face of a batch is painted with a second latent."""
DIFFERENCE = 0.05
"""Mean difference of two faces, of a range of 2, per distance of their latents, beyond which diversity is not paid."""
REPORT_EVERY = 10
MEAN_OF = 10_000
"""Latents behind the mean style and the centres."""


# ------------------------------------------------------------------ networks and losses


class Discriminator(nn.Module):
    """Whether a face belongs into its surroundings: residual blocks down to 4 pixels, deviation over the batch, one number.

    Args:
        side: of the pictures; 4 times a power of 2.
        width: channels at full side; published 80.
        widest: channels double up to this many times `width`.
    """

    def __init__(self, side: int, width: int, widest: int = 4) -> None:
        super().__init__()
        levels = int(math.log2(side // 4))
        if 4 << levels != side:
            raise ValueError(f"side {side} must be 4 times a power of 2")
        wide = [width * min(1 << level, widest) for level in range(levels + 1)]
        self.from_rgb = Conv(7, wide[0], 1, clamp=None)
        self.blocks = nn.ModuleList(
            Block(wide[level], wide[level + 1], math.sqrt(1 / 2), down=True) for level in range(levels)
        )
        self.last = Conv(wide[-1] + 1, wide[-1], 3)
        self.dense = Dense(wide[-1] * 16, wide[-1], activate=True)
        self.out = Dense(wide[-1], 1)

    def forward(self, face: torch.Tensor, condition: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(n, 3, H, W), (n, 3, H, W), (n, 1, H, W) -> (n,), above 0 for real."""
        x = self.from_rgb(torch.cat([face, condition, mask], dim=1))
        for block in self.blocks:
            x = block(x)
        # How much the faces of a batch differ: a generator that always paints the same one is found out.
        spread = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        x = self.last(torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], dim=1))
        verdict: torch.Tensor = self.out(self.dense(x.flatten(1)))
        return verdict[:, 0]


@dataclass(frozen=True)
class InpaintingObjective:
    """Weights of the terms.

    Attributes:
        adversarial: non-saturating logistic loss (published: 1).
        r1: gradient penalty on real faces (published: 1, at 256 pixels; what balances it grows with the number of pixels).
        epsilon: penalty on the squared verdict of real faces (published: 0.001).
        reconstruction: L1 to the clear face within the box (published: 0).
        diversity: how alike the faces of two latents are (published: 0).
        warm_up: steps with reconstruction alone (published: 0).
    """

    adversarial: float = 1.0
    r1: float = 1.0
    epsilon: float = 1e-3
    reconstruction: float = 5.0
    diversity: float = 4.0
    warm_up: int = 0


def painted_difference(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(n,) mean absolute difference over the painted pixels and the channels.

    Args:
        one, other: (n, 3, H, W).
        mask: (n, 1, H, W), 0 where painted; at least one pixel of each is.
    """
    open_ = 1.0 - mask
    return ((one - other).abs() * open_).sum((1, 2, 3)) / (open_.sum((1, 2, 3)) * one.shape[1])


def sameness(apart: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """How alike the faces of two latents are: what their difference per distance of the latents lacks (after Mao et al., CVPR 2019, arXiv 1903.05628).

    Args:
        apart: (n,) mean absolute difference of the faces.
        one, other: (n, latent).

    Returns:
        scalar in [0, `DIFFERENCE`]; 0 when they differ enough: a bound, so that it cannot outgrow the other terms.
    """
    distance = (one - other).abs().mean(dim=1).clamp_min(1e-3)
    return (DIFFERENCE - apart / distance).clamp_min(0.0).mean()


class InpaintingTrainer:
    """One method's training, as `raysweep.training.trainer.Trainer` says. The batch brings all randomness, so a step is a function of (state, batch).

    A batch has `picture` (n, 3, side, side) float32 in [-1, 1], `mask` (n, 1, side, side) float32 with 0 where a face is to be painted, and
    `z`, `other` (n, latent) float32.

    Args:
        architecture: of the generator.
        discriminator_width: channels of the discriminator at full side.
        objective: weights of the losses.
        learning_rate: of both networks; published 0.002.
        momentum: first beta of Adam; published 0.
        style: factor on the first weights by which styles act; published 1.
        average: steps after which an old weight counts half in the running average.
        seed: of the first weights.
        update: how gradients become steps.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        discriminator_width: int,
        objective: InpaintingObjective | None = None,
        learning_rate: float = 2e-3,
        momentum: float = 0.0,
        style: float = 1.0,
        average: float = 100.0,
        seed: int = 0,
        update: Update | None = None,
    ) -> None:
        random = torch.Generator().manual_seed(seed)
        self.update = Update() if update is None else update
        self.objective = InpaintingObjective() if objective is None else objective
        self.learning_rate = learning_rate
        self.average = average
        device = self.update.device
        self.generator = build(lambda: Generator(architecture), random).to(device).train()
        with torch.no_grad():
            for module in self.generator.modules():
                if isinstance(module, Conv) and module.styled:
                    module.affine.weight.mul_(style)
                    module.affine_beta.weight.mul_(style)
        self.discriminator = (
            build(lambda: Discriminator(architecture.side, discriminator_width), random).to(device).train()
        )
        self.averaged = copy.deepcopy(self.generator).eval().requires_grad_(False)
        lazy = LAZY / (LAZY + 1)
        betas = (momentum**lazy, 0.99**lazy) if momentum else (0.0, 0.99**lazy)
        self._drawing = torch.optim.Adam(
            self.generator.parameters(), lr=learning_rate, betas=(momentum, 0.99), fused=True
        )
        self._judging = torch.optim.Adam(
            self.discriminator.parameters(), lr=learning_rate * lazy, betas=betas, fused=True
        )
        self._rates = (learning_rate, learning_rate * lazy)
        self.steps = 0

    def slow(self, share: float) -> None:
        """Set both learning rates to a share of what they started with."""
        for optimizer, rate in zip((self._drawing, self._judging), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of the generator, then, after the warm-up, one of the discriminator on the same faces."""
        device, weights = self.update.device, self.objective
        picture, mask, z, other = (batch[name].to(device) for name in ("picture", "mask", "z", "other"))
        given = picture * mask
        count = len(picture)
        warm = self.steps >= weights.warm_up
        judged = warm and weights.adversarial > 0
        twice = max(1, count // TWICE) if warm and weights.diversity > 0 else 0
        terms: dict[str, torch.Tensor] = {}
        with self.update.forward():
            both = torch.cat([given, given[:twice]]), torch.cat([mask, mask[:twice]])
            painted = self.generator(*both, self.generator.style(torch.cat([z, other[:twice]])))
            face = painted[:count]
            loss = torch.zeros((), device=device)
            if judged:
                terms["adversarial"] = F.softplus(-self.discriminator(face, given, mask)).mean()
                loss = loss + weights.adversarial * terms["adversarial"]
            if weights.reconstruction > 0:
                terms["reconstruction"] = painted_difference(face, picture, mask).mean()
                loss = loss + weights.reconstruction * terms["reconstruction"]
            if twice:
                apart = painted_difference(painted[count:], face[:twice], mask[:twice])
                terms["diversity"] = sameness(apart, z[:twice], other[:twice])
                loss = loss + weights.diversity * terms["diversity"]
        if terms:
            self.update(self._drawing, list(self.generator.parameters()), loss)
        self._follow()
        if judged:
            with self.update.forward():
                real = self.discriminator(picture, given, mask)
                drawn = self.discriminator(face.detach(), given, mask)
                terms["discriminator"] = F.softplus(-real).mean() + F.softplus(drawn).mean()
                loss = terms["discriminator"] + weights.epsilon * real.square().mean()
            if weights.r1 > 0 and self.steps % LAZY == 0:
                terms["r1"] = self._penalty(picture, given, mask)
                loss = loss + weights.r1 * LAZY / 2 * terms["r1"]
            self.update(self._judging, list(self.discriminator.parameters()), loss)
        self.steps += 1
        return {name: float(term.detach()) for name, term in terms.items()}

    def _penalty(self, picture: torch.Tensor, given: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """R1: squared gradient of the verdict on real faces, in float32 (Mescheder et al., ICML 2018, arXiv 1801.04406)."""
        watched = picture.detach().requires_grad_(True)
        verdict = self.discriminator(watched, given, mask)
        (gradient,) = torch.autograd.grad(verdict.sum(), watched, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the running average; young averages forget faster, as with the published ramp-up."""
        half_life = min(self.average, 0.05 * (self.steps + 1) + 1.0)
        keep = 0.5 ** (1.0 / half_life)
        for mean, now in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(now, 1.0 - keep)

    def modules(self) -> dict[str, nn.Module]:
        """`averaged` is kept after training."""
        return {"generator": self.generator, "discriminator": self.discriminator, "averaged": self.averaged}

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, scaler, number of steps."""
        return {
            **{name: module.state_dict() for name, module in self.modules().items()},
            "drawing": self._drawing.state_dict(),
            "judging": self._judging.state_dict(),
            "update": self.update.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another trainer of the same networks stopped."""
        for name, module in self.modules().items():
            module.load_state_dict(state[name])
        self._drawing.load_state_dict(state["drawing"])
        self._judging.load_state_dict(state["judging"])
        self.update.load_state_dict(state["update"])
        self.steps = int(state["steps"])


# ------------------------------------------------------------------ what there is to learn from


@dataclass(frozen=True)
class FaceWindows:
    """Windows around faces, as the generator will see them; the box differs each time.

    Attributes:
        crop: (N, 3, S, S) uint8 RGB.
        points: (N, 5, 2) float32, crop pixels.
        architecture: of the generator.
        scales: least and largest factor of the box.
        flip: chance that a picture is mirrored.
    """

    crop: torch.Tensor
    points: FloatArray
    architecture: Architecture
    scales: tuple[float, float] = (0.7, 1.3)
    flip: float = 0.5

    @classmethod
    def of(cls, faces: AlignedFaces, architecture: Architecture) -> FaceWindows:
        """From aligned faces."""
        crop = torch.from_numpy(np.ascontiguousarray(faces.crop.transpose(0, 3, 1, 2)))
        return cls(crop, np.asarray(faces.points), architecture)

    def __len__(self) -> int:
        return len(self.crop)

    def batch(self, rows: torch.Tensor, random: torch.Generator) -> Batch:
        """`picture`, `mask`, `z` and `other` for some rows; see `InpaintingTrainer`."""
        count, size, latent = len(rows), self.architecture.side, self.architecture.latent
        low, high = self.scales
        scale = low + (high - low) * torch.rand(count, 1, generator=random, dtype=torch.float64).numpy()
        boxes = face_boxes(self.points[rows.numpy()])
        centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        places: Places = place(
            np.concatenate([centre - scale * half, centre + scale * half], axis=1), self.crop.shape[-1]
        )
        mirrored = torch.rand(count, 1, 1, 1, generator=random) < self.flip
        picture = pictures(self.crop[rows], places, size)
        mask = masks(places, size, picture.device)
        z = torch.randn(2, count, latent, generator=random)
        return {
            "picture": torch.where(mirrored, picture.flip(3), picture),
            "mask": torch.where(mirrored, mask.flip(3), mask),
            "z": z[0],
            "other": z[1],
        }


# ------------------------------------------------------------------ the shipped weights


@dataclass(frozen=True)
class Recipe:
    """How the shipped generator is made."""

    identities: int = 400
    images: int = 7
    seed: int = 8_000_000
    architecture: Architecture = field(
        default_factory=lambda: Architecture(side=32, width=8, widest=8, lowest=8, latent=64)
    )
    discriminator_width: int = 8
    objective: InpaintingObjective = field(
        default_factory=lambda: InpaintingObjective(reconstruction=10.0, r1=0.03, warm_up=700)
    )
    steps: int = 1800
    batch: int = 8
    learning_rate: float = 8e-3
    momentum: float = 0.5
    style: float = 0.15
    centres: int = 8


def trainer_of(recipe: Recipe) -> InpaintingTrainer:
    """Before its first step, on the CPU."""
    return InpaintingTrainer(
        recipe.architecture,
        discriminator_width=recipe.discriminator_width,
        objective=recipe.objective,
        learning_rate=recipe.learning_rate,
        momentum=recipe.momentum,
        style=recipe.style,
        seed=recipe.seed,
    )


def pretrain(recipe: Recipe, trainer: InpaintingTrainer, report: Callable[[Mapping[str, float]], None]) -> None:
    """Train on drawn faces, on the CPU; the learning rate falls linearly to 0 over the second half."""
    faces = aligned_drawings([recipe.images] * recipe.identities, recipe.seed)
    windows = FaceWindows.of(faces, recipe.architecture)
    random = torch.Generator().manual_seed(recipe.seed)
    rounds = -(-recipe.steps * recipe.batch // len(windows))
    rows = torch.cat([torch.randperm(len(windows), generator=random) for _ in range(rounds)])
    for step in range(recipe.steps):
        trainer.slow(min(1.0, 2.0 * (1.0 - step / recipe.steps)))
        numbers = trainer.step(windows.batch(rows[step * recipe.batch : (step + 1) * recipe.batch], random))
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == recipe.steps:
            report({"step": float(step + 1), **numbers})


@torch.no_grad()
def settle(generator: Generator, random: torch.Generator) -> torch.Tensor:
    """Set the mean style; return the styles (10,000, latent) that it is the mean of."""
    latent = generator.architecture.latent
    w = generator.style(torch.randn(MEAN_OF, latent, generator=random))
    generator.style_net.w_avg.copy_(w.mean(dim=0))
    return w


def centres_of(w: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """(count, latent) float32: centres of clusters of styles, for multi-modal truncation (Mokady et al., SIGGRAPH 2022, arXiv 2202.12211)."""
    from sklearn.cluster import KMeans  # type: ignore[import-untyped,unused-ignore]

    fitted = KMeans(count, n_init=1, random_state=seed).fit(w.double().numpy())
    return torch.from_numpy(np.asarray(fitted.cluster_centers_, dtype=np.float32))


def write(recipe: Recipe, generator: Generator, folder: Path) -> Path:
    """Give a trained generator its mean style and centres, and save it."""
    w = settle(generator, torch.Generator().manual_seed(recipe.seed + 1))
    state = {**generator.state_dict(), "style_net.w_centers": centres_of(w, recipe.centres, recipe.seed % 2**31)}
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("resample_filter")}
    return write_shipped(folder / ASSET, kept, recipe)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the shipped weights: `python -m raysweep.training.inpainting --out raysweep/assets`."""

    def train(steps: int, report: Callable[[Mapping[str, float]], None], folder: Path) -> Path:
        recipe = Recipe(steps=steps)
        trainer = trainer_of(recipe)
        pretrain(recipe, trainer, report)
        return write(recipe, trainer.averaged, folder)

    return make(arguments, "raysweep.training.inpainting", main.__doc__, Recipe.steps, train)


if __name__ == "__main__":
    sys.exit(main())
