"""What a person sees at the terminal: a live panel while a sweep runs, plain lines where there is no terminal, the front at the end."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from raysweep.engine.record import TrialRecord
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.note import reading
from raysweep.tracking.running import RunningFront
from raysweep.tracking.standing import Standing, referee_share, setting_words, spent_by_stage, standing, varying
from raysweep.tracking.text import duration, number, plain, setting_text, stopped_text, with_interval, worst_attacker

__all__ = ["LiveView", "front_settings", "front_table", "live_view", "print_closing", "sparkline", "timing_words"]

LAST_TRIALS = 6
LAST_NOTES = 3
BAR = 14
LINE_EVERY_S = 15.0
SPARKS = "▁▂▃▄▅▆▇█"


def live_view(info: SweepInfo, console: Console | None = None) -> LiveView:
    """The view that fits the console: a live panel on a terminal, else plain lines without escape codes.

    Example:
        with live_view(info) as view:
            view.stage("drawing faces", 200, 1200, rate=950.0)
            view.trial(record)
    """
    console = console or _console()
    lively = console.is_terminal and not console.is_dumb_terminal
    return PanelView(info, console) if lively else LineView(info, console)


def _console() -> Console:
    """Standard output. A notebook calls itself a terminal, but shows every redraw below the last one, and a line as a box of its own."""
    console = Console()
    return Console(force_jupyter=False, force_terminal=False, width=120) if console.is_jupyter else console


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """A row of at most `width` blocks from 0 to the largest value, over all values; empty for none.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    count = min(width, len(values))
    shown = [values[round(index * (len(values) - 1) / max(1, count - 1))] for index in range(count)]
    top = max(values, default=0.0)
    if top <= 0:
        return SPARKS[0] * len(shown)
    return "".join(SPARKS[min(7, math.floor(8 * max(0.0, value) / top))] for value in shown)


@dataclass
class _Stage:
    name: str
    done: int = 0
    total: int | None = None
    rate: float | None = None
    started_at: float = 0.0
    changed_at: float = 0.0

    @property
    def complete(self) -> bool:
        return self.total is not None and self.done >= self.total

    def words(self, unit: str = "faces/s") -> str:
        text = plain(self.name, 40)
        if self.total is not None:
            text += f" {self.done:,}/{self.total:,}"
        elif self.done:
            text += f" {self.done:,}"
        return text + (f", {self.rate:,.0f} {unit}" if self.rate else "")


@dataclass
class _Progress:
    """Everything both views show."""

    info: SweepInfo
    clock: Callable[[], float]
    began_at: float = 0.0
    stages: dict[str, _Stage] = field(default_factory=dict)
    records: dict[str, TrialRecord] = field(default_factory=dict)
    served: set[str] = field(default_factory=set)
    served_trials: int = 0
    running: int = 0
    first_run_at: float | None = None

    def elapsed_s(self) -> float:
        return self.clock() - self.began_at

    def __post_init__(self) -> None:
        self.front = RunningFront(self.info)

    def add(self, record: TrialRecord, served: bool) -> None:
        """Take a record; a second one of a key replaces the first."""
        again = record.key in self.records
        self.records[record.key] = record
        if served:
            self.served.add(record.key)
            self.served_trials += not record.control
        if again:
            self.inform(self.info)
        else:
            self.front.add(record)

    def inform(self, info: SweepInfo) -> None:
        """Take newer facts, on which it may depend which trials count."""
        self.info, self.front = info, RunningFront(info)
        for record in self.records.values():
            self.front.add(record)

    def counts(self) -> tuple[int, int, int]:
        """Finished, failed and served trials; controls apart."""
        return self.front.trials, self.front.failed, self.served_trials

    def left_s(self) -> float | None:
        """Time left at the pace of the trials run so far; None while nothing can be said."""
        finished, _, served = self.counts()
        fresh, missing = finished - served, max(0, self.info.trials - finished)
        if not fresh or self.first_run_at is None:
            return 0.0 if self.info.trials and not missing else None
        return missing * (self.clock() - self.first_run_at) / fresh


class LiveView:
    """What the driver calls while a sweep runs. Nothing here raises because of what is shown.

    Args:
        info: of the sweep; replace it with `update` when counts become known.
        console: where to write.
        clock: monotonic seconds.
    """

    def __init__(self, info: SweepInfo, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._state = _Progress(info, clock, clock())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def update(self, info: SweepInfo) -> None:
        """Take newer counts, clear controls, trials planned."""
        self._state.inform(info)
        self._refresh()

    def stage(self, name: str, done: int = 0, total: int | None = None, rate: float | None = None) -> None:
        """How far a stage is.

        Args:
            name: `drawing faces`, `preparing`, `starting workers`, ...; the same name again updates it.
            done: items finished.
            total: items in all, None when not known; done == total ends the stage.
            rate: faces per second, None when it makes no sense.
        """
        now = self._state.clock()
        stage = self._state.stages.setdefault(name, _Stage(name, started_at=now))
        stage.done, stage.total, stage.rate, stage.changed_at = done, total, rate, now
        self._stage_changed(stage)

    def running(self, count: int) -> None:
        """How many trials run right now."""
        if count and self._state.first_run_at is None:
            self._state.first_run_at = self._state.clock()
        self._state.running = count
        self._refresh()

    def trial(self, record: TrialRecord, served: bool = False) -> None:
        """One trial or control has ended; `served` when the ledger had it."""
        state = self._state
        if not served and not record.control and state.first_run_at is None:
            state.first_run_at = state.clock() - float(record.seconds.get("wall", 0.0))
        state.add(record, served)
        self._trial_ended(record, served)

    def note(self, text: str) -> None:
        """One line that a person should read."""
        raise NotImplementedError

    def _refresh(self) -> None:
        """Show the state as it is now."""

    def _stage_changed(self, stage: _Stage) -> None:
        raise NotImplementedError

    def _trial_ended(self, record: TrialRecord, served: bool) -> None:
        raise NotImplementedError


class LineView(LiveView):
    """One plain line per event, and per stage at its start, its end and every few seconds."""

    def __init__(
        self,
        info: SweepInfo,
        console: Console,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = LINE_EVERY_S,
    ) -> None:
        super().__init__(info, console, clock)
        self._every_s = every_s
        self._printed: dict[str, tuple[float, int, int | None]] = {}
        self._served_at = -math.inf

    def __enter__(self) -> Self:
        self._print("starting")  # Ray and the libraries take seconds, on a busy machine many
        return self

    def note(self, text: str) -> None:
        """Print it."""
        self._print(plain(text, 1000))

    def _stage_changed(self, stage: _Stage) -> None:
        now = self._state.clock()
        at, done, total = self._printed.get(stage.name, (-math.inf, -1, None))
        if (done, total) == (stage.done, stage.total):
            return
        if now - at >= self._every_s or stage.complete:
            self._printed[stage.name] = (now, stage.done, stage.total)
            self._print(stage.words() + (f", {duration(now - stage.started_at)}" if stage.complete else ""))

    def _trial_ended(self, record: TrialRecord, served: bool) -> None:
        now = self._state.clock()
        if served:  # a resumed sweep serves hundreds at once: their number is enough
            if now - self._served_at >= self._every_s:
                self._served_at = now
                self._print(f"served from the ledger: {len(self._state.served)} so far")
            return
        name = f"control {plain(record.control, 40)}" if record.control else f"trial #{record.number}"
        words = setting_words(record, self._state.info)
        if record.state == "failed":
            said = [f"{name} FAILED: {plain(record.reason, 300)}", words, self._tail()]
        elif record.state == "stopped":
            said = [f"{name}: {stopped_text(record)}", words, self._tail()]
        else:
            said = [
                f"{name}: P {with_interval(record.metrics.get('privacy'))}, U {with_interval(record.metrics.get('utility'))}, "
                f"strongest attacker {worst_attacker(record.attackers) or '-'}",
                words,
                duration(float(record.seconds.get("wall", 0.0))),
                self._tail(),
            ]
        self._print("; ".join(filter(None, said)))

    def _tail(self) -> str:
        front = self._state.front
        left = self._state.left_s()
        words = f"{front.trials}/{self._state.info.trials or '?'} trials, front {len(front.front)}, hypervolume {front.hypervolume:.3f}"
        return words + (f", about {duration(left)} left" if left else "")

    def _print(self, text: str) -> None:
        line = f"[{self._state.elapsed_s():7.1f} s] {text}"
        encoding = self._console.encoding or "utf-8"
        safe = line.encode(encoding, "replace").decode(encoding)
        self._console.print(Text(safe), soft_wrap=True, highlight=False)


class PanelView(LiveView):
    """A panel that is redrawn a few times per second."""

    def __init__(self, info: SweepInfo, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(info, console, clock)
        self._notes: deque[str] = deque(maxlen=LAST_NOTES)
        self._ended: deque[tuple[TrialRecord, bool]] = deque(maxlen=LAST_TRIALS)
        self._telling: list[TrialRecord] = []
        # get_renderable keeps the clock running between events.
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=4, vertical_overflow="ellipsis"
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state.running = 0
        self._live.stop()

    def note(self, text: str) -> None:
        """Show it under the panel's table; the last few stay."""
        self._notes.append(plain(text, 300))

    def _stage_changed(self, stage: _Stage) -> None:
        """The next redraw shows it."""

    def _trial_ended(self, record: TrialRecord, served: bool) -> None:
        self._ended.append((record, served))
        if not record.control and self._tells_more(record):
            self._telling.append(record)

    def _tells_more(self, record: TrialRecord) -> bool:
        """Whether other parameters vary with this trial than without it: those few trials stand for all."""
        known = {item.anonymizer for item in self._telling}
        return record.anonymizer not in known or _columns([*self._telling, record]) != _columns(self._telling)

    def render(self) -> RenderableType:
        """The panel as it is now."""
        info = self._state.info
        title = Text.assemble(
            (plain(info.name, 40), "bold"),
            " on ",
            plain(info.dataset, 40),
            ("  (synthetic faces)", "yellow") if info.synthetic else "",
        )
        parts: list[RenderableType] = [self._stages(), self._summary()]
        if self._ended:
            parts += [Text(), self._last_trials()]
        parts += [Text(note, style="yellow", overflow="ellipsis", no_wrap=True) for note in list(self._notes)]
        return Panel(Group(*parts), title=title, title_align="left", border_style="blue", padding=(0, 1))

    def _stages(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        stages = sorted(self._state.stages.values(), key=lambda stage: stage.changed_at)
        open_ones = [stage for stage in stages if not stage.complete]
        shown = [stage for stage in stages if stage.complete][-2:] + open_ones[-3:]
        for stage in shown or [_Stage("starting")]:
            name = Text(plain(stage.name, 40), style="dim" if stage.complete else "")
            bar: RenderableType = Text("done" if stage.complete else "...", style="dim")
            if stage.total and not stage.complete:
                filled = round(BAR * min(1.0, stage.done / stage.total))
                bar = Text.assemble(
                    ("━" * filled, "blue"), ("━" * (BAR - filled), "bright_black"), f" {stage.done:,}/{stage.total:,}"
                )
            elif stage.complete:
                bar = Text(f"done {stage.done:,}", style="dim")
            table.add_row(name, bar, f"{stage.rate:,.0f} faces/s" if stage.rate else "")
        return table

    def _summary(self) -> RenderableType:
        state = self._state
        finished, failed, served = state.counts()
        front = state.front
        left = state.left_s()
        line = Text.assemble(
            "trials ", (f"{finished}/{state.info.trials or '?'}", "bold"),
            f"  running {state.running}  ", (f"failed {failed}", "red" if failed else ""), f"  from ledger {served}\n",
            "front ", (str(len(front.front)), "bold"), "  hypervolume ", (f"{front.hypervolume:.3f} ", "bold"),
            (sparkline(front.volumes), "blue"),
            f"\nelapsed {duration(state.elapsed_s())}",
            f"  about {duration(left)} left" if left is not None else "  time left not known yet",
        )  # fmt: skip
        return line

    def _last_trials(self) -> RenderableType:
        names = _columns(self._telling)
        table = Table(box=None, padding=(0, 1), expand=True, header_style="dim")
        for name in ("trial", "P", "U"):
            table.add_column(name, no_wrap=True)
        table.add_column("strongest attacker", no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column("setting", no_wrap=True, overflow="ellipsis", ratio=3)
        table.add_column("time", justify="right", no_wrap=True)
        best = self._state.front.keys
        for record, served in reversed(self._ended):
            words = _words(record, self._state.info, names, 120)
            style = "bold" if record.key in best else ""
            row: list[str | Text]
            if record.state == "failed":
                row = ["failed", "", Text(plain(record.reason, 200), style="red")]
            elif record.state == "stopped":
                row = ["", "", Text(stopped_text(record), style="dim")]
            else:
                row = [
                    _short(record, "privacy"),
                    _short(record, "utility"),
                    (worst_attacker(record.attackers) or "-").partition(" on ")[0],
                ]
            wall = "ledger" if served else duration(float(record.seconds.get("wall", 0.0)))
            cells: list[str | Text] = [_label(record), *row, words, wall]
            table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells), style=style)
        return table


def front_table(records: Sequence[TrialRecord], info: SweepInfo, width: int = 80) -> Table:
    """The front as a table, most private first, the knee marked.

    Args:
        records: trials and controls.
        info: of the sweep.
        width: of the console in characters; each varying parameter gets a column of its own where they fit, else none is
            shown (`front_settings` then lists them).
    """
    state = standing(records, info)
    names = _columns(state.trials)
    attackers = [worst_attacker(record.attackers) or "-" for record in state.front]
    # What is the same in all rows needs no column.
    same, where = len(set(attackers)) == 1, {attacker.partition(" on ")[2] for attacker in attackers}
    caption = None
    if same:
        caption = f"strongest attacker of all: {attackers[0]}"
    elif len(where) == 1 and (only := where.pop()):
        caption = f"strongest attackers: all on {only}"
        attackers = [attacker.partition(" on ")[0] for attacker in attackers]
    attackers = [attacker.split(" ")[0] for attacker in attackers]  # the id: `ls attackers` explains it
    title = f"Pareto front: {len(state.front)} of {len(state.trials)} trials, hypervolume {state.hypervolume:.3f}"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.title_style, table.caption_style = "bold", "dim"
    table.min_width = min(
        width, max(len(title), len(caption or ""))
    )  # else both are broken to the width of the columns
    for head in ("trial", "P [95 %]", "U [95 %]"):
        table.add_column(head, no_wrap=True)
    if not same:
        table.add_column("strongest\nattacker", overflow="fold")
    settings = [[number(record.setting[name]) for name in names] for record in state.front]
    heads = [plain(name, 40).replace("_", "\n") for name in names]
    cells = zip(*settings, strict=True) if settings else ()
    taken = sum(2 + max(map(len, [*head.split("\n"), *column])) for head, column in zip(heads, cells, strict=False))
    apart = bool(names) and 53 + (0 if same else 2 + max(map(len, attackers))) + taken <= width
    for head in heads if apart else []:
        table.add_column(Text(head), overflow="fold", vertical="middle")
    for record, attacker, values in zip(state.front, attackers, settings, strict=True):
        knee = record is state.knee
        row = [
            f"#{record.number}" + (" knee" if knee else ""),
            with_interval(record.metrics["privacy"]),
            with_interval(record.metrics["utility"]),
            *([] if same else [attacker]),
            *(values if apart else []),
        ]
        table.add_row(*map(Text, row), style="bold" if knee else "")
    return table


def front_settings(records: Sequence[TrialRecord], info: SweepInfo) -> Table:
    """One line (or a few) per trial of the front: the parameters that vary, or what a study lists, or all of them."""
    state = standing(records, info)
    names = _columns(state.trials)
    grid = Table.grid(padding=(0, 2))
    for record in state.front:
        style = "bold" if record is state.knee else ""
        grid.add_row(Text(f"#{record.number}", style=style), Text(_words(record, info, names, 400), style=style))
    return grid


def print_closing(
    console: Console,
    records: Sequence[TrialRecord],
    info: SweepInfo,
    url: str = "",
    view_url: str = "",
    notes: Sequence[str] = (),
) -> None:
    """Say all that is said at the end: the front, what it means, the judges on clear faces, controls, and where to look.

    Args:
        console: where to write.
        records: trials and controls.
        info: of the sweep.
        url: direct link to the parent run, empty when there is none.
        view_url: link to the preset view.
        notes: further lines, such as what MLflow did not take.
    """
    state = standing(records, info)
    parts: list[RenderableType] = []
    if info.synthetic:
        parts.append(
            Text("Synthetic faces: drawn, not photographed; the numbers say nothing about real people.", style="yellow")
        )
    if state.front:
        table = front_table(records, info, console.width)
        parts += [Text(), table, Text()]
        if not any(str(column.header).replace("\n", "_") in _columns(state.trials) for column in table.columns):
            parts += [front_settings(records, info), Text()]
    parts += [Text(line) for line in reading(state, info)]
    parts.append(Text())
    if info.clear:
        parts.append(_clear_table(info))
    if state.controls:
        parts.append(_control_table(state))
    failed = [record for record in state.trials if record.state == "failed"]
    if failed:
        count = "1 trial failed" if len(failed) == 1 else f"{len(failed)} trials failed, first"
        parts.append(Text(f"\n{count}: #{failed[0].number}: {plain(failed[0].reason, 200)}", style="red"))
    spent = spent_by_stage(records)
    if sum(spent.values()):
        worked = duration(sum(spent.values()))
        parts.append(Text(f"\nwork of all workers {worked}; the referee took {referee_share(spent):.1%} of it"))
    parts += [Text(plain(note, 1000), style="yellow") for note in notes]
    console.print(Group(*parts))
    # A path or link must stay whole to be clicked or copied: no wrapping.
    lines = [
        *([Text(f"time      {timing_words(info.timing)}")] if info.timing else []),
        Text(f"report    {info.run_folder / 'report' / 'report.html'}"),
        Text.assemble("look at   ", ("python -m raysweep ui", "bold")),
        *(Text(f"{head}{link}") for head, link in (("          ", url), ("charts    ", view_url)) if link),
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


def timing_words(timing: Mapping[str, Any]) -> str:
    """`6 min 32 s; foretold by its dry run: 6 min 10 s (5 min 20 s to 7 min 05 s), predicted / actual 0.94`.

    Args:
        timing: of a `SweepInfo`, not empty.
    """
    words = f"{duration(timing['actual_s'])} until the last trial"
    if "predicted_s" not in timing:
        return words
    predicted, low, high = (timing[name] for name in ("predicted_s", "low_s", "high_s"))
    spread = f" ({duration(low)} to {duration(high)})" if high > low else ""
    ratio = f", predicted / actual {predicted / timing['actual_s']:.2f}" if timing["actual_s"] > 0 else ""
    return f"{words}; foretold by {plain(timing['basis'], 60)}: {duration(predicted)}{spread}{ratio}"


def _clear_table(info: SweepInfo) -> Table:
    table = Table(title="clear faces: what the judges reach", box=None, title_justify="left", show_header=False)
    table.title_style = "bold"
    for name, value in info.clear.items():
        reason = "" if value.ok else plain(value.reason, 120)
        table.add_row(*map(Text, (plain(name, 60).removeprefix("clear/"), with_interval(value), reason)))
    return table


def _control_table(state: Standing) -> Table:
    table = Table(title="controls", box=None, title_justify="left", show_header=False)
    table.title_style = "bold"
    for record in state.controls:
        complete = record.state == "complete"
        scores = (
            [f"P {_short(record, 'privacy')}", f"U {_short(record, 'utility')}"] if complete else [record.state, ""]
        )
        name = plain(record.control, 40)
        if record.control != record.anonymizer and len(state.controls) > len({item.control for item in state.controls}):
            name += f" {plain(record.anonymizer, 40)}"
        table.add_row(*map(Text, [name, *scores, "" if complete else plain(record.reason, 120)]))
    return table


def _columns(records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Parameters that tell the trials apart; none where several anonymizers have their own."""
    return varying(records) if len({record.anonymizer for record in records}) == 1 else ()


def _words(record: TrialRecord, info: SweepInfo, names: Sequence[str], limit: int) -> str:
    if names and not record.control:
        return setting_text({name: record.setting[name] for name in names if name in record.setting}, limit)
    return setting_words(record, info, limit)


def _label(record: TrialRecord) -> str:
    return plain(record.control, 12) if record.control else f"#{record.number}"


def _short(record: TrialRecord, name: str) -> str:
    value = record.metrics.get(name)
    return "-" if value is None else f"{value.value:.2f}" if value.ok else value.status
