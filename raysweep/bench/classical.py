"""R17: how fast the classical methods are against the embedder that looks at their output: anonymizing must not be the brake."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from raysweep.anonymizers.batch import face_batch
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.bench.drawn import drawn_faces, own_cache
from raysweep.bench.finding import Finding, How
from raysweep.faces import Faces

__all__ = ["classical", "rates"]

SETTINGS = {"blur": {"kernel_size": 31}, "pixelate": {"block_size": 16}}
BATCH = 128


def classical(how: How) -> list[Finding]:
    """On the first GPU."""
    with own_cache(how.folder):
        faces = drawn_faces(30, 7)
    found = [rates(faces, torch.device("cuda"), 1.0 if how.quick else 3.0) for _ in range(how.repeats)]
    embedder = float(np.median([rate["embed"] for rate in found]))
    return [
        Finding(f"R17 {name}", tuple(rate[name] / rate["embed"] for rate in found), f"embedder {embedder:,.0f} faces/s")
        for name in SETTINGS
    ]


def rates(faces: Faces, device: torch.device, seconds: float) -> dict[str, float]:
    """Faces a second of each classical method and of the first embedder (`embed`), on the same batch."""
    clear = faces.references.faces
    batch = face_batch(clear.take(np.arange(min(BATCH, len(clear)), dtype=np.int64)), 0, device, False)
    embedder = faces.zoo.embedders(device)[0]
    works: dict[str, Callable[[], object]] = {"embed": lambda: embedder.embed(batch.image, batch.frame)}
    for name, setting in SETTINGS.items():
        anonymizer = get_anonymizer(name)(**setting)
        anonymizer.load({}, device)
        works[name] = partial(anonymizer.anonymize, batch)
    with torch.inference_mode():
        return {name: _rate(work, len(batch), device, seconds) for name, work in works.items()}


def _rate(work: Callable[[], object], faces: int, device: torch.device, seconds: float) -> float:
    work()
    _wait(device)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        work()
        _wait(device)
        done += faces
    return done / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
