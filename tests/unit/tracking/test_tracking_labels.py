"""Labels of close marks: none over another, none over a mark, none outside, and the line leads to its own mark."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import pytest
from fake_sweep import record, sweep_info
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.tracking.charts import front_chart
from raysweep.tracking.figures import front_figure, front_png
from raysweep.tracking.labels import Box, place_labels
from raysweep.tracking.standing import standing

ROOM = Box(0, 0, 800, 500)
MARK = 6.0


def around(point: tuple[float, float]) -> Box:
    return Box(point[0] - MARK, point[1] - MARK, point[0] + MARK, point[1] + MARK)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.floats(300, 360), st.floats(200, 240)), min_size=1, max_size=8))
def test_no_label_covers_anything(marks: list[tuple[float, float]]) -> None:
    placed = place_labels(marks, [(26.0, 12.0)] * len(marks), ROOM, mark=MARK)
    shown = [(index, label) for index, label in enumerate(placed) if label is not None]
    for (_, first), (_, second) in itertools.combinations(shown, 2):
        assert not first.box.meets(second.box)
        assert second.line is None or not first.box.crossed_by(*second.line)
    for index, label in shown:
        assert not any(label.box.meets(around(mark)) for place, mark in enumerate(marks) if place != index)
        assert label.box.left >= 0
        assert label.box.right <= 800
        if label.line is not None:
            assert math.dist(label.line[0], marks[index]) == pytest.approx(MARK)


def test_eight_marks_in_one_spot_are_all_labelled() -> None:
    marks = [(400.0 + 3 * index, 250.0 - 2 * index) for index in range(8)]
    placed = place_labels(marks, [(26.0, 12.0)] * 8, ROOM, mark=MARK)
    assert None not in placed


def test_a_lone_label_stands_beside_its_mark_to_the_upper_right() -> None:
    (label,) = place_labels([(100.0, 100.0)], [(20.0, 10.0)], ROOM, mark=MARK)
    assert label is not None
    assert label.line is None
    assert label.box.left > 100
    assert label.box.bottom < 100


def test_a_label_stays_off_lines_and_keeps_clear_of_what_is_taken() -> None:
    line = ((50.0, 88.0), (200.0, 88.0))
    taken = Box(108, 60, 160, 140)
    (label,) = place_labels([(100.0, 100.0)], [(20.0, 10.0)], ROOM, mark=MARK, taken=[taken], lines=[line])
    assert label is not None
    assert not label.box.meets(taken)
    assert not label.box.crossed_by(*line)


def test_no_room_is_said() -> None:
    assert place_labels([(5.0, 5.0)], [(20.0, 10.0)], Box(0, 0, 10, 10), mark=MARK) == [None]


def test_the_front_of_close_points_is_labelled_everywhere(tmp_path: Path) -> None:
    records = [record(number, 0.80 + 0.01 * number, 0.70 - 0.01 * number) for number in range(6)]
    info = sweep_info(tmp_path)
    chart = str(front_chart(standing(records, info), frozenset()))
    assert sorted(re.findall(r'class="label"[^>]*>(#\d)<', chart)) == [f"#{number}" for number in range(6)]
    figure = front_figure(records, info)
    assert sorted(item.text for item in figure.layout.annotations) == [f"#{number}" for number in range(6)]
    assert len({(item.ax, item.ay) for item in figure.layout.annotations}) > 1, "not all at the same side"
    assert front_png(records, info, tmp_path / "front.png").stat().st_size > 20_000
