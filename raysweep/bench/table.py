"""The findings as a table on screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from raysweep.bench.finding import Finding
from raysweep.bench.goals import GOALS

__all__ = ["findings_table", "shown"]

STYLES = {"pass": "green", "falls short": "yellow", "fails": "red", "not measured": "dim"}


def findings_table(found: Sequence[Finding]) -> Table:
    """One row per ratio: what, goal, median with range, verdict, on what it was measured."""
    table = Table(box=None, pad_edge=False)
    for column in ("ratio", "what", "goal", "measured", "", "on what, or why"):
        table.add_column(column, overflow="fold")
    for finding in found:
        goal = GOALS[finding.goal]
        table.add_row(
            Text(finding.goal),
            Text(goal.what),
            Text(goal.text),
            Text(shown(finding)),
            Text(finding.verdict, style=STYLES[finding.verdict]),
            Text(finding.missing or finding.note),
        )
    return table


def shown(finding: Finding) -> str:
    """`1.02 (0.99 to 1.04)`; `-` for nothing."""
    if not finding.values:
        return "-"
    low, high = min(finding.values), max(finding.values)
    spread = f" ({low:.3g} to {high:.3g})" if len(finding.values) > 1 else ""
    return f"{finding.median:.3g}{spread}"
