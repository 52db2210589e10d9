"""Pieces of the report: paragraphs, tables, figures. A table is written once and comes out as HTML, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup

from raysweep.tracking.text import plain

__all__ = [
    "Block", "Cell", "Code", "Column", "Figure", "Figures", "Fold", "Head", "Legend", "Row", "Section", "Sheet", "SheetRow", "Table",
    "Tabular", "Text", "tabular",
]  # fmt: skip


class Column(NamedTuple):
    """Head of a column; `css` is `n` for numbers."""

    name: str
    css: str = ""


class Cell(NamedTuple):
    """One line of text, its class, and what is shown under the pointer."""

    text: str
    css: str = ""
    title: str = ""


class Row(NamedTuple):
    """Cells and the class of the row (`strong`, `quiet`)."""

    cells: Sequence[Cell]
    css: str = ""


@dataclass(frozen=True)
class Tabular:
    """A table: every text in it is one printable line already."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""


def tabular(
    columns: Sequence[str | Column], rows: Sequence[Sequence[object] | Row], caption: str = "", limit: int = 400
) -> Tabular:
    """A table from plain values; each becomes one printable line of at most `limit` characters."""
    heads = tuple(column if isinstance(column, Column) else Column(column) for column in columns)

    def cell(value: object, column: Column) -> Cell:
        if isinstance(value, Cell):
            return Cell(plain(value.text, limit), value.css or column.css, value.title)
        return Cell(plain("" if value is None else value, limit), column.css)

    made = []
    for row in rows:
        given, css = (row.cells, row.css) if isinstance(row, Row) else (row, "")
        made.append(Row(tuple(cell(value, column) for value, column in zip(given, heads, strict=True)), css))
    return Tabular(heads, tuple(made), caption)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    css: str = ""
    kind: str = "text"


@dataclass(frozen=True)
class Head:
    """A heading inside a section."""

    text: str
    kind: str = "head"


@dataclass(frozen=True)
class Code:
    """Text as it is typed."""

    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Table:
    """A table."""

    table: Tabular
    kind: str = "table"


@dataclass(frozen=True)
class Legend:
    """Names of lines: (class, name)."""

    keys: Sequence[tuple[str, str]]
    kind: str = "legend"


@dataclass(frozen=True)
class Figure:
    """A drawing and what to see in it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Figures:
    """Drawings side by side where there is room."""

    figures: Sequence[Figure]
    kind: str = "figures"


@dataclass(frozen=True)
class SheetRow:
    """Faces of one release: `src` is a data address."""

    name: str
    alt: str
    src: Markup


@dataclass(frozen=True)
class Sheet:
    """A contact sheet."""

    rows: Sequence[SheetRow]
    kind: str = "sheet"


@dataclass(frozen=True)
class Fold:
    """Blocks under a line that opens them."""

    text: str
    parts: Sequence[Block] = field(default_factory=tuple)
    open: bool = False
    kind: str = "fold"


Block = Text | Head | Code | Table | Legend | Figures | Sheet | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    parts: Sequence[Block]
