"""The shipped GANonymization generator: how it is made, and how it is read.

    python -m raysweep.training.generator --out raysweep/assets

draws synthetic faces, trains the small generator on them and writes `ganonymization-synthetic.safetensors`; about five minutes on one
core, the same file each time on the same machine and library versions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from raysweep.anonymizers.base import Teachers
from raysweep.anonymizers.ganonymization.conditioning import condition_channels
from raysweep.anonymizers.ganonymization.network import Discriminator, Generator, build
from raysweep.errors import ModelError
from raysweep.training.ganonymization import Objective, train_generator
from raysweep.training.pairs import Pairs

if TYPE_CHECKING:
    from raysweep.schema import AlignedFaces, ByteArray

__all__ = ["PretrainedGenerator", "Recipe", "asset_path", "draw_training_faces", "load_pretrained", "main", "pretrain"]

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


def asset_path() -> Path:
    """Where the shipped weights lie."""
    return Path(__file__).resolve().parent.parent / "assets" / ASSET


def load_pretrained(path: Path | None = None) -> PretrainedGenerator:
    """The shipped weights and how they were made.

    Raises:
        ModelError: missing or not ours.
    """
    from safetensors import SafetensorError, safe_open

    path = asset_path() if path is None else path
    if not path.is_file():
        raise ModelError(
            f"{path.name} is missing; remake it with python -m raysweep.training.generator --out {path.parent.name}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            recipe = Recipe(**json.loads(file.metadata()["made"])["recipe"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path.name} cannot be read: {error}; remake it with python -m raysweep.training.generator"
        ) from error
    return PretrainedGenerator(state, recipe)


def draw_training_faces(recipe: Recipe) -> AlignedFaces:
    """Synthetic faces of people who occur nowhere else, aligned to the default frame."""
    from raysweep.data.synthetic import SyntheticFaces
    from raysweep.preprocess.align import similarity, transform_points, warp_crop, warp_labels
    from raysweep.schema import AlignedFaces, FaceTable, Frame

    frame = Frame()
    source = SyntheticFaces(identities=recipe.identities, images_per_identity=recipe.images, seed=recipe.seed)
    identity = np.repeat(np.arange(recipe.identities), recipe.images)
    drawn = source.draw(identity, np.tile(np.arange(recipe.images), recipe.identities))
    matrices = similarity(drawn.points, frame.points)
    count = len(identity)
    return AlignedFaces(
        table=FaceTable(
            face_id=np.arange(count).astype(np.str_),
            identity=identity,
            expression=drawn.expression,
            role=np.full(count, "G"),
            side=np.full(count, ""),
            identity_names=tuple(map(str, range(recipe.identities))),
        ),
        frame=frame,
        crop=_each(warp_crop, drawn.image, matrices, frame.size),
        points=transform_points(drawn.points, matrices),
        landmarks=transform_points(drawn.landmarks, matrices),
        mask=_each(warp_labels, drawn.mask, matrices, frame.size),
        synthetic=True,
    )


def _each(
    warp: Callable[[ByteArray, npt.NDArray[np.float64], int], ByteArray],
    images: ByteArray,
    matrices: npt.NDArray[np.float64],
    size: int,
) -> ByteArray:
    return np.stack([warp(image, matrix, size) for image, matrix in zip(images, matrices, strict=True)])


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
    from dataclasses import asdict

    from safetensors.torch import save_file

    from raysweep.data.synthetic import DRAWING_VERSION

    parser = argparse.ArgumentParser(prog="python -m raysweep.training.generator", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument(
        "--steps", type=int, default=Recipe.steps, help="updates of the generator (default %(default)s)"
    )
    given = parser.parse_args(arguments)
    recipe = Recipe(steps=given.steps)
    torch.set_num_threads(1)
    started = time.perf_counter()

    def report(numbers: Mapping[str, float]) -> None:
        if numbers["step"] % 200 == 0 or numbers["step"] == recipe.steps:
            terms = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items() if name != "step")
            sys.stdout.write(
                f"step {numbers['step']:.0f}/{recipe.steps}  {terms}  {time.perf_counter() - started:.0f} s\n"
            )
            sys.stdout.flush()

    generator = pretrain(recipe, report)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / ASSET
    halves = {name: tensor.half().contiguous() for name, tensor in generator.state_dict().items()}
    # One entry: safetensors writes several in no fixed order, and the file would differ each time.
    made = {"recipe": asdict(recipe), "trained_on": "synthetic faces", "drawing_version": DRAWING_VERSION}
    save_file(halves, path, metadata={"made": json.dumps(made)})
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
