"""Weights for the generator: the published ones from their checkpoint, the small one that comes with raysweep, and networks ready to draw."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from raysweep.anonymizers.ganonymization.network import PUBLISHED_HALVINGS, PUBLISHED_WIDTH, Generator, build
from raysweep.models.checkpoint import checkpoint_facts, load_generator_state, shapes_of
from raysweep.training.generator import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from raysweep.models.entry import Entry
    from raysweep.models.zoo import Found
    from raysweep.search.parameters import Value

__all__ = [
    "FAMILY",
    "as_input",
    "drawing",
    "misfits",
    "published_generator",
    "published_notes",
    "read_published",
    "small_misfits",
    "take_over",
]

FAMILY = "ganonymization"
"""Of the zoo's entries: the published checkpoints, and what `raysweep train ganonymization` writes."""

FIRST = "down1.model.0.weight"
"""The only tensor whose shape depends on what the generator sees."""

Precision = Literal["float32", "float16"]


def misfits(setting: Mapping[str, Any], entry: Entry) -> list[str]:
    """Why a setting is not that of the network in the file of an entry, one line each; nothing when it is."""
    there = {"width": PUBLISHED_WIDTH, "depth": PUBLISHED_HALVINGS, **entry.arguments}
    found = [
        f"{entry.name} has {key} = {there[key]}, not {setting[key]}; set {key}={there[key]}"
        for key in ("width", "depth")
        if setting[key] != there[key]
    ]
    step = 2 ** int(there["depth"])
    if int(setting["size"]) % step:
        found.append(f"{entry.name} draws sides that are multiples of {step}, not {setting['size']}; set size={step}")
    return found


def small_misfits(setting: Mapping[str, Any]) -> list[str]:
    """Why the small generator does not fit a network."""
    found = [
        f"the small generator has {key} = {getattr(Recipe, key)}, not {setting[key]}"
        for key in ("width", "size", "depth")
        if setting[key] != getattr(Recipe, key)
    ]
    if "landmarks" not in str(setting["conditioning"]):
        found.append(f"the small generator sees landmarks, conditioning = {setting['conditioning']!r} does not")
    if setting["picture"] != "crop":
        found.append(f"the small generator draws the whole crop, not picture = {setting['picture']!r}")
    return found


def take_over(generator: Generator, weights: Mapping[str, torch.Tensor]) -> None:
    """Load weights that see landmarks; further channels (the mask's) start at zero, hence without influence."""
    state = dict(weights)
    missing = generator.state_dict()[FIRST].shape[1] - state[FIRST].shape[1]
    state[FIRST] = F.pad(state[FIRST], (0, 0, 0, 0, 0, missing))
    generator.load_state_dict(state)


def read_published(found: Found, network: tuple[int, int, int]) -> Generator:
    """The generator of a checkpoint, on the CPU in float32, evaluation mode; a copy of one's own, to be trained further.

    Args:
        found: entry and file.
        network: channels of the condition, width, halvings; channels beyond the file's start at zero.

    Raises:
        ModelError: see `load_generator_state`.
    """
    return _read(found.path, found.entry.key, found.entry.prefix, _seen(found), network)


def published_generator(
    found: Found, network: tuple[int, int, int], device: torch.device, precision: Precision
) -> Generator:
    """As `read_published`, ready to draw; one copy per process however many trials use it, so it must not be trained."""
    return _published(
        found.path, found.sha256, found.entry.key, found.entry.prefix, _seen(found), network, device, precision
    )


def _seen(found: Found) -> int:
    """Channels of the condition that the file's network knows."""
    return int(found.entry.arguments.get("inputs", 3))


def _read(path: Path, key: str | None, prefix: str, seen: int, network: tuple[int, int, int]) -> Generator:
    channels, width, halvings = network
    wanted = shapes_of(build(lambda: Generator(seen, width, halvings)).state_dict())
    state = load_generator_state(path, key=key, prefix=prefix, wanted=wanted)
    generator = build(lambda: Generator(max(channels, seen), width, halvings))
    take_over(generator, state)
    return generator.eval()


@lru_cache(maxsize=2)
def _published(
    path: Path,
    _sha256: str,
    key: str | None,
    prefix: str,
    seen: int,
    network: tuple[int, int, int],
    device: torch.device,
    precision: Precision,
) -> Generator:
    return drawing(_read(path, key, prefix, seen, network), device, precision)


def drawing(generator: Generator, device: torch.device, precision: Precision = "float32") -> Generator:
    """Ready to draw: on its device, evaluation mode, no gradients; on CUDA with channels last, and in half precision when asked for."""
    generator = generator.to(device).eval().requires_grad_(False)
    if device.type == "cuda":
        generator = generator.to(memory_format=torch.channels_last)
    return generator.half() if precision == "float16" else generator


def as_input(condition: torch.Tensor, generator: Generator) -> torch.Tensor:
    """A condition (n, C, size, size) in the layout and precision of a generator's weights."""
    weight = generator.get_parameter(FIRST)
    layout = torch.channels_last if weight.device.type == "cuda" else torch.contiguous_format
    return condition.to(weight.dtype).contiguous(memory_format=layout)


def published_notes(found: Found, size: int, precision: Precision) -> dict[str, Value]:
    """For the record of a trial: which weights, how they were used, and what is odd about that."""
    facts = checkpoint_facts(found.path)
    notes: dict[str, Value] = {"weights": found.name, "sha256": found.sha256, "precision": precision}
    if facts.epoch is not None:
        notes["epoch"] = facts.epoch
    if (warning := facts.size_warning(size)) is not None:
        notes["warning"] = warning
    return notes
