"""Tables that verbs print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raysweep.tracking.note import FEW_PEOPLE, FEWEST_PEOPLE
from raysweep.tracking.text import plain, with_interval

if TYPE_CHECKING:
    from raysweep.faces import Faces
    from raysweep.sweep import SweepResult

__all__ = ["evaluation_tables", "faces_table", "plain_table"]


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without lines; every cell is shown as it is, never read as markup."""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def faces_table(faces: Faces) -> RenderableType:
    """What came of each image, and how identities were given roles."""
    import numpy as np

    table = faces.references.faces.table
    rows = [("usable faces", str(len(table)), "")]
    rows += [("quarantined", str(count), plain(reason, 80)) for reason, count in faces.left_out().items()]
    for role, meaning in (("G", "background"), ("T", "attacker training"), ("S", "selection"), ("E", "evaluation")):
        chosen = table.identity[table.rows(role)]
        people = len(np.unique(chosen[chosen >= 0]))
        rows.append((f"role {role}", str(len(chosen)), f"{meaning}, {people} identities{_too_few(role, people)}"))
    return plain_table(plain(faces.source.name, 80), ("", "images", ""), rows)


def _too_few(role: str, people: int) -> str:
    """What a sweep will say of so few people, told before it is started."""
    if role != "E" or people >= FEW_PEOPLE:
        return ""
    if not people:
        return ": privacy is undefined"
    what = "no intervals below" if people < FEWEST_PEOPLE else "wide intervals; a front to act on takes"
    return f": {what} {FEWEST_PEOPLE if people < FEWEST_PEOPLE else FEW_PEOPLE}"


ATTACKER_COLUMNS = ("attacker", "embedder", "rank-1 on E [95 %]", "clear", "advantage on S", "on E", "")


def _attacker_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One attacker or control; controls have no clear side and no advantage."""

    def number(name: str) -> str:
        value = row.get(name)
        return "-" if value is None else f"{value:.2f}"

    name = f"{row['attacker']} {row['name']}" + (f" ({row['control']})" if row.get("control") else "")
    interval = f" [{number('rank1_E_lo')}, {number('rank1_E_hi')}]" if row.get("rank1_E_lo") is not None else ""
    remark = "strongest" if row.get("selected") else str(row.get("reason") or "")
    return (
        plain(name, 60),
        plain(str(row.get("embedder") or "-"), 60),
        number("rank1_E") + interval,
        number("clear_E"),
        number("advantage_S"),
        number("advantage_E"),
        plain(remark, 100),
    )


def evaluation_tables(result: SweepResult) -> RenderableType:
    """Every metric and every attacker of the scored setting, clear numbers beside."""
    parts: list[RenderableType] = []
    if result.info.synthetic:
        parts.append(
            Text("Synthetic faces: drawn, not photographed. The numbers say nothing about real people.", style="yellow")
        )
    for record in result.records:
        if record.control:
            continue
        setting = ", ".join(f"{key}={value}" for key, value in record.setting.items())
        title = plain(f"{record.anonymizer} {setting}", 200)
        if record.state == "failed":
            parts.append(Text(f"{title}: failed: {plain(record.reason, 400)}", style="red"))
            continue
        rows = [
            (name, with_interval(value) if value.ok else value.status, str(value.n), plain(value.reason, 100))
            for name, value in record.metrics.items()
        ]
        parts.append(plain_table(title, ("metric", "value [95 %]", "n", ""), rows))
        if record.attackers:
            parts += [
                Text(),
                plain_table("attackers", ATTACKER_COLUMNS, [_attacker_row(row) for row in record.attackers]),
            ]
        if record.notes:
            parts += [
                Text(),
                plain_table("notes", ("", ""), [(key, plain(str(value), 200)) for key, value in record.notes.items()]),
            ]
    clear = [
        (name, with_interval(value) if value.ok else value.status, plain(value.reason, 100))
        for name, value in result.info.clear.items()
    ]
    parts += [Text(), plain_table("clear faces", ("", "value [95 %]", ""), clear)]
    return Group(*parts)
