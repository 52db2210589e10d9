"""The work items of a trial: rows of the faces, divided so that workers share a trial evenly."""

from __future__ import annotations

import itertools

import numpy as np

from raysweep.engine.worker import scored_rows
from raysweep.errors import DataError
from raysweep.objective import Protocol
from raysweep.schema import AlignedFaces, IntArray
from raysweep.search.fidelity import Ladder

__all__ = ["CHUNK_ROWS", "work_items"]

CHUNK_ROWS = 256
"""Faces per work item: large enough to hide the call, small enough to share a trial between workers."""


def work_items(faces: AlignedFaces, protocol: Protocol, ladder: Ladder, seed: int) -> list[list[IntArray]]:
    """Items of each rung, without the rows of the rungs below it; the last one is full fidelity.

    Args:
        faces: clear faces with their roles.
        protocol: decides which of them a trial anonymizes.
        ladder: rungs; one for full fidelity alone.
        seed: which people are on the lower rungs.

    Raises:
        DataError: nothing is left to score.
        ConfigError: the smallest rung has too few people.
    """
    table, rows = faces.table, scored_rows(faces, protocol)
    if not len(rows):
        raise DataError("no face is left to score: every identity has fewer than 3 usable images")
    evaluated = table.identity[table.rows("E")]
    ladder.check(len(np.unique(evaluated[evaluated >= 0])))
    reached = [rows[places] for places in ladder.rows(table.take(rows), seed)]
    new = [reached[0], *(np.setdiff1d(now, before) for before, now in itertools.pairwise(reached))]
    return [np.array_split(part, max(1, round(len(part) / CHUNK_ROWS))) for part in new]
