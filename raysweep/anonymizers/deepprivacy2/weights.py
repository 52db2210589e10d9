"""Weights for the generator: the published checkpoints and the small one that comes with raysweep, opened once per process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raysweep.anonymizers.deepprivacy2.conditioning import WINDOW
from raysweep.anonymizers.deepprivacy2.network import Architecture, Generator, build, resampling_filter
from raysweep.errors import ModelError
from raysweep.models.checkpoint import load_generator_state, shapes_of
from raysweep.models.loading import file_digest, read_container

if TYPE_CHECKING:
    from raysweep.models.entry import Entry
    from raysweep.models.zoo import Found

__all__ = ["PUBLISHED", "SMALL", "Painter", "open_painter", "shipped"]

PUBLISHED = "deepprivacy2"
"""Family of the published checkpoints in the zoo."""

SMALL = "deepprivacy2-small"
"""Family of the generator that this project trained on drawn faces."""

FALLBACK_KEY = "running_average_generator"
CENTRES = "w_centers"
CENTRES_WITHIN = f"style_net.{CENTRES}"


@dataclass(frozen=True)
class Painter:
    """A generator ready to paint, and what belongs to it.

    Attributes:
        generator: on its device, evaluation mode, no gradients; shared within the process.
        centres: (n, latent) styles for multi-modal truncation, None where the file has none.
        window: side of its window over the longer side of the face box.
    """

    generator: Generator
    centres: torch.Tensor | None
    window: float


def open_painter(found: Found, device: torch.device) -> Painter:
    """The generator of a file, one copy per process and device.

    Raises:
        ModelError: more than tensors in the file, another architecture (names the first tensor that does not fit), another resampling
            filter, centres of another length, or arguments of the entry that no network has.
    """
    entry = found.entry
    architecture, window = _architecture(entry)
    return _open(found.path, found.sha256, entry.key, entry.prefix, architecture, window, device)


def shipped() -> Found:
    """The small generator, for callers without a zoo.

    Raises:
        ModelError: its file is missing; says how to remake it.
    """
    from raysweep.models.entry import catalogue
    from raysweep.models.zoo import ASSETS, Found

    entry = next(entry for entry in catalogue() if entry.family == SMALL)
    path = ASSETS / entry.file
    if not path.is_file():
        raise ModelError(
            f"{path.name} is missing; remake it with python -m raysweep.training.inpainting --out {ASSETS.name}"
        )
    return Found(entry, path, file_digest(path))


@lru_cache(maxsize=2)
def _open(
    path: Path,
    _sha256: str,
    key: str | None,
    prefix: str,
    architecture: Architecture,
    window: float,
    device: torch.device,
) -> Painter:
    keys = None if key is None else (key, FALLBACK_KEY)
    centres = _centres(_content(path), keys, architecture, path)
    generator = build(lambda: Generator(architecture))
    state = load_generator_state(
        path, key=keys, prefix=prefix, wanted=shapes_of(generator.state_dict()), optional=_Optional()
    )
    # Constants, hence sometimes left out; a file with others is of another network.
    for name in generator.state_dict():
        if name.endswith("resample_filter"):
            constant = resampling_filter()
            if not torch.allclose(state.setdefault(name, constant), constant, atol=1e-4):
                raise ModelError(f"{path}: weights of another architecture: {name} is not the filter 1 3 3 1")
    generator.load_state_dict(state)
    generator = generator.to(device).eval().requires_grad_(False)
    if device.type == "cuda":
        generator = generator.to(memory_format=torch.channels_last)
    return Painter(generator, None if centres is None else centres.to(device), window)


class _Optional:
    """Names that may be missing or left over."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name.endswith("resample_filter") or name == CENTRES_WITHIN)


def _architecture(entry: Entry) -> tuple[Architecture, float]:
    arguments = dict(entry.arguments)
    window = arguments.pop("window", WINDOW)
    known = [item.name for item in fields(Architecture)]
    problems = [f"{name!r} is unknown; known: {', '.join(known)}, window" for name in arguments if name not in known]
    problems += [
        f"{name!r} must be a whole number, given {value!r}"
        for name, value in arguments.items()
        if name in known and (isinstance(value, bool) or not isinstance(value, int))
    ]
    if isinstance(window, bool) or not isinstance(window, int | float) or not 1.0 <= window <= 2.0:
        problems.append(f"'window' must be a number from 1 to 2, given {window!r}")
    if not problems:
        try:
            return Architecture(**arguments), float(window)
        except ValueError as error:
            problems.append(str(error))
    raise ModelError(f"{entry.name}: its arguments are of no DeepPrivacy2 network: {'; '.join(problems)}")


def _content(path: Path) -> Any:
    try:
        return read_container(path)[0]
    except ModelError as error:
        if not path.is_file() or path.suffix == ".safetensors":
            raise
        raise ModelError(
            f"{error} A DeepPrivacy2 checkpoint may hold the state of its training. Then, on a machine where you trust "
            "the file, open it with the authors' own code and save its entry 'EMA_generator', a dictionary of tensors (with 'w_centers' as "
            f"'{CENTRES_WITHIN}', if there is one), alone by safetensors.torch.save_file as {path.stem}.safetensors; put that here instead."
        ) from error


def _centres(content: Any, keys: tuple[str, ...] | None, architecture: Architecture, path: Path) -> torch.Tensor | None:
    """Beside the generator or within it."""
    if not isinstance(content, Mapping):
        return None
    within = next((content[key] for key in keys or () if isinstance(content.get(key), Mapping)), content)
    centres = content.get(CENTRES, within.get(CENTRES_WITHIN))
    if centres is None:
        return None
    if isinstance(centres, torch.Tensor):
        numbers = centres.detach().to(torch.float32, copy=True)
        if numbers.ndim == 2 and numbers.shape[1] == architecture.latent and len(numbers) and numbers.isfinite().all():
            return numbers
    has = tuple(centres.shape) if isinstance(centres, torch.Tensor) else type(centres).__name__
    raise ModelError(f"{path}: {CENTRES} must be finite numbers (n, {architecture.latent}), it is {has}")
