"""The shipped GANonymization generator: how it is made, and how it is read.

    python -m raysweep.training.generator --out raysweep/assets

draws synthetic faces, trains the small generator on them and writes `ganonymization-synthetic.safetensors`; about five minutes on one
core, the same file each time on the same machine and library versions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raysweep.anonymizers.base import Teachers
from raysweep.anonymizers.ganonymization.conditioning import condition_channels
from raysweep.anonymizers.ganonymization.network import Discriminator, Generator, build
from raysweep.training.ganonymization import Objective, train_generator
from raysweep.training.pairs import Pairs
from raysweep.training.shipped import aligned_drawings, asset_path, make, read_shipped, write_shipped

if TYPE_CHECKING:
    from raysweep.schema import AlignedFaces

__all__ = ["PretrainedGenerator", "Recipe", "draw_training_faces", "load_pretrained", "main", "pretrain"]

ASSET = "ganonymization-synthetic.safetensors"


@dataclass(frozen=True)
class Recipe:
    """How the shipped generator is made."""

    identities: int = 400
    images: int = 7
    seed: int = 7_000_000
    width: int = 16
    depth: int = 4
    size: int = 64
    conditioning: str = "landmarks"
    discriminator_width: int = 8
    steps: int = 5000
    batch: int = 8
    learning_rate: float = 6e-4
    adversarial: float = 0.3


@dataclass(frozen=True)
class PretrainedGenerator:
    """The shipped generator.

    Attributes:
        state: its state dict, float32.
        recipe: how it was made.
    """

    state: dict[str, torch.Tensor]
    recipe: Recipe


def load_pretrained(path: Path | None = None) -> PretrainedGenerator:
    """The shipped weights and how they were made.

    Raises:
        ModelError: missing or not ours.
    """
    made, state = read_shipped(asset_path(ASSET) if path is None else path, "raysweep.training.generator")
    return PretrainedGenerator(state, Recipe(**made))


def draw_training_faces(recipe: Recipe) -> AlignedFaces:
    """Synthetic faces of people who occur nowhere else, with their parsing masks."""
    return aligned_drawings([recipe.images] * recipe.identities, recipe.seed, masks=True)


def pretrain(recipe: Recipe, report: Callable[[Mapping[str, float]], None]) -> Generator:
    """Train the generator of a recipe on the CPU."""
    seeded = torch.Generator().manual_seed(recipe.seed)
    channels = condition_channels(recipe.conditioning)
    generator = build(lambda: Generator(channels, recipe.width, recipe.depth), seeded)
    discriminator = build(lambda: Discriminator(3 + channels, recipe.discriminator_width), seeded)
    train_generator(
        generator,
        discriminator,
        Pairs.of(draw_training_faces(recipe), recipe.size, recipe.conditioning),
        Objective(adversarial=recipe.adversarial),
        Teachers(),
        steps=recipe.steps,
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
        device=torch.device("cpu"),
        report=report,
    )
    return generator


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the shipped weights: `python -m raysweep.training.generator --out raysweep/assets`."""

    def train(steps: int, report: Callable[[Mapping[str, float]], None], folder: Path) -> Path:
        recipe = Recipe(steps=steps)
        return write_shipped(folder / ASSET, pretrain(recipe, report).state_dict(), recipe)

    return make(arguments, "raysweep.training.generator", main.__doc__, Recipe.steps, train)


if __name__ == "__main__":
    sys.exit(main())
