"""Where to write the labels of marks that lie close together: beside its mark where there is room, else a little further away with a thin line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Box", "Label", "place_labels"]

Point = tuple[float, float]
Line = tuple[Point, Point]

DIRECTIONS = 16
PREFERRED = -math.pi / 4
"""To the upper right (y grows downwards): the side of a front where nothing lies."""
RINGS = (0.0, 4.0, 9.0, 15.0, 22.0, 30.0, 40.0, 52.0, 66.0)
"""Distances between the mark and its label, in units of a tenth of the letters' height."""


class Box(NamedTuple):
    """A rectangle in pixels, y downwards: left < right, top < bottom."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two share an area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def crossed_by(self, start: Point, end: Point) -> bool:
        """Whether a straight line passes through (Liang and Barsky, ACM TOG 3(1), 1984)."""
        first, last = 0.0, 1.0
        for low, high, origin, along in (
            (self.left, self.right, start[0], end[0] - start[0]),
            (self.top, self.bottom, start[1], end[1] - start[1]),
        ):
            if along == 0:
                if not low < origin < high:
                    return False
                continue
            ends = sorted(((low - origin) / along, (high - origin) / along))
            first, last = max(first, ends[0]), min(last, ends[1])
        return first < last


class Label(NamedTuple):
    """A placed label: its box, and the line that leads from the mark to it (None where it stands beside its mark)."""

    box: Box
    line: Line | None


def place_labels(
    marks: Sequence[Point],
    sizes: Sequence[Point],
    room: Box,
    *,
    mark: float,
    taken: Sequence[Box] = (),
    lines: Sequence[Line] = (),
) -> list[Label | None]:
    """A place for each label, such that no two overlap, none hides a mark, and no leading line crosses a label.

    Args:
        marks: (x, y) of each labelled mark, pixels, y downwards; the first ones choose first.
        sizes: (width, height) of each label.
        room: where labels may stand.
        mark: radius of the marks.
        taken: boxes of other things that must stay visible.
        lines: drawn lines (intervals, curves) to stay off while there is room elsewhere.

    Returns:
        One for each mark; None where there was no room.
    """
    marked = [_around(point, mark) for point in marks]
    placed: list[Label | None] = []
    for index, (point, size) in enumerate(zip(marks, sizes, strict=True)):
        others = [*taken, *(box for place, box in enumerate(marked) if place != index)]
        done = [item for item in placed if item is not None]
        options = [
            (ring, option)
            for ring, option in _options(point, size, mark)
            if _inside(option.box, room) and not _hides(option, others, done)
        ]
        # The first of the best: within a ring the preferred side comes first.
        best = min(options, key=lambda item: _cost(item[0], item[1], others, lines), default=None)
        placed.append(None if best is None else best[1])
    return placed


def _cost(ring: int, option: Label, others: Sequence[Box], lines: Sequence[Line]) -> float:
    """Worst is a leading line through another mark, then a drawn line through the letters, then a long way."""
    passed = 0 if option.line is None else sum(box.crossed_by(*option.line) for box in others)
    return 4.0 * passed + sum(option.box.crossed_by(*line) for line in lines) + 0.15 * ring


def _options(point: Point, size: Point, mark: float) -> list[tuple[int, Label]]:
    """Places around a mark, the nearest ring first, in each the preferred side first."""
    turns = sorted(range(DIRECTIONS), key=lambda turn: (min(turn, DIRECTIONS - turn), turn))
    found = []
    for ring, step in enumerate(RINGS):
        for turn in turns:
            angle = PREFERRED + 2 * math.pi * turn / DIRECTIONS
            ahead = math.cos(angle), math.sin(angle)
            reach = mark + 0.1 * size[1] * (1 + step)
            # The nearest point of the box lies on the ring: its middle is half its size further out.
            middle = [point[axis] + ahead[axis] * (reach + size[axis] / 2) for axis in (0, 1)]
            box = Box(
                middle[0] - size[0] / 2, middle[1] - size[1] / 2, middle[0] + size[0] / 2, middle[1] + size[1] / 2
            )
            found.append((ring, Label(box, _line(point, box, mark) if ring else None)))
    return found


def _line(point: Point, box: Box, mark: float) -> Line:
    """From the rim of the mark to the nearest point of the box."""
    end = min(max(point[0], box.left), box.right), min(max(point[1], box.top), box.bottom)
    length = math.dist(point, end) or 1.0
    start = tuple(point[axis] + (end[axis] - point[axis]) * mark / length for axis in (0, 1))
    return (start[0], start[1]), end


def _hides(option: Label, others: Sequence[Box], placed: Sequence[Label]) -> bool:
    if any(option.box.meets(box) for box in others):
        return True
    return any(
        option.box.meets(item.box)
        or (item.line is not None and option.box.crossed_by(*item.line))
        or (option.line is not None and item.box.crossed_by(*option.line))
        for item in placed
    )


def _inside(box: Box, room: Box) -> bool:
    return box.left >= room.left and box.right <= room.right and box.top >= room.top and box.bottom <= room.bottom


def _around(point: Point, radius: float) -> Box:
    return Box(point[0] - radius, point[1] - radius, point[0] + radius, point[1] + radius)
