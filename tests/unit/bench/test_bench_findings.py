"""Goals, findings and the table; the measurements themselves run in tests/integration/test_bench.py."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from raysweep.bench.asking import seconds_a_trial
from raysweep.bench.busy import shares_of_gpus
from raysweep.bench.finding import Finding, How
from raysweep.bench.goals import ALSO, BENCHES, GOALS, Goal, choose
from raysweep.bench.pairs import pair_seconds
from raysweep.bench.run import run_benches, write_json
from raysweep.bench.steady import steady_rate
from raysweep.bench.table import findings_table
from raysweep.errors import ConfigError, StoreError


def test_every_measurement_exists_and_every_goal_belongs_to_one() -> None:
    for bench in BENCHES.values():
        module, function = bench.place.split(":")
        assert callable(getattr(importlib.import_module(f"raysweep.bench.{module}"), function))
    yielded = [goal for bench in BENCHES.values() for goal in bench.goals]
    assert sorted(yielded) == sorted(GOALS)
    assert all(goal.split()[0] in {*BENCHES, *ALSO} for goal in GOALS)


@pytest.mark.parametrize(
    ("goal", "value", "verdict"),
    [
        (Goal("", 0.95, 0.85, at_least=True), 0.95, "pass"),
        (Goal("", 0.95, 0.85, at_least=True), 0.9, "falls short"),
        (Goal("", 0.95, 0.85, at_least=True), 0.8, "fails"),
        (Goal("", 1.05, 1.2), 1.0, "pass"),
        (Goal("", 1.05, 1.2), 1.2, "falls short"),
        (Goal("", 1.05, 1.2), 1.3, "fails"),
        (Goal("", 1.15, 1.4, around=(0.85, 0.7)), 1.15, "pass"),
        (Goal("", 1.15, 1.4, around=(0.85, 0.7)), 1.3, "falls short"),
        (Goal("", 1.15, 1.4, around=(0.85, 0.7)), 1.5, "fails"),
        (Goal("", 1.15, 1.4, around=(0.85, 0.7)), 0.85, "pass"),
        (Goal("", 1.15, 1.4, around=(0.85, 0.7)), 0.8, "falls short"),
        (Goal("", 1.15, 1.4, around=(0.85, 0.7)), 0.6, "fails"),
    ],
)
def test_verdicts(goal: Goal, value: float, verdict: str) -> None:
    assert goal.verdict(value) == verdict


def test_a_ratio_that_should_be_one_says_both_ends() -> None:
    assert Goal("", 1.15, 1.4, around=(0.85, 0.7)).text == "0.85 to 1.15"


def test_choose_names_what_is_not_known() -> None:
    assert choose([]) == [name for name, bench in BENCHES.items() if not bench.asked]
    assert choose(["R25", "R5"]) == ["R4", "R25"]
    with pytest.raises(ConfigError, match=r"--only R99: .*known: .*R13") as caught:
        choose(["R99", "swep"])
    assert len(caught.value.problems) == 2


def test_a_finding_says_its_median_and_range_or_why_there_is_none(tmp_path: Path) -> None:
    found = [Finding("R25", (3.0, 2.0, 7.0), "on a note"), Finding("R13", missing="no [GPU]")]
    assert found[0].median == 3.0
    assert found[0].verdict == "pass"
    assert math.isnan(found[1].median)
    console = Console(width=200, record=True)
    console.print(findings_table(found))
    shown = console.export_text()
    for words in ("3 (2 to 7)", "pass", "not measured", "no [GPU]", "<= 6"):
        assert words in shown
    write_json(tmp_path / "bench.json", found, {"cores": 2})
    first, second = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["findings"]
    assert first["values"] == [3.0, 2.0, 7.0]
    assert second["median"] is None
    assert second["missing"] == "no [GPU]"
    with pytest.raises(StoreError, match="cannot write"):
        write_json(tmp_path / "no" / "bench.json", found, {})


def test_one_that_breaks_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(how: How) -> list[Finding]:
        raise ValueError("no such thing")

    monkeypatch.setattr("raysweep.bench.asking.asking", broken)
    monkeypatch.setattr("raysweep.bench.startup.startup", lambda how: [Finding("R25", (2.0,), note=how.folder.name)])
    found = run_benches(["R13", "R25"], How(tmp_path))
    assert [(finding.goal, finding.missing, finding.note) for finding in found] == [
        ("R13", "ValueError: no such thing", ""),
        ("R25", "", "R25"),
    ]


def test_the_steady_rate_leaves_out_the_end() -> None:
    # Two workers, an item of 100 faces each second on each; the last item of one came late, when the other had nothing left to do.
    ended = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 9.0]
    assert steady_rate(ended, [100] * 8, 2) == pytest.approx(200.0)


def test_every_pair_is_counted() -> None:
    bare, counting = pair_seconds(6, 4, 0)
    assert bare > 0
    assert counting > 0


def test_the_least_busy_gpu_is_told_from_the_others() -> None:
    assert shares_of_gpus(["0, 90", "1, 50", "0, 100", "1, 70"]) == pytest.approx([0.95, 0.6])
    with pytest.raises(ValueError, match="said nothing"):
        shares_of_gpus([])


def test_asking_takes_time_and_leaves_nothing_open() -> None:
    seconds = seconds_a_trial("random", 20, 3)
    assert len(seconds) == 3
    assert all(0 < value < 10 for value in seconds)
