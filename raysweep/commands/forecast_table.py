"""The forecast of a sweep as tables, each number with its range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from raysweep.commands.tables import plain_table
from raysweep.tracking.text import duration, plain

if TYPE_CHECKING:
    from raysweep.dry_run import Outlook
    from raysweep.engine.forecast import Span

__all__ = ["forecast_tables", "size_words"]

STAGES = {
    "start": "Ray, workers, models, what attackers learn on clear faces",
    "prepare": "read, detect, align, measure the clear faces",
    "fit": "what anonymizers learn",
    "anonymize + measure": "anonymize, embed, expressions, realism",
    "attack + judge": "attackers, utility, intervals",
}
"""In the order in which they come."""


def forecast_tables(outlook: Outlook, price: float | None = None) -> RenderableType:
    """Stages, rungs, disk, and with a price what it costs.

    Args:
        outlook: of `raysweep.dry_run.look_ahead`.
        price: of one machine for an hour, in whatever currency.
    """
    found, rates, work = outlook.forecast, outlook.rates, outlook.work
    trials = f"{work.trials} trials and {rates.controls} controls"
    parts: list[RenderableType] = [
        Text(
            f"{trials} on {_count(work.workers, 'worker')}, {outlook.batch} faces per forward pass; a trial in full: {sum(work.rows):,} faces "
            f"in {_count(work.items, 'work item')}"
        )
    ]
    if found.trials < work.trials - 0.5:
        parts.append(Text(f"the budget ends the sweep after about {found.trials:.0f} of {work.trials} trials"))
    if work.ladder.rungs > 1:
        parts.append(_rungs(outlook))
    rows = [
        (stage, "done already" if stage == "prepare" and rates.prepared else duration(span.value), _range(span), words)
        for stage, words in STAGES.items()
        if (span := found.stages.get(stage)) is not None
    ]
    rows.append(("in all", duration(found.total_s.value), _range(found.total_s), "until the last trial is recorded"))
    parts.append(plain_table("time", ("stage", "expected", "range", ""), rows))
    parts.append(plain_table("disk", ("what", "size", ""), _disk(found.disk, rates.prepared)))
    if price is not None:
        hours = found.total_s.times(outlook.machines / 3600)
        parts.append(
            Text(
                f"cost: {price * hours.value:.2f} ({price * hours.low:.2f} to {price * hours.high:.2f}) at {price:g} for a machine-hour, "
                f"{_count(outlook.machines, 'machine')}"
            )
        )
    measured = ", ".join(f"{_count(arm.settings, 'setting')} of {plain(arm.anonymizer, 60)}" for arm in rates.arms)
    parts.append(Text(f"measured here in {duration(rates.seconds)}: {measured}", style="dim"))
    parts += [Text(plain(note, 300), style="yellow") for note in rates.notes]
    return Group(*parts)


def size_words(size: float) -> str:
    """`1.2 MB`.

    >>> size_words(512), size_words(1_234_567)
    ('512 B', '1.2 MB')
    """
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size:.0f} B"


def _rungs(outlook: Outlook) -> RenderableType:
    work = outlook.work
    staged = any(arm.staged for arm in outlook.rates.arms)
    rows = [
        (
            f"{number + 1}",
            f"{100 * share:.3g} %",
            f"{sum(work.rows[: number + 1]):,}",
            f"{outlook.forecast.rungs[number]:.1f}",
        )
        for number, share in enumerate(work.ladder.shares)
    ]
    share = "of the people" + (" and of the training" if staged else "")
    return plain_table("rungs", ("rung", share, "faces", "trials expected"), rows)


def _disk(disk: Mapping[str, float], prepared: bool) -> Sequence[tuple[str, str, str]]:
    there = ("shards", "reference store")
    return [
        (name, size_words(size), "there already" if prepared and name in there else "") for name, size in disk.items()
    ]


def _range(span: Span) -> str:
    return f"{duration(span.low)} to {duration(span.high)}" if span.high > span.low else ""


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
