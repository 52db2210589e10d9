"""The Pareto front of (privacy, utility), both maximised in [0, 1], and what it is worth. Reference point: the origin.

A front has luck in it: of many trials with noise the best looking are chosen. So it is chosen on the people of role S and measured again
on those of role E (`front_on_selection`), one trial beats another only when it does so in nearly all joint bootstrap draws
(`confident_dominance`), and the hypervolume has a band (`hypervolume_band`). Draw b of every trial resamples the same people, so draws
are compared one by one.

Source: Zitzler and Thiele 1999 (hypervolume).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.errors import DataError

__all__ = [
    "SelectedFront",
    "confident_dominance",
    "front_on_selection",
    "hypervolume",
    "hypervolume_band",
    "hypervolume_trace",
    "knee",
    "nondominated",
]

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


def _areas(first: Array, second: Array) -> Array:
    """(..., n) and (..., n) -> (...): union of the boxes from the origin; sweep by falling first coordinate, add what rises in the second."""
    order = np.lexsort((-second, -first), axis=-1)
    first, second = (np.take_along_axis(side, order, -1) for side in (first, second))
    start = np.zeros((*first.shape[:-1], 1))
    reached = np.maximum.accumulate(np.concatenate([start, second], axis=-1), axis=-1)
    return np.asarray(np.sum(np.maximum(first, 0.0) * np.diff(reached, axis=-1), axis=-1))


def _volumes(table: Array) -> Array:
    """(..., n, d) points, d of 2 or 3 -> (...) hypervolume of each set."""
    if table.shape[-1] == 2:
        return _areas(table[..., 0], table[..., 1])
    order = np.argsort(-table[..., 2], axis=-1, kind="stable")
    table = np.take_along_axis(table, order[..., None], -2)
    height = np.maximum(np.concatenate([table[..., 2], np.zeros((*table.shape[:-2], 1))], axis=-1), 0.0)
    total = np.zeros(table.shape[:-2])
    for i in range(table.shape[-2]):
        total += _areas(table[..., : i + 1, 0], table[..., : i + 1, 1]) * (height[..., i] - height[..., i + 1])
    return total


def hypervolume(points: npt.ArrayLike) -> float:
    """Area (2 columns) or volume (3 columns) of the union of boxes from the origin to each point.

    >>> round(hypervolume([(.9, .2), (.6, .6), (.2, .9)]), 6)
    0.48

    Raises:
        DataError: a coordinate is NaN or infinite.
    """
    table = _checked(points)
    return float(_volumes(table)) if len(table) else 0.0


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


def _draws(draws: npt.ArrayLike) -> Array:
    table = np.asarray(draws, dtype=np.float64)
    if table.ndim != 3 or table.shape[2] not in (2, 3):
        raise DataError(f"joint draws have shape {table.shape}; wanted (trials, draws, 2) or (trials, draws, 3)")
    return table


def confident_dominance(draws: npt.ArrayLike, level: float = 0.95) -> npt.NDArray[np.bool_]:
    """Which trials surely dominate which.

    Args:
        draws: (n, B, 2) or (n, B, 3): the objectives of each trial in each joint bootstrap draw, both maximised. A draw with NaN counts
            against dominance.
        level: share of the draws in which row i must dominate column j.

    Returns:
        (n, n) bool, entry (i, j): trial i dominates trial j. All False without draws.

    Raises:
        DataError: another shape.
    """
    table = _draws(draws)
    n, count = table.shape[:2]
    found = np.zeros((n, n), dtype=bool)
    if not count:
        return found
    for row in range(n):
        here = table[row][None]
        wins = (here >= table).all(axis=2) & (here > table).any(axis=2)
        found[row] = wins.mean(axis=1) >= level
    return found


def hypervolume_band(
    draws: npt.ArrayLike, points: npt.ArrayLike | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """Hypervolume of a set of trials with its percentile band over joint draws.

    Give it the trials of a front that was chosen without these draws (`front_on_selection`): among many noisy trials the best of each
    draw is always somewhat too good, and the band of all trials lies too high.

    Args:
        draws: (n, B, 2) or (n, B, 3), see `confident_dominance`; draws in which a trial is NaN are left out.
        points: (n, 2) or (n, 3) the measured values; the mean of the draws when None.
        level: of the band.

    Returns:
        (value, lo, hi); lo and hi are NaN when fewer than half of the draws are usable.

    Raises:
        DataError: other shapes, or measured values that are not numbers.

    >>> [round(x, 4) for x in hypervolume_band([[[0.5, 0.4], [0.5, 0.6]]], [(0.5, 0.5)])]
    [0.25, 0.2025, 0.2975]
    """
    table = _draws(draws)
    n, count = table.shape[:2]
    usable = np.isfinite(table).all(axis=(0, 2))
    if points is None:
        points = table[:, usable].mean(axis=1) if usable.any() else np.empty((0, table.shape[2]))
    elif len(np.asarray(points)) != n:
        raise DataError(f"{len(np.asarray(points))} measured points for the draws of {n} trials")
    value = hypervolume(points)
    if not n:
        return value, 0.0, 0.0
    if not usable.any() or usable.sum() < count / 2:
        return (value if len(np.asarray(points)) else float("nan")), float("nan"), float("nan")
    volumes = _volumes(table[:, usable].transpose(1, 0, 2))
    lo, hi = np.quantile(volumes, [0.5 - level / 2, 0.5 + level / 2])
    return value, float(lo), float(hi)


@dataclass(frozen=True)
class SelectedFront:
    """A front that was chosen on some people and measured again on others.

    Attributes:
        chosen: (n,) bool, on the front by the values of role S.
        standing: (n,) bool, of those, not dominated by another chosen one by the values of role E.
        promised: hypervolume of the chosen by their values on S: optimistic.
        kept: hypervolume of the chosen by their values on E: what to report.
        best: hypervolume of all by their values on E: optimistic, what a front chosen on E would have claimed.
    """

    chosen: npt.NDArray[np.bool_]
    standing: npt.NDArray[np.bool_]
    promised: float
    kept: float
    best: float


def front_on_selection(select: npt.ArrayLike, report: npt.ArrayLike) -> SelectedFront:
    """Choose the front by (n, d) values on role S, and measure it by (n, d) values on role E.

    A row with NaN in `select` is no candidate (it could not be measured on S).

    Raises:
        DataError: different shapes, or a candidate without a value on E.
    """
    on_s = np.asarray(select, dtype=np.float64)
    on_e = np.asarray(report, dtype=np.float64)
    if on_s.shape != on_e.shape:
        raise DataError(f"values on role S have shape {on_s.shape}, those on role E {on_e.shape}")
    table = _checked(on_e)
    chosen = np.zeros(len(table), dtype=bool)
    standing = np.zeros(len(table), dtype=bool)
    candidates = np.flatnonzero(np.isfinite(on_s).all(axis=1)) if len(table) else np.empty(0, dtype=np.int64)
    if len(candidates):
        chosen[candidates] = nondominated(on_s[candidates])
        standing[chosen] = nondominated(table[chosen])
    promised = hypervolume(on_s[chosen]) if chosen.any() else 0.0
    return SelectedFront(chosen, standing, promised, hypervolume(table[chosen]), hypervolume(table))
