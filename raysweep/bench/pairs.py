"""R18: counting the scores of all pairs of faces by pair of people, against the bare matrix product that makes them."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from raysweep.bench.finding import Finding, How
from raysweep.metrics.verification import PairHistogram
from raysweep.schema import FloatArray

__all__ = ["all_pairs", "pair_seconds"]

PEOPLE, IMAGES, DIMS, BINS = 150, 20, 512, 128


def all_pairs(how: How) -> list[Finding]:
    """Both in turn, on made-up embeddings of as many dimensions as the published embedders have."""
    people = PEOPLE // 5 if how.quick else PEOPLE
    found = [pair_seconds(people, IMAGES, seed) for seed in range(how.repeats + 1)][1:]
    product, counted = (1000 * float(np.median([item[place] for item in found])) for place in (0, 1))
    note = f"{people * IMAGES:,} faces, {product:.0f} ms the product, {counted:.0f} ms more to count, on one core"
    return [Finding("R18", tuple(1 + counting / bare for bare, counting in found), note)]


def pair_seconds(people: int, images: int, seed: int) -> tuple[float, float]:
    """Seconds of the product of so many faces with themselves, and of counting its scores."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((people * images, DIMS), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    person = np.arange(people, dtype=np.int64).repeat(images)
    start = PairHistogram.start(np.linspace(-1, 1, BINS + 1)[1:-1], people)
    scores, bare = _timed(lambda: np.asarray(rows @ rows.T, dtype=np.float32))

    def count() -> FloatArray:
        return np.asarray(start.update(scores, person, person).impostor, dtype=np.float32)

    counts, counting = _timed(count)
    if int(counts.sum()) != len(rows) ** 2 - people * images**2:
        raise RuntimeError(f"{counts.sum():.0f} impostor pairs were counted of {len(rows)} faces")
    return bare, counting


def _timed(work: Callable[[], FloatArray]) -> tuple[FloatArray, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started
