"""The forecast of a sweep: trials per rung against the scheduler itself, seconds against a schedule, and time held against it."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from raysweep.commands.forecast_table import forecast_tables
from raysweep.dry_run import Outlook
from raysweep.engine.calibration import Survey, surveys
from raysweep.engine.forecast import (
    ArmRates,
    Rates,
    Scope,
    Span,
    Timekeeper,
    expected_rungs,
    forecast,
    makespan,
    read_forecast,
    write_forecast,
)
from raysweep.engine.record import TrialTask
from raysweep.errors import TrialError
from raysweep.search.fidelity import Ladder
from raysweep.search.scheduler import Halving, Rated

NONE = Span(0.0, 0.0, 0.0)


def exactly(value: float) -> Span:
    return Span(value, value, value)


def rates(**more: object) -> Rates:
    fields: dict[str, object] = {
        "arms": (ArmRates("blur", 20.0, 3, exactly(2.0), exactly(0.001), exactly(0.009), state_bytes=50),),
        "start_s": exactly(10.0),
        "prepare_s": exactly(30.0),
        "judge_s": (exactly(1.0),),
        "store_bytes": 1e6,
        "shard_bytes": 2e6,
        "prepared": False,
        "evidence_bytes": 100.0,
        "record_bytes": 10.0,
        "controls": 2,
        "seconds": 20.0,
    }
    return Rates(**(fields | more))  # type: ignore[arg-type]


def on_the_scheduler(
    ladder: Ladder, trials: int, turns: int, objectives: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    random = np.random.default_rng(0)
    counts = np.zeros((turns, ladder.rungs))
    for turn in range(turns):
        halving = Halving(ladder)
        for trial in range(trials):
            for rung in range(ladder.rungs):
                counts[turn, rung] += 1
                point = tuple(random.random(objectives).tolist())
                if not halving.climbs(str(trial), rung, Rated(point, point)):
                    break
    return np.asarray(counts.mean(axis=0))


def test_trials_per_rung_are_those_of_the_scheduler() -> None:
    ladder = Ladder(3, 3)
    expected = expected_rungs(ladder, 20)
    assert expected == pytest.approx(on_the_scheduler(ladder, 20, 40, 1), rel=0.06)
    two = on_the_scheduler(ladder, 20, 40, 2)
    assert expected == pytest.approx(two, rel=0.2)
    assert expected[1] > two[1], "ends of a front stand equal"
    assert expected_rungs(Ladder(2, 2), 3) == (3.0, 3.0), "all of the first three climb"


@given(st.integers(1, 8), st.lists(st.floats(0.1, 5.0), min_size=1, max_size=60))
def test_the_makespan_lies_between_what_schedules_may_take(workers: int, seconds: list[float]) -> None:
    free = [0.0] * workers
    for item in seconds:
        heapq.heappush(free, heapq.heappop(free) + item)
    found, longest = makespan(sum(seconds), max(seconds), workers), max(seconds)
    assert found >= max(sum(seconds) / workers, longest) - 1e-9
    assert abs(found - max(free)) <= longest


def test_stages_add_up_to_the_clock() -> None:
    found = forecast(Scope(20, 2, (100,), 1), rates())
    # 20 trials of 2 + 1 + 1 s, two controls without fit and anonymizing of 0.9 + 1 s; then half a trial in which one of two workers idles
    trials = 20 * 4.0 + 2 * 1.9
    assert found.stages["start"] == exactly(10.0)
    assert found.total_s.value == pytest.approx(40.0 + trials / 2 + 4.0 / 4)
    assert sum(span.value for span in found.stages.values()) == pytest.approx(found.total_s.value)
    assert found.total_s.low < found.total_s.value < found.total_s.high
    assert found.disk == {
        "shards": 2e6,
        "reference store": 1e6,
        "evidence": 2200.0,
        "ledger": 220.0,
        "generators, each on the front": 50.0,
    }


def test_rungs_save_what_is_not_climbed() -> None:
    ladder = Ladder(2, 3)
    found = forecast(Scope(20, 1, (30, 70), 1, ladder), rates(judge_s=(exactly(0.0), exactly(0.0)), controls=0))
    reached = expected_rungs(ladder, 20)
    assert found.rungs == reached
    assert found.total_s.value == pytest.approx(40.0 + 20 * 2.0 + 0.01 * (30 * reached[0] + 70 * reached[1]))


def arm(**more: float) -> ArmRates:
    fields: dict[str, Any] = {"fit_s": exactly(2.0), "fixed_s": exactly(0.5), "state_bytes": 50, **more}
    return ArmRates("ganonymization", 20.0, 3, anonymize_s=exactly(0.001), measure_s=exactly(0.009), **fields)


def test_a_training_that_is_divided_among_the_rungs_costs_what_is_reached() -> None:
    ladder = Ladder(2, 3)
    first, second = expected_rungs(ladder, 20)
    work = Scope(20, 1, (30, 70), 1, ladder)

    def seconds(staged: float) -> float:
        found = rates(arms=(arm(staged=staged),), judge_s=(exactly(0.0), exactly(0.0)), controls=0)
        return forecast(work, found).total_s.value - 40.0

    # A third of the 1.5 s of steps on the first rung, the rest on the second, and 0.5 s on each; 30 faces, then all 100 anew.
    in_stages = first * (0.5 + 1.5 / 3) + second * (0.5 + 1.5 * 2 / 3) + 0.01 * (30 * first + 100 * second)
    at_once = first * 2.0 + 0.01 * (30 * first + 70 * second)
    assert seconds(1.0) == pytest.approx(in_stages)
    assert seconds(0.0) == pytest.approx(at_once)
    assert seconds(0.25) == pytest.approx(0.25 * in_stages + 0.75 * at_once), (
        "some settings are trained, the others loaded"
    )
    # Without rungs there is nothing to divide.
    for staged in (0.0, 1.0):
        whole = forecast(Scope(20, 1, (100,), 1), rates(arms=(arm(staged=staged),), controls=0))
        assert whole.total_s.value == pytest.approx(40.0 + 20 * (2.0 + 1.0 + 1.0))


def test_a_budget_ends_it_after_the_trial_that_runs() -> None:
    found = forecast(Scope(20, 1, (100,), 1, budget_s=40.0), rates())
    assert found.total_s.value == pytest.approx(40.0 + 40.0 + 2.0)
    assert 0 < found.trials < 20
    assert forecast(Scope(20, 1, (100,), 1, budget_s=1e6), rates()).trials == 20


def test_a_forecast_is_kept_for_its_sweep_and_no_other(tmp_path: Path) -> None:
    found = forecast(Scope(20, 2, (100,), 1), rates())
    write_forecast(tmp_path, "abc", found)
    assert read_forecast(tmp_path, "abc") == found.total_s
    assert read_forecast(tmp_path, "abd") is None
    (tmp_path / "forecasts" / "abc.json").write_text('{"total_s": {"value": "x"}}', encoding="utf-8")
    assert read_forecast(tmp_path, "abc") is None


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_is_held_against_the_dry_run() -> None:
    clock = Clock()
    keeper = Timekeeper(20, Span(50.0, 40.0, 60.0), guess=True, began_at=100.0, clock=clock)
    for _ in range(20):
        keeper.start()
        clock.now += 2.0
        keeper.end()
    assert keeper.timing() == {
        "actual_s": 40.0,
        "predicted_s": 50.0,
        "low_s": 40.0,
        "high_s": 60.0,
        "basis": "its dry run",
    }


def test_without_one_its_first_trials_foretell_it() -> None:
    clock = Clock()
    keeper = Timekeeper(20, None, guess=True, began_at=90.0, clock=clock)
    for number in range(20):
        keeper.start()
        clock.now += 2.0 if number < 4 else 3.0
        keeper.end()
    timing = keeper.timing()
    assert timing["basis"] == "its first 4 trials"
    assert timing["predicted_s"] == pytest.approx(10.0 + 20 * 2.0)
    assert timing["actual_s"] == pytest.approx(10.0 + 4 * 2.0 + 16 * 3.0)


@pytest.mark.parametrize(("trials", "guess"), [(4, True), (20, False)])
def test_nothing_is_foretold_where_nothing_can_be(trials: int, guess: bool) -> None:
    clock = Clock()
    keeper = Timekeeper(trials, None, guess=guess, began_at=100.0, clock=clock)
    for _ in range(trials):
        keeper.start()
        clock.now += 1.0
        keeper.end()
    assert keeper.timing() == {"actual_s": float(trials)}


class FakePool:
    """Two workers; the settings of one anonymizer fail."""

    size = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def call(self, method: str, task: TrialTask, seconds: float) -> Survey | TrialError:
        self.asked.append(task.anonymizer)
        if task.anonymizer == "bad":
            return TrialError("it cannot")
        if task.anonymizer == "worse":
            raise KeyError("at once, as in this process")
        return Survey(task.anonymizer, 1.0, 0.0, 0.1, 0.2)

    def wait(self, handles: object) -> None:
        raise AssertionError("nobody waits")

    def result(self, handle: Survey | TrialError) -> Survey:
        if isinstance(handle, TrialError):
            raise handle
        return handle


def test_one_of_each_is_surveyed_even_when_the_time_is_up() -> None:
    pool = FakePool()
    tasks = [
        TrialTask(f"t{place}", place, name, {}, 0) for place, name in enumerate(("a", "bad", "c", "a", "bad", "c"))
    ]
    found, problems = surveys(pool, tasks, 3, 0.0)
    assert pool.asked == ["a", "bad", "c", "a"], "two rounds of two workers"
    assert [item.anonymizer for item in found] == ["a", "c", "a"]
    assert problems == ["bad: it cannot"]
    assert surveys(FakePool(), [TrialTask("t", 0, "worse", {}, 0)], 1, 0.0) == (
        [],
        ["worse: KeyError: 'at once, as in this process'"] * 2,
    )


def test_the_tables_say_what_it_takes_and_costs() -> None:
    work = Scope(20, 2, (30, 70), 1, Ladder(2, 3), budget_s=20.0)
    found = rates(judge_s=(exactly(1.0), exactly(1.0)), notes=("failed: [x]",))
    console = Console(width=140, record=True)
    console.print(forecast_tables(Outlook(forecast(work, found), found, work, 3, 128, ""), 6.0))
    shown = console.export_text()
    for words in (
        "20 trials and 2 controls on 2 workers",
        "33.3 %",
        "the budget ends",
        "2.0 MB",
        "3 machines",
        "failed: [x]",
    ):
        assert words in shown
    hours = forecast(work, found).total_s.value * 3 / 3600
    assert f"cost: {6 * hours:.2f}" in shown
