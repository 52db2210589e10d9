"""The shipped generators' files: what they were made with goes with the weights; and the drawn faces that they learned from.

A file is made again by the module that trained it, `python -m raysweep.training.<name> --out raysweep/assets`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from raysweep.errors import ModelError

if TYPE_CHECKING:
    from raysweep.schema import AlignedFaces, ByteArray, IntArray

__all__ = ["aligned_drawings", "asset_path", "make", "read_shipped", "write_shipped"]

Report = Callable[[Mapping[str, float]], None]


def asset_path(name: str) -> Path:
    """Where the weights of a name lie."""
    return Path(__file__).resolve().parent.parent / "assets" / name


def read_shipped(path: Path, module: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The recipe and the state dict, float32.

    Args:
        path: of the file.
        module: that makes it.

    Raises:
        ModelError: missing or not ours; says how to make it again.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path.name} is missing; remake it with python -m {module} --out {path.parent.name}")
    try:
        with safe_open(path, framework="pt") as file:
            recipe = dict(json.loads(file.metadata()["made"])["recipe"])
            return recipe, {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read: {error}; remake it with python -m {module}") from error


def write_shipped(path: Path, state: Mapping[str, torch.Tensor], recipe: Any) -> Path:
    """Save a state dict in half precision with its recipe, a dataclass: the same bytes for the same content."""
    from safetensors.torch import save_file

    from raysweep.data.synthetic import DRAWING_VERSION

    path.parent.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.half().contiguous() for name, tensor in state.items()}
    # One entry: safetensors writes several in no fixed order, and the file would differ each time.
    made = {"recipe": asdict(recipe), "trained_on": "synthetic faces", "drawing_version": DRAWING_VERSION}
    save_file(halves, path, metadata={"made": json.dumps(made)})
    return path


def make(
    arguments: Sequence[str] | None,
    module: str,
    doc: str | None,
    steps: int,
    train: Callable[[int, Report, Path], Path],
) -> int:
    """The command line of a module that makes a file.

    Args:
        arguments: given; None for those of the process.
        module: its name.
        doc: what it does.
        steps: default number.
        train: given the number of steps, a report and the folder, makes the file.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--steps", type=int, default=steps, help="updates of the generator (default %(default)s)")
    given = parser.parse_args(arguments)
    # The bytes of the file depend on how sums are split.
    torch.set_num_threads(1)
    started = time.perf_counter()

    def report(numbers: Mapping[str, float]) -> None:
        if numbers["step"] % 100 == 0 or numbers["step"] == given.steps:
            terms = "  ".join(f"{name} {value:.4f}" for name, value in numbers.items() if name != "step")
            sys.stdout.write(
                f"step {numbers['step']:.0f}/{given.steps}  {terms}  {time.perf_counter() - started:.0f} s\n"
            )
            sys.stdout.flush()

    path = train(given.steps, report, given.out)
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")
    return 0


def aligned_drawings(images: Sequence[int], seed: int, *, masks: bool = False) -> AlignedFaces:
    """Drawn faces of people who occur nowhere else, aligned to the default frame, all of role G.

    Args:
        images: of each person.
        seed: of the people.
        masks: with parsing masks.
    """
    from raysweep.data.synthetic import SyntheticFaces
    from raysweep.preprocess.align import similarity, transform_points, warp_crop, warp_labels
    from raysweep.schema import AlignedFaces, FaceTable, Frame

    def each(warp: Callable[[ByteArray, npt.NDArray[np.float64], int], ByteArray], pictures: ByteArray) -> ByteArray:
        return np.stack([warp(one, matrix, frame.size) for one, matrix in zip(pictures, matrices, strict=True)])

    frame = Frame()
    identity: IntArray = np.repeat(np.arange(len(images)), images)
    image = np.concatenate([np.arange(count) for count in images])
    source = SyntheticFaces(identities=len(images), images_per_identity=max(images), seed=seed)
    drawn = source.draw(identity, image)
    matrices = similarity(drawn.points, frame.points)
    count = len(identity)
    return AlignedFaces(
        table=FaceTable(
            face_id=np.arange(count).astype(np.str_),
            identity=identity,
            expression=drawn.expression,
            role=np.full(count, "G"),
            side=np.full(count, ""),
            identity_names=tuple(map(str, range(len(images)))),
        ),
        frame=frame,
        crop=each(warp_crop, drawn.image),
        points=transform_points(drawn.points, matrices),
        landmarks=transform_points(drawn.landmarks, matrices),
        mask=each(warp_labels, drawn.mask) if masks else None,
        synthetic=True,
    )
