"""A study's settings against its first one: paired differences with Holm's correction, and the spread between seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.engine.record import TrialRecord
from raysweep.metrics.comparison import Comparison, SeedSpread, against_baseline, between_seeds
from raysweep.tracking.analysis import Analysis
from raysweep.tracking.parts import Block, Cell, Column, Row, Table, Tabular, Text, tabular
from raysweep.tracking.standing import setting_words

__all__ = ["compared", "compared_rows"]

Array = npt.NDArray[np.float64]

OBJECTIVES = ("privacy", "utility")
MOST = 40
"""Settings in the table; a search has more, and no first one to compare with."""


@dataclass(frozen=True)
class _Setting:
    label: str
    records: tuple[TrialRecord, ...]
    spread: Mapping[str, SeedSpread]
    draws: Array | None


def compared(found: Analysis) -> list[Block]:
    """The section, empty where the run was a search or has a single setting."""
    rows = compared_rows(found)
    if rows is None:
        return []
    return [
        Text(
            "Each setting against the first one of the study, on the same people: the difference with its 95 % interval over joint bootstrap "
            "draws of the people, and p with Holm's correction for all comparisons of that objective. ± is the standard deviation between "
            "runs that differ in nothing but the seed; it is not part of the interval."
        ),
        Table(rows),
    ]


def compared_rows(found: Analysis) -> Tabular | None:
    """One row per setting, in the order of the study; None where there is nothing to compare."""
    settings = _settings(found) if found.run.info.sampler == "list" else []
    if not 2 <= len(settings) <= MOST:
        return None
    differences = {name: _differences(settings, name, number) for number, name in enumerate(OBJECTIVES)}
    rows = []
    for place, item in enumerate(settings):
        cells = [Cell(item.label), Cell(str(len(item.records)))]
        for name in OBJECTIVES:
            cells.append(Cell(_spread(item.spread[name])))
            cells += (
                [Cell("first", "n quiet"), Cell("")] if not place else _difference(differences[name].get(item.label))
            )
        rows.append(Row(cells))
    columns: list[str | Column] = [Column("setting", "set"), Column("runs", "n")]
    for letter in ("P", "U"):
        columns += [Column(letter, "n"), Column(f"{letter} - first", "n"), Column("p (Holm)", "n")]
    return tabular(columns, rows)


def _settings(found: Analysis) -> list[_Setting]:
    grouped: dict[str, list[TrialRecord]] = {}
    for record in sorted(found.state.ranked, key=lambda record: record.number):
        mark = json.dumps([record.anonymizer, dict(record.setting)], sort_keys=True, default=str)
        grouped.setdefault(mark, []).append(record)
    made = []
    for records in grouped.values():
        first = records[0]
        label = f"#{first.number} {setting_words(first, found.run.info)}"
        spread = {name: between_seeds([record.metrics[name].value for record in records]) for name in OBJECTIVES}
        made.append(
            _Setting(label, tuple(records), spread, _joint([found.evidence.draws(record) for record in records]))
        )
    return made


def _joint(tables: Sequence[Array | None]) -> Array | None:
    """(B, 2) mean over the runs of a setting, draw by draw; None unless all runs have the same number of draws."""
    known = [table for table in tables if table is not None]
    if not known or len(known) < len(tables) or len({table.shape for table in known}) > 1:
        return None
    return np.asarray(np.mean(known, axis=0), dtype=np.float64)


def _differences(settings: Sequence[_Setting], name: str, column: int) -> dict[str, Comparison]:
    first = settings[0].draws
    if first is None:
        return {}
    trials = {
        item.label: (item.spread[name].mean, item.draws[:, column])
        for item in settings
        if item.draws is not None and item.draws.shape == first.shape
    }
    return against_baseline(trials, settings[0].label)


def _spread(spread: SeedSpread) -> str:
    if not math.isfinite(spread.mean):
        return "undefined"
    return f"{spread.mean:.2f} ± {spread.sd:.2f}" if math.isfinite(spread.sd) else f"{spread.mean:.2f}"


def _difference(comparison: Comparison | None) -> list[Cell]:
    if comparison is None:
        return [Cell("no joint draws", "n quiet"), Cell("")]
    if not math.isfinite(comparison.lo):
        return [Cell(_signed(comparison.difference)), Cell("")]
    css = "n strong" if comparison.p_holm < 0.05 else "n"
    interval = f"[{_signed(comparison.lo)}, {_signed(comparison.hi)}]"
    return [Cell(f"{_signed(comparison.difference)} {interval}", css), Cell(f"{comparison.p_holm:.3f}", css)]


def _signed(value: float) -> str:
    """Two digits with a sign; what rounds to nothing has none."""
    text = f"{value:+.2f}"
    return text[1:] if float(text) == 0 else text
