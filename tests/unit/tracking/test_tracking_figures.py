from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from fake_sweep import HOSTILE, control, failed, record, sweep, sweep_info

from raysweep.metrics.value import MetricValue
from raysweep.tracking.figures import (
    PRIVACY_LABEL,
    UTILITY_LABEL,
    attackers_table,
    front_csv,
    front_figure,
    front_html,
    front_png,
    hypervolume_figure,
    trials_csv,
)
from raysweep.tracking.note import sweep_note, trial_note
from raysweep.tracking.standing import standing


def named(figure, name: str):
    return next(item for item in figure.data if item.name and item.name.startswith(name))


def test_figure_shows_front_trials_knee_and_controls(tmp_path: Path) -> None:
    info = sweep_info(tmp_path)
    records = [
        record(0, 0.9, 0.2),
        record(1, 0.6, 0.6),
        record(2, 0.2, 0.9),
        record(3, 0.5, 0.5),
        control("identity", 0.0, 1.0),
    ]
    figure = front_figure(records, info)
    front = named(figure, "Pareto front")
    assert list(front.x) == [0.9, 0.6, 0.2]
    assert list(front.y) == [0.2, 0.6, 0.9]
    assert list(front.error_x.array) == pytest.approx([0.05] * 3)
    assert list(named(figure, "trial").x) == [0.5]
    assert list(named(figure, "knee").x) == [0.6]
    assert "open" in named(figure, "control: identity").marker.symbol
    assert figure.layout.xaxis.title.text == PRIVACY_LABEL
    assert figure.layout.yaxis.title.text == UTILITY_LABEL
    assert "hypervolume 0.480" in figure.layout.title.subtitle.text
    assert "SYNTHETIC" in figure.layout.title.subtitle.text
    hover = named(figure, "trial").hovertext[0]
    assert "adaptive_head on small_a" in hover
    assert "identity_weight = 0.4" in hover


def test_staircase_bounds_the_dominated_area(tmp_path: Path) -> None:
    figure = front_figure([record(0, 0.9, 0.2), record(1, 0.6, 0.6), record(2, 0.2, 0.9)], sweep_info(tmp_path))
    line = next(item for item in figure.data if item.mode == "lines")
    assert list(zip(line.x, line.y, strict=True)) == [
        (0.0, 0.9), (0.2, 0.9), (0.2, 0.6), (0.6, 0.6), (0.6, 0.2), (0.9, 0.2), (0.9, 0.0),
    ]  # fmt: skip


def test_real_faces_are_not_called_synthetic(tmp_path: Path) -> None:
    figure = front_figure(sweep(), sweep_info(tmp_path, synthetic=False, dataset="pins"))
    assert "SYNTHETIC" not in figure.layout.title.subtitle.text


def test_no_interval_draws_no_bar(tmp_path: Path) -> None:
    bare = record(0, 0.5, 0.5, metrics={"privacy": MetricValue(0.5), "utility": MetricValue(0.5)})
    front = named(front_figure([bare], sweep_info(tmp_path)), "Pareto front")
    assert list(front.error_x.array) == [0.0]


def test_page_works_offline_and_its_names_are_dead_text(tmp_path: Path) -> None:
    nasty = record(0, 0.5, 0.5, setting={HOSTILE: HOSTILE}, anonymizer=HOSTILE)
    path = front_html([nasty], sweep_info(tmp_path, name=HOSTILE, dataset=HOSTILE), tmp_path / "deep" / "front.html")
    text = path.read_text(encoding="utf-8")
    assert len(text) > 3_000_000, "plotly must be inside"
    assert 'src="http' not in text
    assert "<script>alert" not in text
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize("records", [[], [failed(0)], sweep(), [record(0, 0.5, 0.5, setting={"$x_": "$\\alpha"})]])
def test_picture_of_any_state(tmp_path: Path, records) -> None:
    path = front_png(records, sweep_info(tmp_path, name="$bad^"), tmp_path / "front.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert front_figure(records, sweep_info(tmp_path)).layout.title.text


def test_hypervolume_figure(tmp_path: Path) -> None:
    figure = hypervolume_figure(sweep(), sweep_info(tmp_path))
    assert max(figure.data[0].y) == pytest.approx(standing(sweep(), sweep_info(tmp_path)).hypervolume)


def test_front_csv(tmp_path: Path) -> None:
    info = sweep_info(tmp_path)
    records = sweep()
    with front_csv(records, info, tmp_path / "front.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    state = standing(records, info)
    assert [int(row["number"]) for row in rows] == [item.number for item in state.front]
    assert [row["knee"] for row in rows].count("true") == 1
    assert {row["on_front"] for row in rows} == {"true"}
    first = state.front[0]
    assert float(rows[0]["privacy"]) == first.metrics["privacy"].value
    assert float(rows[0]["setting.identity_weight"]) == first.setting["identity_weight"]
    assert rows[0]["realism/lpips"] == "", "undefined is empty, never a number"


def test_trials_csv_holds_all_rows_and_reasons(tmp_path: Path) -> None:
    records = [*sweep(), failed(99, HOSTILE)]
    with trials_csv(records, sweep_info(tmp_path), tmp_path / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records)
    assert next(row for row in rows if row["number"] == "99")["reason"].startswith("a b")
    undefined = next(row for row in rows if row["privacy_status"] == "undefined")
    assert undefined["privacy"] == ""


def test_attackers_table_is_json(tmp_path: Path) -> None:
    records = [
        record(0, 0.5, 0.5, attackers=({"attacker": HOSTILE, "rank1": math.nan}, {"attacker": "lazy", "extra": 1}))
    ]
    table = json.loads(json.dumps(attackers_table(records, sweep_info(tmp_path)), allow_nan=False))
    assert table["columns"] == ["trial", "setting", "attacker", "rank1", "extra"]
    assert table["data"][0][3] is None
    assert all(len(row) == 5 for row in table["data"])


def test_note_leads_with_the_answer_and_stays_within_the_limit(tmp_path: Path) -> None:
    info = sweep_info(tmp_path)
    note = sweep_note(sweep(), info)
    assert note.startswith("**Synthetic faces")
    assert "**knee**" in note
    assert "rank1" in note
    assert "1,200" in note
    many = [record(n, n / 200, 1 - n / 200, setting={"name": "long" * 40}) for n in range(200)]
    long = sweep_note(many, info)
    assert len(long) <= 7500
    assert "more are in `front.csv`" in long
    assert sweep_note([], info)


def test_note_of_a_trial_says_why_not() -> None:
    assert "diverged" in trial_note(failed(0))
    assert "identities without repeats" in trial_note(record(0, None, 0.5))
    assert "| attacker |" in trial_note(record(0, 0.5, 0.5))
    assert "<script" not in trial_note(record(0, 0.5, 0.5, attackers=({"attacker": HOSTILE},)))
