"""The Pareto front of (privacy, utility), both maximised in [0, 1], and what it is worth. Reference point: the origin.

Source: Zitzler and Thiele 1999 (hypervolume).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raysweep.errors import DataError

__all__ = ["hypervolume", "hypervolume_trace", "knee", "nondominated"]

Array = npt.NDArray[np.float64]


def _checked(points: npt.ArrayLike) -> Array:
    table = np.asarray(points, dtype=np.float64)
    if table.size == 0:
        return np.empty((0, 2))
    if table.ndim != 2 or table.shape[1] not in (2, 3):
        raise DataError(f"points of a front have shape {table.shape}; wanted (n, 2) or (n, 3)")
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise DataError(
            f"points {bad[:5].tolist()} of a front are not numbers: leave out trials whose objectives are not ok"
        )
    return table


def nondominated(points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which of (n, d) points are on the front (maximising); of equal points all are.

    A point is dominated when another is at least as good everywhere and better somewhere.

    Raises:
        DataError: a coordinate is NaN or infinite.
    """
    table = _checked(points)
    keep = np.ones(len(table), dtype=bool)
    for row, point in enumerate(table):
        better = (table >= point).all(axis=1) & (table > point).any(axis=1)
        keep[row] = not better.any()
    return keep


def _area(table: Array) -> float:
    """Union of the boxes from the origin: sweep by falling first coordinate, add what rises in the second."""
    order = np.lexsort((-table[:, 1], -table[:, 0]))
    first, second = table[order].T
    reached = np.maximum.accumulate(np.concatenate([[0.0], second]))
    return float(np.sum(np.maximum(first, 0.0) * np.diff(reached)))


def hypervolume(points: npt.ArrayLike) -> float:
    """Area (2 columns) or volume (3 columns) of the union of boxes from the origin to each point.

    >>> round(hypervolume([(.9, .2), (.6, .6), (.2, .9)]), 6)
    0.48

    Raises:
        DataError: a coordinate is NaN or infinite.
    """
    table = _checked(points)
    if table.shape[1] == 2:
        return _area(table) if len(table) else 0.0
    table = table[np.argsort(-table[:, 2], kind="stable")]
    height = np.maximum(np.append(table[:, 2], 0.0), 0.0)
    return float(sum(_area(table[: i + 1, :2]) * (height[i] - height[i + 1]) for i in range(len(table))))


def hypervolume_trace(points: Sequence[Sequence[float] | None]) -> Array:
    """Hypervolume after each trial, (n,), never falling. `None` stands for a trial that may not be ranked.

    Pair it with the trial number, or with the cumulated cost, to draw it.
    """
    trace = np.zeros(len(points))
    front: list[Sequence[float]] = []
    current = 0.0
    for index, point in enumerate(points):
        if point is not None:
            front.append(point)
            keep = nondominated(front)
            if keep[-1]:
                front = [item for item, kept in zip(front, keep, strict=True) if kept]
                current = max(current, hypervolume(front))
            else:
                front.pop()
        trace[index] = current
    return trace


def knee(points: npt.ArrayLike) -> int | None:
    """Row of the knee point, or None when there are no points.

    Both objectives are scaled to [0, 1] over the front; the knee is the point of the front farthest above the line that joins the two
    ends (so the one where giving up a little more of one objective starts to buy little of the other). Where no point lies above that line,
    and with one or two points, it is the point with the largest box, privacy times utility.
    """
    table = _checked(points)[:, :2]
    if len(table) == 0:
        return None
    rows = np.flatnonzero(nondominated(table))
    front = table[rows]
    span = front.max(axis=0) - front.min(axis=0)
    box = front.prod(axis=1)
    if len(np.unique(front, axis=0)) > 2 and (span > 0).all():
        height = ((front - front.min(axis=0)) / span).sum(axis=1) - 1
        if height.max() > 1e-9:
            best = np.flatnonzero(height >= height.max() - 1e-12)
            return int(rows[best[np.argmax(box[best])]])
    return int(rows[np.argmax(box)])
