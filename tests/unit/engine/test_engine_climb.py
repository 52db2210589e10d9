"""How a trial climbs: which work items it asks for in which order, and what its records tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raysweep.engine.pools import ResultLostError
from raysweep.engine.record import Outcome, TrialRecord, TrialTask, Work
from raysweep.engine.trial import run_trial, trial_records
from raysweep.metrics.value import MetricValue

TASK = TrialTask("key", 0, "ganonymization", {"steps": 90}, 0, staged=True)
FIRST, SECOND, REST = (np.arange(low, high, dtype=np.int64) for low, high in ((0, 2), (2, 5), (5, 9)))
WORK = Work([REST], [[FIRST], [SECOND]], {"identities": 9})
VALUE = MetricValue(0.5)


class Spy:
    """A pool of words that writes down what is asked; it loses the result of one item when told to."""

    size = 1

    def __init__(self, lost: str = "") -> None:
        self.asked: list[str] = []
        self.lost = lost

    def call(self, method: str, task: TrialTask, *arguments: Any) -> Any:
        match method:
            case "fit":
                rung, earlier = arguments or (None, None)
                answer: Any = "whole" if rung is None else f"generator {rung}"
                line = f"fit {rung} from {earlier}"
            case "measure":
                fitted, rows = arguments
                answer = (fitted, rows.tolist())
                line = f"measure {rows.tolist()} by {fitted}"
            case _:
                fitted, parts, *rung = arguments
                rows = sorted(row for _, found in parts for row in found)
                line = f"{method} {[item for item in rung if item != []]} of {rows} by {fitted}"
                assert {by for by, _ in parts} == {fitted}, "a rung is judged by faces of its own generator"
                seconds = {"fit": 10.0 + len(rows), "measure": float(len(rows)), "judge": 1.0}
                answer = Outcome({"privacy": VALUE, "utility": VALUE}, (), {}, seconds, {})
                if method == "judge_rung":
                    answer = replace(answer, fidelity={"identities": len(rows), "steps": 10 * len(rows)})
        self.asked.append(line)
        if line == self.lost:
            self.lost = ""
            return None
        return answer

    def wait(self, handles: Any) -> None:
        """Done already."""

    def result(self, handle: Any) -> Any:
        if handle is None:
            raise ResultLostError("a result was lost with the machine that held it")
        return handle


STAGED = [
    "fit 0 from None",
    "measure [0, 1] by generator 0",
    "judge_rung [0] of [0, 1] by generator 0",
    "fit 1 from generator 0",
    "measure [0, 1] by generator 1",
    "measure [2, 3, 4] by generator 1",
    "judge_rung [1] of [0, 1, 2, 3, 4] by generator 1",
    "fit None from generator 1",
    "measure [0, 1] by whole",
    "measure [2, 3, 4] by whole",
    "measure [5, 6, 7, 8] by whole",
    "judge [] of [0, 1, 2, 3, 4, 5, 6, 7, 8] by whole",
]


def test_a_training_goes_on_from_rung_to_rung_and_every_rung_is_measured_anew() -> None:
    pool = Spy()
    records = list(trial_records(TASK, pool, WORK))
    assert pool.asked == STAGED
    assert [record.state for record in records] == ["stopped", "stopped", "complete"]
    assert [rung["steps"] for rung in records[-1].rungs] == [20, 50]
    assert records[0].fidelity == {"identities": 2, "steps": 20}
    assert records[-1].fidelity == {"identities": 9}


def test_what_lower_rungs_cost_is_counted_once() -> None:
    staged = list(trial_records(TASK, Spy(), WORK))
    # The training of a stage includes those before it; its measuring does not.
    assert [record.seconds["fit"] for record in staged] == [12.0, 15.0, 19.0]
    assert [record.seconds["measure"] for record in staged] == [2.0, 2.0 + 5.0, 2.0 + 5.0 + 9.0]
    assert [record.seconds["judge"] for record in staged] == [1.0, 2.0, 3.0]
    at_once = list(trial_records(replace(TASK, staged=False), Spy(), WORK))
    assert [record.seconds["measure"] for record in at_once] == [2.0, 5.0, 9.0], (
        "parts of lower rungs count on higher ones"
    )
    assert [record.seconds["judge"] for record in at_once] == [1.0, 2.0, 3.0]


def test_a_trial_that_is_stopped_asks_for_nothing_more() -> None:
    pool = Spy()
    record = run_trial(TASK, pool, WORK, climbs=lambda record: len(record.rungs) < 2)
    assert record.state == "stopped"
    assert pool.asked == STAGED[:7]


def test_without_stages_a_trial_is_trained_once_and_its_parts_count_again() -> None:
    pool = Spy()
    list(trial_records(replace(TASK, staged=False), pool, WORK))
    assert [line for line in pool.asked if line.startswith("fit")] == ["fit None from None"]
    assert [line.partition(" by")[0] for line in pool.asked if line.startswith("measure")] == [
        "measure [0, 1]",
        "measure [2, 3, 4]",
        "measure [5, 6, 7, 8]",
    ]
    whole = Spy()
    list(trial_records(TASK, whole, WORK.whole))
    assert whole.asked == ["fit None from None", *STAGED[8:]], "a control is run whole at once"


@pytest.mark.parametrize(
    ("place", "again"),
    [
        (2, STAGED),
        (6, ["fit 1 from None", *STAGED[4:]]),
        (11, ["fit None from None", *STAGED[8:]]),
    ],
)
def test_after_a_loss_it_is_trained_from_the_start_and_told_once(place: int, again: list[str]) -> None:
    pool = Spy(STAGED[place])
    records: list[TrialRecord] = list(trial_records(TASK, pool, WORK))
    assert [record.state for record in records] == ["stopped", "stopped", "complete"]
    assert pool.asked == [*STAGED[: place + 1], *again]
    assert records[-1].seconds["measure"] == 16.0
