"""How many crops a network is fed at a time on a device: as many as it takes until more make it no faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from raysweep.engine.batching import is_out_of_memory

if TYPE_CHECKING:
    import torch

    from raysweep.models.embedders import CropEmbedder

__all__ = ["best_chunk", "chunk_rate", "sizes_up_to"]

SMALLEST = 8
WORTH = 1.05
"""Twice the crops must be so much faster, or the smaller number is kept: it wastes less of what is filled up with nothing."""
MEASURE_S = 0.2


def sizes_up_to(most: int) -> Iterator[int]:
    """8, 16, 32, ... and `most` itself.

    >>> list(sizes_up_to(100)), list(sizes_up_to(4))
    ([8, 16, 32, 64, 100], [4])
    """
    size = SMALLEST
    while size < most:
        yield size
        size *= 2
    yield most


def best_chunk(rate: Callable[[int], float], most: int) -> int:
    """The smallest number of crops at a time from which on twice as many are not worth it.

    Args:
        rate: crops a second with so many at a time; may run out of memory.
        most: larger ones are not tried.

    >>> best_chunk({8: 100.0, 16: 190.0, 32: 300.0, 64: 305.0, 128: 309.0}.__getitem__, 128)
    32
    """
    best, fastest = 0, 0.0
    for size in sizes_up_to(most):
        try:
            found = rate(size)
        except (RuntimeError, MemoryError) as error:
            if not best or not is_out_of_memory(error):
                raise
            break
        if found < WORTH * fastest:
            break
        best, fastest = size, found
    return best


def chunk_rate(model: CropEmbedder, crops: torch.Tensor, size: int, seconds: float = MEASURE_S) -> float:
    """Crops a second that an embedder takes with so many at a time; the first time does not count.

    Args:
        model: its `chunk` is `size` afterwards.
        crops: (n, 3, s, s) uint8 RGB as the network wants them, repeated as often as needed.
    """
    model.chunk = size
    batch = crops[:1].expand(size, -1, -1, -1) if len(crops) < size else crops[:size]
    model.embed_crops(batch)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        model.embed_crops(batch)  # waits for its answer
        done += size
    return done / (time.perf_counter() - started)
