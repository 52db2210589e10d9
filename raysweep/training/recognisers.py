"""Train the recognisers of the embedded default on synthetic faces.

    python -m raysweep.training.recognisers --out raysweep/assets

remakes all five files (one and a half to three minutes each on one free core); `--only NAME` one of them. Training draws its people from seeds of
`TRAINING_SEED` and above, the scores in the file headers come from `HELD_OUT_SEED`; a sweep draws from seeds below both, so
no recogniser has seen anybody whom it judges or attacks.

| file | used as |
|------|---------|
| synthetic-id-a | embedder: attacker, and teacher of identity suppression |
| synthetic-id-b | embedder: attacker that no loss has ever seen |
| synthetic-fer-a, synthetic-fer-b | expression judges, never teachers |
| synthetic-fer-teacher | teacher of expression losses, never a judge |
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from raysweep.data.synthetic import DRAWING_VERSION, SyntheticFaces
from raysweep.errors import ConfigError, nearest
from raysweep.models.small import build_small
from raysweep.preprocess.align import similarity, warp_crop
from raysweep.schema import ARCFACE_SIZE, EXPRESSIONS, ByteArray, FloatArray, Frame, IntArray

__all__ = [
    "HELD_OUT_SEED",
    "RECIPES",
    "TRAINING_SEED",
    "Recipe",
    "aligned_batch",
    "as_input",
    "expression_accuracy",
    "held_out_scores",
    "main",
    "rank_one",
    "train",
]

TRAINING_SEED = 10_000
"""Seeds from here to `HELD_OUT_SEED` draw the people of training."""

HELD_OUT_SEED = 20_000
"""Draws the people of the scores in the headers."""

COMMAND = "python -m raysweep.training.recognisers --out raysweep/assets"

INPUT = {
    "size": ARCFACE_SIZE,
    "colour": "rgb",
    "mean": [127.5] * 3,
    "std": [127.5] * 3,
    "region": [0.0, 0.0, 112.0, 112.0],
    "layout": "nchw",
}
"""As `raysweep.models.base.InputSpec`."""


Precision = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class Recipe:
    """One network and how it is trained.

    Attributes:
        name: of the file and of the lineage.
        task: what it learns.
        architecture, kwargs: as `build_small` takes them.
        seed: of the people (added to `TRAINING_SEED`), the first weights, and the augmentation.
        identities: people in training.
        steps, batch: faces seen = steps x batch, every one drawn once.
        rate: peak learning rate of the one-cycle schedule.
        margin, scale: of the cosine margin (CosFace, arXiv 1801.09414); embedders only.
    """

    name: str
    task: Literal["embedder", "expression"]
    architecture: str
    seed: int
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    identities: int = 600
    steps: int = 600
    batch: int = 96
    rate: float = 3e-3
    margin: float = 0.25
    scale: float = 24.0


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("synthetic-id-a", "embedder", "small-embedder", 1, {"dim": 128, "width": 24, "block": "residual", "side": 56}),
        Recipe(
            "synthetic-id-b", "embedder", "small-embedder", 2,
            {"dim": 96, "width": 28, "block": "depthwise", "side": 48, "depth": 2}, margin=0.3,
        ),
        Recipe("synthetic-fer-a", "expression", "small-expression", 3, {"width": 16, "block": "residual", "side": 56}, steps=450),
        Recipe(
            "synthetic-fer-b", "expression", "small-expression", 4,
            {"width": 20, "block": "depthwise", "side": 48, "depth": 2, "hidden": 48}, steps=450,
        ),
        Recipe(
            "synthetic-fer-teacher", "expression", "small-expression", 5,
            {"width": 20, "block": "residual", "side": 56, "hidden": 96}, steps=450,
        ),
    )
}  # fmt: skip


def aligned_batch(
    faces: SyntheticFaces, identity: IntArray, image: IntArray, jitter: np.random.Generator | None = None
) -> tuple[ByteArray, IntArray]:
    """Draw faces and align them to the ArcFace crop.

    Args:
        identity, image: (n,) numbers of the faces.
        jitter: moves the five points by about one pixel before alignment, as a detector would; None for the exact points.

    Returns:
        (n, 112, 112, 3) uint8 RGB crops and (n,) expressions.
    """
    drawn = faces.draw(identity, image)
    points = drawn.points.astype(np.float64)
    if jitter is not None:
        points = points + jitter.normal(0.0, 0.7 * faces.size / ARCFACE_SIZE, points.shape)
    matrices = similarity(points, Frame().points)
    crops = np.stack([warp_crop(one, matrix, ARCFACE_SIZE) for one, matrix in zip(drawn.image, matrices, strict=True)])
    return crops, drawn.expression


def as_input(crops: ByteArray) -> torch.Tensor:
    """(n, 112, 112, 3) uint8 -> (n, 3, 112, 112) float32 in [-1, 1]."""
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5).contiguous()


def _augment(crops: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Slight blur and noise on some: a camera's, not an anonymizer's."""
    for crop in crops:
        if rng.random() < 0.25:
            crop[:] = cv2.GaussianBlur(crop, (0, 0), float(rng.uniform(0.4, 1.2)))
        if rng.random() < 0.25:
            noise = rng.standard_normal(crop.shape, dtype=np.float32) * np.float32(rng.uniform(1.0, 6.0))
            crop[:] = (crop + noise).clip(0, 255).astype(np.uint8)
    return crops


def _batches(recipe: Recipe, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless (input, identity, expression); every face is drawn once."""
    faces = SyntheticFaces(identities=recipe.identities, seed=TRAINING_SEED + recipe.seed)
    while True:
        identity = rng.integers(0, recipe.identities, recipe.batch)
        image = rng.integers(0, 1_000_000, recipe.batch)
        crops, expression = aligned_batch(faces, identity, image, rng)
        yield as_input(_augment(crops, rng)), torch.from_numpy(identity), torch.from_numpy(expression)


def _cosine_margin(
    recipe: Recipe, centres: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    """CosFace: the true class must win by `margin`; the margin grows in, from a fifth of training to three fifths."""

    def loss(embedding: torch.Tensor, identity: torch.Tensor, share: float) -> torch.Tensor:
        cosine = embedding @ functional.normalize(centres, dim=1).T
        margin = functional.one_hot(identity, len(centres)) * (recipe.margin * min(1.0, max(0.0, 2.5 * share - 0.5)))
        return functional.cross_entropy(recipe.scale * (cosine - margin), identity)

    return loss


def train(recipe: Recipe, report: Callable[[str], None] = print, precision: Precision = "bfloat16") -> nn.Module:
    """Train one network; the same recipe gives the same network on the same machine and library versions.

    Args:
        recipe: what to train.
        report: takes a line now and then.
        precision: of convolutions; `bfloat16` needs half the time on processors that compute in it.

    Returns:
        The network in evaluation mode, on the CPU.
    """
    rng = np.random.default_rng([TRAINING_SEED, recipe.seed])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TRAINING_SEED + recipe.seed)
        network = build_small(recipe.architecture, recipe.kwargs).train().to(memory_format=torch.channels_last)
        groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "lr": recipe.rate}]
        margin_loss = None
        if recipe.task == "embedder":
            centres = nn.Parameter(torch.randn(recipe.identities, int(recipe.kwargs["dim"])))
            # A centre moves only when its person is in the batch.
            groups.append({"params": [centres], "lr": 5.0 * recipe.rate})
            margin_loss = _cosine_margin(recipe, centres)
        optimiser = torch.optim.AdamW(groups, weight_decay=1e-2)
        peaks = [group["lr"] for group in groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peaks, total_steps=recipe.steps, pct_start=0.15)
        begun, running = time.monotonic(), 0.0
        for step, (inputs, identity, expression) in zip(range(recipe.steps), _batches(recipe, rng), strict=False):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                output = network(inputs.contiguous(memory_format=torch.channels_last)).float()
            if margin_loss is not None:
                loss = margin_loss(output, identity, step / recipe.steps)
            else:
                loss = functional.cross_entropy(output, expression, label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            running += (float(loss.detach()) - running) * (0.02 if step else 1.0)
            if step % 100 == 99:
                report(
                    f"{recipe.name}: step {step + 1}/{recipe.steps}, loss {running:.3f}, {time.monotonic() - begun:.0f} s"
                )
    return network.eval().to(memory_format=torch.contiguous_format)


def rank_one(embedding: FloatArray, identity: IntArray, enrolled: npt.NDArray[np.bool_]) -> float:
    """Closed-set rank-1: a probe goes to the person of its most similar enrolled image (cosine).

    Args:
        embedding: (n, D) L2-normalised. identity: (n,). enrolled: (n,) bool, the rest are probes.
    """
    scores = embedding[~enrolled] @ embedding[enrolled].T
    return float(np.mean(identity[enrolled][scores.argmax(axis=1)] == identity[~enrolled]))


def expression_accuracy(logits: FloatArray, expression: IntArray) -> float:
    """Share of faces whose strongest class is the drawn one."""
    return float(np.mean(logits.argmax(axis=1) == expression))


def held_out_scores(network: nn.Module, task: str, identities: int = 120, images: int = 21) -> dict[str, float]:
    """Score on people of `HELD_OUT_SEED`: `rank1` (odd images enrolled) for an embedder, `accuracy` for an expression model."""
    faces = SyntheticFaces(identities=identities, images_per_identity=images, seed=HELD_OUT_SEED)
    row = np.arange(len(faces), dtype=np.int64)
    outputs, expressions = [], []
    with torch.inference_mode():
        for start in range(0, len(row), 128):
            part = row[start : start + 128]
            crops, expression = aligned_batch(faces, part // images, part % images)
            outputs.append(network(as_input(crops)).numpy())
            expressions.append(expression)
    output = np.concatenate(outputs)
    if task == "embedder":
        return {"rank1": rank_one(output, row // images, (row % images) % 2 == 1)}
    return {"accuracy": expression_accuracy(output, np.concatenate(expressions))}


def _sorted_header(data: bytes) -> bytes:
    """The same safetensors file with sorted metadata (the library's order is random), so that equal weights are equal bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _save(network: nn.Module, recipe: Recipe, folder: Path) -> tuple[Path, dict[str, float]]:
    """Half precision, scored as it will be loaded; the header says all that is needed to use and to remake it."""
    from safetensors.torch import save

    state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    scores = held_out_scores(network, recipe.task)
    metadata = {
        "name": recipe.name,
        "task": recipe.task,
        "architecture": recipe.architecture,
        "kwargs": json.dumps(dict(recipe.kwargs)),
        "input": json.dumps(INPUT),
        "classes": json.dumps(EXPRESSIONS if recipe.task == "expression" else []),
        "lineage": json.dumps([recipe.name]),
        "scores": json.dumps({k: round(v, 4) for k, v in scores.items()}),
        "drawing": str(DRAWING_VERSION),
        "training": f"{COMMAND} --only {recipe.name}",
        "training_seed": str(TRAINING_SEED + recipe.seed),
        "held_out_seed": str(HELD_OUT_SEED),
        "licence": "MIT",
    }
    path = folder / f"{recipe.name}.safetensors"
    waiting = path.with_suffix(".part")
    waiting.write_bytes(_sorted_header(save({k: v.contiguous() for k, v in state.items()}, metadata)))
    waiting.replace(path)
    return path, scores


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m raysweep.training.recognisers --out FOLDER [--only NAME]`."""
    parser = argparse.ArgumentParser(prog="python -m raysweep.training.recognisers", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--only", action="append", metavar="NAME", help=f"one of {', '.join(RECIPES)}; may be repeated")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch and OpenCV; other values may change the last digits"
    )
    parser.add_argument(
        "--precision", choices=("bfloat16", "float32"), default="bfloat16", help="of training (default %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    names = chosen.only or list(RECIPES)
    unknown = [
        f"--only {name}: unknown{nearest(name, list(RECIPES))}; known: {', '.join(RECIPES)}"
        for name in names
        if name not in RECIPES
    ]
    if unknown:
        raise ConfigError(unknown)
    torch.set_num_threads(chosen.threads)
    cv2.setNumThreads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        recipe = RECIPES[name]
        path, scores = _save(train(recipe, _say, chosen.precision), recipe, chosen.out)
        _say(f"{path}: {path.stat().st_size / 1e6:.2f} MB, held out {scores}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command's output


if __name__ == "__main__":
    raise SystemExit(main())
