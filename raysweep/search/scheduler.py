"""Which trials climb to the next rung: successive halving for several objectives.

At each rung a trial is ranked among all that have reached it, first by the front it lies on (non-dominated sorting), then by how much
room it has on that front (crowding distance); one in eta climbs. Nobody waits for the others of a rung (asynchronous halving).
A trial is discarded only when it stands too low *at the optimistic end of its intervals*: luck of a small sample discards nobody.

Sources: Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020, arXiv 1810.05934 (ASHA); Schmucker et al.,
"Multi-objective asynchronous successive halving", 2021, arXiv 2106.12639; Deb et al., NSGA-II, 2002 (sorting and crowding).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from raysweep.engine.record import TrialRecord
from raysweep.search.fidelity import Ladder

__all__ = ["Bias", "Halving", "Rated", "ranking"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rated:
    """What a trial is worth at a rung.

    Attributes:
        point: objectives, all maximised.
        upper: the upper ends of their intervals; the point itself where there is no interval.
    """

    point: tuple[float, ...]
    upper: tuple[float, ...]

    def optimistic(self, trust: float) -> tuple[float, ...]:
        """Between the point (trust 1) and the upper end (trust 0)."""
        return tuple(
            value + (1 - trust) * (max(value, high) - value) for value, high in zip(self.point, self.upper, strict=True)
        )


def ranking(points: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Places of (n, d) points, 0 the best: by front, within a front by crowding distance, then as given.

    >>> ranking([(0.1, 0.1), (0.9, 0.2), (0.2, 0.9), (0.6, 0.6)]).tolist()
    [3, 0, 1, 2]
    """
    table = np.asarray(points, dtype=np.float64)
    front = np.zeros(len(table), dtype=np.int64)
    at_least = np.asarray((table[:, None] >= table[None]).all(axis=2))
    beats = at_least & ~at_least.T
    beaten_by = beats.sum(axis=0)
    left = np.ones(len(table), dtype=bool)
    level = 0
    while left.any():
        best = left & (beaten_by == 0)
        front[best] = level
        left &= ~best
        beaten_by -= beats[best].sum(axis=0)
        level += 1
    spread = np.zeros(len(table))
    for number in range(level):
        rows = np.flatnonzero(front == number)
        spread[rows] = _crowding(table[rows])
    order = np.lexsort((np.arange(len(table)), -spread, front))
    place = np.empty(len(table), dtype=np.int64)
    place[order] = np.arange(len(table))
    return place


def _crowding(front: Array) -> Array:
    """Crowding distance of the points of one front; infinite at its ends."""
    distance = np.zeros(len(front))
    for column in front.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = math.inf
        if span > 0 and len(front) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance


@dataclass
class Halving:
    """Decides rung by rung; the decisions depend only on the order in which the results come.

    Args:
        ladder: the rungs.
        trust: how far the measured point is trusted against the upper end of its interval, 0 to 1.
        grace: results of a rung that all climb before anybody is discarded there.
    """

    ladder: Ladder
    trust: float = 0.5
    grace: int = 3
    reached: list[dict[str, Rated]] = field(init=False)

    def __post_init__(self) -> None:
        self.reached = [{} for _ in range(self.ladder.rungs)]

    def climbs(self, trial: str, rung: int, rated: Rated | None) -> bool:
        """Take a result and say whether the trial goes on to the next rung.

        Args:
            trial: key.
            rung: from 0; the last one never goes on.
            rated: None when privacy or utility is undefined: it cannot stand on a front, and ends.
        """
        if rated is None:
            return False
        here = self.reached[rung]
        here[trial] = rated
        if rung + 1 >= self.ladder.rungs:
            return False
        if len(here) <= self.grace:
            return True
        others = [item.point for key, item in here.items() if key != trial]
        place = int(ranking([*others, rated.optimistic(self.trust)])[-1])
        return place < max(1, math.ceil(len(here) / self.ladder.eta))

    def decide(self, record: TrialRecord) -> bool:
        """Whether a trial goes on, by its record as it would be if it were stopped."""
        rung = len(record.rungs) - 1
        return self.climbs(record.key, rung, _rated(record.rungs[rung]))

    def restore(self, record: TrialRecord) -> None:
        """Take what a trial of an earlier run found on its rungs."""
        for rung, found in enumerate(record.rungs[: self.ladder.rungs]):
            rated = _rated(found)
            if rated is not None:
                self.reached[rung][record.key] = rated


def _rated(found: Mapping[str, float]) -> Rated | None:
    """A rung of `TrialRecord.rungs`; None where an objective is not ok."""
    if not {"privacy", "utility"} <= set(found):
        return None
    return Rated((found["privacy"], found["utility"]), (found["privacy_hi"], found["utility_hi"]))


class Bias:
    """How much a small rung overstates each objective: the mean over trials that were run in full, taken off from those that were not."""

    def __init__(self) -> None:
        self._differences: dict[int, list[Array]] = {}

    def learn(self, points: Sequence[Sequence[float]]) -> None:
        """Take the points of a trial at all rungs, full fidelity last."""
        for rung, point in enumerate(points[:-1]):
            self._differences.setdefault(rung, []).append(np.subtract(point, points[-1]))

    def corrected(self, point: Sequence[float], rung: int) -> tuple[float, ...]:
        """The point as it would probably be in full, within [0, 1]."""
        known = self._differences.get(rung)
        if not known:
            return tuple(point)
        return tuple(np.clip(np.subtract(point, np.mean(known, axis=0)), 0.0, 1.0).tolist())
