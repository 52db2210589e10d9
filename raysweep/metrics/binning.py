"""Which bin each of many scores falls into: what `numpy.searchsorted` says, several times faster.

A score is first put into one of many even cells by one multiplication; a table says which bin lies there. Only scores in a cell with an edge
in it are compared with the edges. The way from score to cell never descends, so that no rounding can put a score on the wrong side of an edge.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raysweep.schema import IntArray

__all__ = ["Bins"]

CELLS = 1 << 14
"""Enough that few scores share one with an edge; the table still fits into a core's cache."""
LEAST_SPAN = 1e-30

Scores = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]


class Bins:
    """Places of scores among edges; a score equal to an edge belongs to the bin above it.

    Args:
        edges: (M - 1,) float64, ascending.
        dtype: of the scores to come, float32 or float64.

    >>> Bins(np.array([0.0, 0.5]), np.dtype(np.float32)).place(np.array([[-1.0, 0.0, 0.49, 0.5]], dtype=np.float32))
    array([[0, 1, 1, 2]])
    """

    def __init__(self, edges: Array, dtype: np.dtype[np.floating]) -> None:
        self.count = len(edges) + 1
        near = edges.astype(dtype)
        # The least number of this precision that is not below the edge: both have the same scores above them.
        self._edges = np.where(near < edges, np.nextafter(near, np.inf, dtype=dtype), near).astype(dtype)
        span = float(self._edges[-1] - self._edges[0]) if len(edges) else np.nan
        self._table: IntArray | None = None
        if np.isfinite(span):
            span = max(span, LEAST_SPAN)
            # A cell of margin on both sides, lest all scores beyond the edges share one with the outermost.
            self._scale = dtype.type((CELLS - 4) / span)
            self._low = dtype.type(float(self._edges[0]) - 2 * span / (CELLS - 4))
            cells = self._cells(self._edges)
            self._table = np.searchsorted(cells, np.arange(CELLS), side="left").astype(np.int64)
            self._table[cells] = self.count  # to be looked at

    def place(self, scores: Scores) -> IntArray:
        """Bin of each score, 0 to M - 1, in their shape; NaN lies above all edges."""
        if self._table is None:
            return np.searchsorted(self._edges, scores, side="right").astype(np.int64)
        places: IntArray = np.take(self._table, self._cells(scores), mode="clip")
        flat = places.reshape(-1)
        near = np.flatnonzero(flat == self.count)
        flat[near] = np.searchsorted(self._edges, np.take(scores, near), side="right")
        return places

    def _cells(self, scores: Scores) -> IntArray:
        with np.errstate(over="ignore", invalid="ignore"):
            cells = scores - self._low
            cells *= self._scale
        np.fmin(cells, CELLS - 1, out=cells)  # of NaN and the highest cell the highest cell
        np.fmax(cells, 0, out=cells)
        return cells.astype(np.int64)
