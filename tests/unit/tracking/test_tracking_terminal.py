from __future__ import annotations

import io
from pathlib import Path

import pytest
from fake_sweep import HOSTILE, failed, record, sweep, sweep_info
from rich.console import Console

from raysweep.tracking.terminal import LineView, PanelView, front_table, live_view, print_closing, sparkline


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(width: int = 80, encoding: str = "utf-8") -> tuple[Console, io.BytesIO]:
    raw = io.BytesIO()
    return Console(file=io.TextIOWrapper(raw, encoding=encoding, write_through=True), width=width), raw


def test_view_fits_the_console(tmp_path: Path) -> None:
    info = sweep_info(tmp_path)
    assert isinstance(live_view(info, lines()[0]), LineView)
    assert isinstance(live_view(info, Console(file=io.StringIO(), force_terminal=True)), PanelView)


def test_lines_have_no_escape_codes_and_are_not_broken(tmp_path: Path) -> None:
    console, raw = lines(width=40)
    with live_view(sweep_info(tmp_path), console) as view:
        view.stage("drawing faces", 1200, 1200, 950.0)
        for item in sweep():
            view.trial(item)
        view.trial(failed(50, HOSTILE))
        view.trial(record(51, 0.4, 0.4, setting={HOSTILE: HOSTILE}))
        view.note("[red]tracker[/red] is down\x1b[2J")
    text = raw.getvalue().decode()
    assert "\x1b" not in text
    assert text.splitlines()[0].endswith("] starting")
    assert len(text.splitlines()) == 2 + len(sweep()) + 3
    assert "drawing faces 1,200/1,200, 950 faces/s" in text
    assert "P undefined" in text
    assert "FAILED: the generator diverged" in text
    assert "[red]tracker[/red]" in text


def test_lines_survive_an_ascii_pipe(tmp_path: Path) -> None:
    console, raw = lines(encoding="ascii")
    with live_view(sweep_info(tmp_path), console) as view:
        view.note("café …")
    assert b"caf? ?" in raw.getvalue()


def test_a_stage_prints_every_few_seconds_and_at_its_end(tmp_path: Path) -> None:
    console, raw = lines()
    clock = Clock()
    view = LineView(sweep_info(tmp_path), console, clock, every_s=5.0)
    for done in range(0, 101):
        clock.now = done / 10
        view.stage("preparing", done, 100, 10.0)
    view.stage("preparing", 100, 100, 10.0)
    shown = [line.split("preparing ")[1].split(",")[0] for line in raw.getvalue().decode().splitlines()]
    assert shown == ["0/100", "50/100", "100/100"]


def test_served_trials_are_counted_not_listed(tmp_path: Path) -> None:
    console, raw = lines()
    view = LineView(sweep_info(tmp_path), console, Clock())
    for number in range(300):
        view.trial(record(number, 0.5, 0.5), served=True)
    assert len(raw.getvalue().splitlines()) == 1


def test_time_left_uses_the_pace_of_new_trials_only(tmp_path: Path) -> None:
    clock = Clock()
    view = LineView(sweep_info(tmp_path, trials=10), lines()[0], clock)
    state = view._state
    assert state.left_s() is None
    for number in range(4):
        view.trial(record(number, 0.5, 0.5), served=True)
    assert state.left_s() is None
    view.running(2)
    clock.now = 20.0
    view.trial(record(4, 0.5, 0.5))
    view.trial(record(5, 0.5, 0.5))
    assert state.left_s() == pytest.approx(40.0)
    for number in range(6, 10):
        view.trial(record(number, 0.5, 0.5))
    assert state.left_s() == 0.0


@pytest.mark.parametrize("width", [60, 80, 140])
def test_panel_shows_the_state(tmp_path: Path, width: int) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=40, legacy_windows=False)
    view = PanelView(sweep_info(tmp_path), console, Clock())
    view.stage("drawing faces", 1200, 1200, 950.0)
    view.stage("starting workers", 1, 2)
    view.running(2)
    for item in sweep():
        view.trial(item)
    view.trial(failed(77, HOSTILE))
    view.note(HOSTILE)
    plain = Console(width=width, file=io.StringIO(), color_system=None)
    plain.print(view.render())
    text = plain.file.getvalue()
    for words in (
        "trials 21/20",
        "running 2",
        "failed 2",
        "front 7",
        "hypervolume 0.5",
        "starting workers",
        "1/2",
        "synthetic",
    ):
        assert words in text
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text


def test_panel_runs_live_from_the_first_moment(tmp_path: Path) -> None:
    file = io.StringIO()
    with live_view(sweep_info(tmp_path), Console(file=file, force_terminal=True, width=80, height=30)) as view:
        assert "starting" in file.getvalue()
        view.stage("drawing faces", 10, 20, 5.0)
    assert "10/20" in file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_closing_words(tmp_path: Path, width: int) -> None:
    console, raw = lines(width)
    link = "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=" + "k" * 80
    print_closing(
        console,
        sweep(),
        sweep_info(tmp_path),
        url="http://127.0.0.1:5000/#/x",
        view_url=link,
        notes=["not logged: [x]"],
    )
    text = raw.getvalue().decode()
    for words in (
        "knee",
        "rank1/small_a",
        "blackout",
        "python -m raysweep ui",
        "1 trial failed",
        "not logged: [x]",
        link,
        "Synthetic",
    ):
        assert words in text
    assert "\x1b" not in text


def test_the_referees_share_of_the_work_is_printed(tmp_path: Path) -> None:
    console, raw = lines()
    timed = [record(n, 0.5, 0.5, seconds={"fit": 6.0, "embed": 2.0, "judge": 2.0, "wall": 90.0}) for n in range(3)]
    print_closing(console, timed, sweep_info(tmp_path))
    assert "work of all workers 30 s; the referee took 20.0% of it" in raw.getvalue().decode()
    console, raw = lines()
    print_closing(console, [record(0, 0.5, 0.5, seconds={})], sweep_info(tmp_path))
    assert "the referee took" not in raw.getvalue().decode()


def test_the_time_is_held_against_what_was_foretold(tmp_path: Path) -> None:
    timing = {"actual_s": 400.0, "predicted_s": 380.0, "low_s": 340.0, "high_s": 420.0, "basis": "its dry run"}
    for given, expected in (
        (timing, "foretold by its dry run: 6 min 20 s (5 min 40 s to 7 min 00 s), predicted / actual 0.95"),
        ({"actual_s": 400.0}, "6 min 40 s until the last trial\n"),
        ({}, ""),
    ):
        console, raw = lines()
        print_closing(console, sweep(), sweep_info(tmp_path, timing=given))
        assert expected in raw.getvalue().decode()
        assert ("time  " in raw.getvalue().decode()) == bool(given)


def test_front_table_hides_what_does_not_vary(tmp_path: Path) -> None:
    records = [record(n, 0.1 * n, 1 - 0.1 * n, setting={"kernel_size": 11 + 2 * n, "fixed": 5}) for n in range(4)]
    table = front_table(records, sweep_info(tmp_path))
    heads = [str(column.header) for column in table.columns]
    assert heads == ["trial", "P [95 %]", "U [95 %]", "kernel\nsize"]
    assert table.row_count == 4


def test_closing_of_a_sweep_without_front(tmp_path: Path) -> None:
    console, raw = lines()
    print_closing(console, [failed(0)], sweep_info(tmp_path, clear={}))
    assert "No trial could be ranked" in raw.getvalue().decode()


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    long = sparkline(list(map(float, range(100))))
    assert (len(long), long[0], long[-1]) == (16, "▁", "█")
    assert sparkline([0.4]) == "█"
