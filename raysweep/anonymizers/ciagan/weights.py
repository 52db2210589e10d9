"""Weights for the generator: the published ones from their checkpoint, the small ones that come with raysweep, and networks ready to draw."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch

from raysweep.anonymizers.ciagan.network import CLASSES, Generator, build, fold
from raysweep.models.checkpoint import load_generator_state, shapes_of

if TYPE_CHECKING:
    from pathlib import Path

    from raysweep.models.zoo import Found

__all__ = ["FAMILY", "Drawer", "published_drawer", "read_published", "saw_jpegs"]

FAMILY = "ciagan"
"""Of the zoo's entries: the published checkpoint, and what `raysweep train ciagan` writes."""

Precision = Literal["float32", "float16"]


def read_published(found: Found) -> Generator:
    """The generator of a checkpoint, on the CPU in float32; a copy of one's own, to be trained further.

    Args:
        found: entry and file; the entry's `arguments` say what differs from the published network.

    Raises:
        ModelError: see `load_generator_state`.
    """
    return _read(found.path, found.entry.key, found.entry.prefix, json.dumps(found.entry.arguments, sort_keys=True))


def published_drawer(found: Found, device: torch.device, precision: Precision) -> Drawer:
    """Ready to draw; one per process however many trials use it, read again only when the file's bytes change.

    Raises:
        ModelError: see `load_generator_state`.
    """
    arguments = json.dumps(found.entry.arguments, sort_keys=True)
    return _drawer(found.path, found.sha256, found.entry.key, found.entry.prefix, arguments, device, precision)


def saw_jpegs(found: Found) -> bool:
    """Whether the landmark pictures of the training were JPEGs: those of the published weights were, those of weights trained here are not."""
    return not found.entry.arguments


def _read(path: Path, key: str | None, prefix: str, arguments: str) -> Generator:
    shape: dict[str, Any] = {"classes": CLASSES, "side": 128, "width": 32, "residuals": 4, **json.loads(arguments)}
    generator = build(lambda: Generator(**shape))
    generator.load_state_dict(
        load_generator_state(path, key=key, prefix=prefix, wanted=shapes_of(generator.state_dict()))
    )
    return generator.eval()


@lru_cache(maxsize=2)
def _drawer(
    path: Path, _sha256: str, key: str | None, prefix: str, arguments: str, device: torch.device, precision: Precision
) -> Drawer:
    return Drawer(_read(path, key, prefix, arguments), device, precision)


class Drawer:
    """A generator in use: spectral norms folded, on its device, the code of each target kept once it was asked for.

    Args:
        generator: taken over and changed.
        device: where to compute.
        precision: `float16` takes effect on CUDA only, with channels last.

    Attributes:
        classes, side: of the generator.
        precision: what computes.
    """

    def __init__(self, generator: Generator, device: torch.device, precision: Precision = "float32") -> None:
        half = precision == "float16" and device.type == "cuda"
        self.precision: Precision = "float16" if half else "float32"
        self.classes, self.side = generator.classes, generator.side
        self._layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self._dtype = torch.float16 if half else torch.float32
        fold(generator)
        self._generator = generator.requires_grad_(False).to(device, self._dtype).to(memory_format=self._layout)
        self._device = device
        self._codes: dict[int, torch.Tensor] = {}

    def code(self, target: int) -> torch.Tensor:
        """(1, C, 4, 4) of one target identity; alone in its batch, so that it never depends on its neighbours."""
        if target not in self._codes:
            wanted = torch.zeros(1, self.classes, device=self._device, dtype=self._dtype)
            wanted[0, target] = 1.0
            with torch.no_grad():
                self._codes[target] = self._generator.identity_code(wanted)
        return self._codes[target]

    def draw(self, given: torch.Tensor, targets: list[int]) -> torch.Tensor:
        """Faces for a batch of whatever shape is always used.

        Args:
            given: (n, 6, side, side) float32, see `Generator`.
            targets: n target identities.

        Returns:
            (n, 3, side, side) float32.
        """
        codes = torch.cat([self.code(target) for target in targets])
        pictures = given.to(self._dtype).contiguous(memory_format=self._layout)
        # TF32 would cost three digits on CUDA: float32 means float32 here.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return self._generator.draw(pictures, codes).float()
