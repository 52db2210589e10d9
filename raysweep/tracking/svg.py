"""Small drawings as SVG text: lines, bands, marks and bars over two axes. Colours come from the page's style, by class, so that one
drawing serves light, dark and paper; every mark may carry a title, which a browser shows under the pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from raysweep.tracking.labels import Box, place_labels
from raysweep.tracking.text import plain

__all__ = ["Axis", "Plot", "nice_ticks"]

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: what it shows.
        low, high: ends, low < high.
        ticks: values to mark; made when empty.
        log: logarithmic (both ends positive).
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...] = ()
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.log:
            value = max(value, self.low)
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    @property
    def marks(self) -> tuple[float, ...]:
        """The ticks."""
        return self.ticks or nice_ticks(self.low, self.high)


def nice_ticks(low: float, high: float, about: int = 7) -> tuple[float, ...]:
    """Round values from low to high, about as many as asked for.

    >>> nice_ticks(0, 1)
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return (low,)
    raw = span / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor((high - first * step) / step + 1e-9) + 1
    return tuple(round((first + index) * step, 12) for index in range(count))


class Plot:
    """A drawing over two axes; add marks from back to front, then ask for `svg`.

    Args:
        x, y: the axes.
        name: what it shows, for readers who hear the page.
        width, height: in pixels of the drawing's own scale; the page scales it.
        left: room for the ticks of y.
        clip: leave out what lies outside the axes.
    """

    LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 46

    def __init__(
        self, x: Axis, y: Axis, name: str, width: int = 640, height: int = 420, left: int = LEFT, clip: bool = False
    ) -> None:
        self.x, self.y, self.name, self.width, self.height = x, y, name, width, height
        self.left, self.clip = left, clip
        self._parts: list[Markup] = []

    def at(self, x: float, y: float) -> Point:
        """Pixels of a value."""
        inner = self.width - self.left - self.RIGHT, self.height - self.TOP - self.BOTTOM
        return self.left + inner[0] * self.x.place(x), self.TOP + inner[1] * (1 - self.y.place(y))

    def _add(self, element: str, css: str, title: str = "", body: Markup | str = "", **attributes: object) -> None:
        given = Markup("").join(
            Markup(' {}="{}"').format(key.replace("_", "-"), _short(value)) for key, value in attributes.items()
        )
        hover = (
            Markup("<title>{}</title>").format("\n".join(plain(line, 400) for line in title.split("\n")))
            if title
            else Markup("")
        )
        self._parts.append(
            Markup('<{0} class="{1}"{2}>{3}{4}</{0}>').format(Markup(element), css, given, hover, body)  # noqa: S704 - our own word
        )

    def line(self, points: Sequence[Point], css: str, title: str = "") -> None:
        """A line through values."""
        if len(points) > 1:
            self._add("path", css, title, d=_path(self.at(*point) for point in points))

    def area(self, points: Sequence[Point], css: str) -> None:
        """A filled shape."""
        if len(points) > 2:
            self._add("path", css, d=_path(self.at(*point) for point in points) + "Z")

    def cross(self, x: Point, y: Point, at: Point, css: str) -> None:
        """Intervals: from x[0] to x[1] and from y[0] to y[1] through `at`; an end that is no number draws nothing."""
        for ends in (((x[0], at[1]), (x[1], at[1])), ((at[0], y[0]), (at[0], y[1]))):
            if all(math.isfinite(value) for end in ends for value in end):
                self.line(ends, css)

    def mark(self, x: float, y: float, css: str, shape: str = "circle", size: float = 5, title: str = "") -> None:
        """A mark: `circle`, `diamond`, `square`, `triangle` or `star`."""
        left, top = self.at(x, y)
        if shape == "circle":
            self._add("circle", css, title, cx=left, cy=top, r=size)
            return
        self._add("path", css, title, d=_path(_corners(shape, left, top, size)) + "Z")

    def bar(self, x: Point, y: Point, css: str, title: str = "") -> None:
        """A filled box from (x[0], y[0]) to (x[1], y[1])."""
        left, bottom = self.at(x[0], y[0])
        right, top = self.at(x[1], y[1])
        self._add("rect", css, title, x=left, y=top, width=max(0.5, right - left), height=max(0.5, bottom - top))

    def text(
        self, x: float, y: float, words: str, css: str = "note", anchor: str = "start", shift: Point = (0, 0)
    ) -> None:
        """Words beside a value."""
        left, top = self.at(x, y)
        self._add("text", css, body=escape(plain(words, 80)), x=left + shift[0], y=top + shift[1], text_anchor=anchor)

    def labels(
        self,
        points: Sequence[Point],
        words: Sequence[str],
        keep_clear: Sequence[Point] = (),
        lines: Sequence[tuple[Point, Point]] = (),
    ) -> None:
        """Words beside marks, none over another nor over a mark, a thin line where one had to move away; the first ones choose first.

        Args:
            points: the marks.
            words: one for each.
            keep_clear: further marks that must stay visible.
            lines: drawn lines to stay off while there is room elsewhere.
        """
        room = Box(self.left + 2, self.TOP - 8, self.width - 2, self.height - self.BOTTOM - 2)
        taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in (self.at(*point) for point in keep_clear)]
        shown = [
            (point, word)
            for point, word in zip(points, words, strict=True)
            if _within(self.x, point[0]) and _within(self.y, point[1])
        ]
        placed = place_labels(
            [self.at(*point) for point, _ in shown],
            [(7.0 * len(word), 12.0) for _, word in shown],
            room,
            mark=6.5,
            taken=taken,
            lines=[(self.at(*start), self.at(*end)) for start, end in lines],
        )
        for (_, word), label in zip(shown, placed, strict=True):
            if label is not None:
                if label.line is not None:
                    self._add("path", "leader", d=_path(label.line))
                self._add("text", "label", body=escape(word), x=label.box.left + 0.5, y=label.box.bottom - 2)

    def svg(self) -> Markup:
        """The drawing, axes included."""
        frame = Plot(self.x, self.y, self.name, self.width, self.height, self.left)
        right, bottom = self.width - self.RIGHT, self.height - self.BOTTOM
        for value in self.x.marks:
            left, _ = self.at(value, self.y.low)
            frame._add("path", "grid", d=f"M{left:.1f} {self.TOP}V{bottom}")
            frame._add("text", "tick", body=_number(value), x=left, y=bottom + 17, text_anchor="middle")
        for value in self.y.marks:
            _, top = self.at(self.x.low, value)
            frame._add("path", "grid", d=f"M{self.left} {top:.1f}H{right}")
            if self.y.label:
                frame._add("text", "tick", body=_number(value), x=self.left - 8, y=top + 4, text_anchor="end")
        middle = (self.left + right) / 2
        frame._add("text", "axis", body=escape(self.x.label), x=middle, y=self.height - 8, text_anchor="middle")
        turned = f"translate(14 {(self.TOP + bottom) / 2:.1f}) rotate(-90)"
        frame._add("text", "axis", body=escape(self.y.label), transform=turned, text_anchor="middle")
        drawn = Markup("").join(self._parts)
        if self.clip:
            # A nested drawing cuts off what lies outside it, without needing a name for a clip path.
            box = self.left, self.TOP, right - self.left, bottom - self.TOP
            drawn = Markup('<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">{4}</svg>').format(
                *box, drawn
            )
        return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
            self.width, self.height, plain(self.name, 200), Markup("").join(frame._parts), drawn
        )


def _short(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def _number(value: float) -> str:
    return f"{value:g}"


def _path(points: object) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)  # type: ignore[attr-defined]


def _corners(shape: str, x: float, y: float, size: float) -> list[Point]:
    if shape == "square":
        return [(x - size, y - size), (x + size, y - size), (x + size, y + size), (x - size, y + size)]
    if shape == "diamond":
        return [(x, y - 1.3 * size), (x + 1.3 * size, y), (x, y + 1.3 * size), (x - 1.3 * size, y)]
    if shape == "triangle":
        return [(x, y - 1.2 * size), (x + 1.1 * size, y + 0.8 * size), (x - 1.1 * size, y + 0.8 * size)]
    turns = [(index, size * (1.9 if index % 2 == 0 else 0.8)) for index in range(10)]
    return [
        (x + reach * math.sin(index * math.pi / 5), y - reach * math.cos(index * math.pi / 5)) for index, reach in turns
    ]


def _within(axis: Axis, value: float) -> bool:
    return axis.low <= value <= axis.high
