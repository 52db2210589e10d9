"""Training of the GANonymization generator: the loop that a trial runs, and the command that makes the shipped weights.

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
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from raysweep.anonymizers.base import Teachers
from raysweep.anonymizers.ganonymization.conditioning import condition, condition_channels, resize_mask
from raysweep.anonymizers.ganonymization.network import Discriminator, Generator, build
from raysweep.errors import ConfigError, ModelError
from raysweep.training.losses import (
    adversarial_loss,
    expression_feature_loss,
    expression_logit_loss,
    identity_loss,
    reconstruction_loss,
)

if TYPE_CHECKING:
    from raysweep.schema import AlignedFaces, ByteArray

__all__ = [
    "Objective",
    "Pairs",
    "PretrainedGenerator",
    "generator_losses",
    "load_pretrained",
    "main",
    "shares_of_picture",
    "train_generator",
]

ExpressionLoss = Literal["none", "kd_logit", "feature"]

ASSET = "ganonymization-synthetic.safetensors"
REPORT_EVERY = 10
TARGET_CHUNK = 128
IDENTITY_MARGIN = 0.2
"""Cosine that strangers reach now and then; closer to the clear face than this is suppressed."""


@dataclass(frozen=True)
class Objective:
    """What the generator is trained for: weights of the terms of its loss.

    Attributes:
        adversarial: least-squares GAN.
        reconstruction: L1 to the clear face (published: 100).
        identity: suppression of the clear face's identity (published: 0).
        expression: weight of `expression_loss`.
        expression_loss: `none` (published), `kd_logit` or `feature`.
    """

    adversarial: float = 1.0
    reconstruction: float = 100.0
    identity: float = 0.0
    expression: float = 0.0
    expression_loss: ExpressionLoss = "none"

    @property
    def uses_expression(self) -> bool:
        """Whether an expression teacher is asked."""
        return self.expression > 0 and self.expression_loss != "none"

    def check(self, teachers: Teachers) -> None:
        """Refuse terms whose teacher is not at hand.

        Raises:
            ConfigError: names each.
        """
        problems = []
        if self.identity > 0 and teachers.identity is None:
            problems.append(
                f"identity suppression (identity = {self.identity:g}) needs a torch embedder as teacher and none is at hand; "
                "add one to the models, or set identity=0"
            )
        if self.uses_expression and teachers.expression is None:
            problems.append(
                f"expression_loss = {self.expression_loss!r} needs a torch expression model as teacher and none is at hand; "
                "add one to the models, or set expression_loss=none"
            )
        if problems:
            raise ConfigError([f"ganonymization: {problem}" for problem in problems])


def shares_of_picture(points: torch.Tensor, side: int) -> torch.Tensor:
    """(..., 2) crop pixels (centre of the first pixel at 0) -> shares of the picture (its edges at 0 and 1)."""
    return (points + 0.5) / side


@dataclass(frozen=True)
class Pairs:
    """Conditions and the faces that belong to them.

    Attributes:
        crop: (N, S, S, 3) uint8 RGB clear crops.
        target: (N, 3, size, size) uint8, what the generator should draw: the crop at its size, on black where a mask tells the background.
        landmarks: (N, K, 2) float32 shares of the picture, or None.
        mask: (N, size, size) uint8 labels, or None.
        size: side of the generator's pictures.
        kind: of condition.
    """

    crop: ByteArray
    target: torch.Tensor
    landmarks: torch.Tensor | None
    mask: torch.Tensor | None
    size: int
    kind: str

    @classmethod
    def of(cls, faces: AlignedFaces, size: int, kind: str) -> Pairs:
        """From aligned faces.

        Raises:
            ConfigError: the faces lack what the condition is drawn from.
        """
        if "landmarks" in kind and faces.landmarks is None:
            raise ConfigError(
                f"ganonymization: conditioning = {kind!r} needs faces with dense landmarks; prepare them first"
            )
        if "mask" in kind and faces.mask is None:
            raise ConfigError(
                f"ganonymization: conditioning = {kind!r} needs faces with a parsing mask; prepare them first"
            )
        mask = None if faces.mask is None else resize_mask(torch.from_numpy(np.ascontiguousarray(faces.mask)), size)
        landmarks = None
        if faces.landmarks is not None:
            landmarks = shares_of_picture(torch.from_numpy(np.ascontiguousarray(faces.landmarks)), faces.frame.size)
        target = torch.cat(
            [_shrink(faces.crop[start : start + TARGET_CHUNK], size) for start in range(0, len(faces), TARGET_CHUNK)]
        )
        if mask is not None:
            target = torch.where(mask[:, None] == 0, 0, target)
        return cls(faces.crop, target, landmarks, mask if "mask" in kind else None, size, kind)

    def __len__(self) -> int:
        return len(self.target)

    def condition(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """(n, C, size, size) float32 for some rows."""
        landmarks = self.landmarks[rows].to(device) if self.landmarks is not None and "landmarks" in self.kind else None
        mask = self.mask[rows].to(device) if self.mask is not None else None
        return condition(landmarks, mask, self.size, self.kind)

    def targets(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """(n, 3, size, size) float32 in [-1, 1] for some rows."""
        return self.target[rows].to(device).float().div_(127.5).sub_(1.0)


def _shrink(crop: ByteArray, size: int) -> torch.Tensor:
    """(n, S, S, 3) uint8 -> (n, 3, size, size) uint8, antialiased."""
    images = torch.from_numpy(np.ascontiguousarray(crop.transpose(0, 3, 1, 2)))
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True).round().to(torch.uint8)


class _Advice:
    """What the teachers say of the clear faces (asked once per face) and of the generator's."""

    def __init__(
        self, pairs: Pairs, rows: torch.Tensor, teachers: Teachers, objective: Objective, device: torch.device
    ) -> None:
        self.side = pairs.crop.shape[1]
        self.identity = teachers.identity if objective.identity > 0 else None
        self.expression = teachers.expression if objective.uses_expression else None
        self.place = torch.full((len(pairs),), -1, dtype=torch.int64)
        used = torch.unique(rows)
        self.place[used] = torch.arange(len(used))
        embeddings, logits, features = [], [], []
        if self.identity is not None or self.expression is not None:
            for part in used.split(TARGET_CHUNK):
                crops = torch.from_numpy(np.ascontiguousarray(pairs.crop[part.numpy()].transpose(0, 3, 1, 2)))
                clear = crops.to(device).float().div_(255.0)
                with torch.no_grad():
                    if self.identity is not None:
                        embeddings.append(self.identity(clear))
                    if self.expression is not None:
                        answer = self.expression(clear)
                        logits.append(answer[0])
                        features.append(answer[1])
        self.embeddings = torch.cat(embeddings) if embeddings else None
        self.logits = torch.cat(logits) if logits else None
        self.features = torch.cat(features) if features else None

    def losses(self, face: torch.Tensor, rows: torch.Tensor, objective: Objective) -> dict[str, torch.Tensor]:
        """The teachers' terms for faces (n, 3, size, size) in [-1, 1] drawn for `rows`."""
        if self.identity is None and self.expression is None:
            return {}
        crops = (face + 1.0) / 2.0
        if crops.shape[-1] != self.side:
            crops = F.interpolate(crops, size=(self.side, self.side), mode="bilinear", align_corners=False)
        place = self.place[rows].to(face.device)
        terms = {}
        if self.identity is not None and self.embeddings is not None:
            terms["identity"] = identity_loss(self.identity(crops), self.embeddings[place], IDENTITY_MARGIN)
        if self.expression is not None and self.logits is not None and self.features is not None:
            logits, features = self.expression(crops)
            if objective.expression_loss == "kd_logit":
                terms["expression"] = expression_logit_loss(logits, self.logits[place])
            else:
                terms["expression"] = expression_feature_loss(features, self.features[place])
        return terms


def generator_losses(
    face: torch.Tensor,
    target: torch.Tensor,
    verdict: torch.Tensor | None,
    advice: Mapping[str, torch.Tensor],
    objective: Objective,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The generator's loss and its terms, unweighted; a term of weight 0 is left out.

    Args:
        face, target: (n, 3, size, size) in [-1, 1].
        verdict: the discriminator's on `face`; None when its term has weight 0.
        advice: the teachers' terms, `identity` and `expression`.
    """
    terms: dict[str, torch.Tensor] = {}
    if objective.reconstruction > 0:
        terms["reconstruction"] = reconstruction_loss(face, target)
    if verdict is not None:
        terms["adversarial"] = adversarial_loss(verdict, real=True)
    terms.update(advice)
    weights = {
        "reconstruction": objective.reconstruction,
        "adversarial": objective.adversarial,
        "identity": objective.identity,
        "expression": objective.expression,
    }
    total = torch.zeros((), device=face.device)
    for name, term in terms.items():
        total = total + weights[name] * term
    return total, terms


def train_generator(
    generator: Generator,
    discriminator: Discriminator,
    pairs: Pairs,
    objective: Objective,
    teachers: Teachers,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
    report: Callable[[Mapping[str, float]], None],
) -> None:
    """Train in place: per step one update of the generator, then one of the discriminator on the same faces.

    Adam with betas (0.5, 0.999) for both, as published. Two things differ: the published discriminator step draws the faces afresh, here it
    takes those of the generator's step, which saves a quarter of the time; and the published learning rate is constant, here it falls
    linearly to 0 over the second half, because a trial's few hundred steps would otherwise end wherever the last batch pulled.

    Args:
        generator, discriminator: changed in place; in evaluation mode when this returns.
        pairs: conditions and faces.
        objective: weights of the loss.
        teachers: networks for the identity and expression terms.
        steps: updates.
        batch: faces per update.
        learning_rate: of both networks.
        seed: order of the faces and dropout. On the CPU the same seed gives the same weights.
        device: where to compute.
        report: gets `step` and the terms, every ten steps and at the end.

    Raises:
        ConfigError: a term needs a teacher that is not at hand.
    """
    objective.check(teachers)
    order = torch.Generator().manual_seed(seed)
    rows = _shuffled(len(pairs), steps * batch, order)
    advice = _Advice(pairs, rows, teachers, objective, device)
    generator.to(device).train()
    discriminator.to(device).train()
    drawing, judging = list(generator.parameters()), list(discriminator.parameters())
    optimise_drawing, optimise_judging = (
        torch.optim.Adam(group, lr=learning_rate, betas=(0.5, 0.999), fused=True) for group in (drawing, judging)
    )
    # Dropout has no random state of its own: lend it the global one and give that back unchanged.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in range(steps):
            for group in (*optimise_drawing.param_groups, *optimise_judging.param_groups):
                group["lr"] = learning_rate * min(1.0, 2.0 * (1.0 - step / steps))
            part = rows[step * batch : (step + 1) * batch]
            given, target = pairs.condition(part, device), pairs.targets(part, device)
            face = generator(given)
            verdict = discriminator(face, given) if objective.adversarial > 0 else None
            total, terms = generator_losses(face, target, verdict, advice.losses(face, part, objective), objective)
            if terms:
                _update(optimise_drawing, drawing, total)
            numbers = {name: term.detach() for name, term in terms.items()}
            if objective.adversarial > 0:
                real = adversarial_loss(discriminator(target, given), real=True)
                drawn = adversarial_loss(discriminator(face.detach(), given), real=False)
                _update(optimise_judging, judging, 0.5 * (real + drawn))
                numbers["discriminator"] = (0.5 * (real + drawn)).detach()
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
                report({"step": float(step + 1), **{name: float(value) for name, value in numbers.items()}})
    generator.eval()
    discriminator.eval()


def _shuffled(count: int, wanted: int, order: torch.Generator) -> torch.Tensor:
    """(wanted,) row numbers: all rows in a new order again and again."""
    rounds = -(-wanted // count)
    return torch.cat(
        [torch.randperm(count, generator=order) for _ in range(rounds)] or [torch.empty(0, dtype=torch.int64)]
    )[:wanted]


def _update(optimiser: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], loss: torch.Tensor) -> None:
    """One step on these parameters only: teachers and the other network get no gradient."""
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimiser.step()


# ------------------------------------------------------------------ the shipped weights


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
