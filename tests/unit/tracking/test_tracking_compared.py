"""A study's table: first setting, spread between seeds, paired differences with Holm's correction."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from fake_evidence import judged_run

from raysweep.metrics.comparison import between_seeds, paired
from raysweep.tracking.analysis import analyse
from raysweep.tracking.compared import compared, compared_rows
from raysweep.tracking.stored import StoredRun


@pytest.fixture(scope="module")
def study() -> StoredRun:
    """Six trials as three settings, each run twice."""
    run = judged_run(attackers=("A0", "A1"), count=6)
    records = [
        record if record.control else replace(record, setting={"strength": record.number // 2}, seed=record.number % 2)
        for record in run.records
    ]
    return replace(run, records=tuple(records), info=replace(run.info, sampler="list"))


def test_each_setting_stands_once_beside_the_first(study: StoredRun) -> None:
    found = analyse(study)
    table = compared_rows(found)
    assert table is not None
    assert [row.cells[1].text for row in table.rows] == ["2", "2", "2"]
    assert table.rows[0].cells[3].text == "first"
    # Recomputed here from the records and their draws.
    trials = [record for record in study.records if not record.control]
    last, first = trials[4:6], trials[0:2]
    draws = [np.mean([found.evidence.draws(item)[:, 1] for item in side], axis=0) for side in (last, first)]
    means = [between_seeds([item.metrics["utility"].value for item in side]).mean for side in (last, first)]
    expected = paired(means[0], draws[0], means[1], draws[1])
    assert expected.difference < -0.1
    shown = table.rows[2].cells[6].text
    assert shown == f"{expected.difference:+.2f} [{expected.lo:+.2f}, {expected.hi:+.2f}]"
    assert float(table.rows[2].cells[7].text) >= round(expected.p, 3), "corrected for two comparisons"


def test_a_spread_is_stated_from_three_seeds_on(study: StoredRun) -> None:
    records = [
        record if record.control else replace(record, setting={"strength": record.number // 3})
        for record in study.records
    ]
    table = compared_rows(analyse(replace(study, records=tuple(records))))
    assert table is not None
    assert all("±" in row.cells[2].text for row in table.rows)
    assert math.isnan(between_seeds([0.1, 0.2]).sd)


def test_a_search_has_no_first_setting(study: StoredRun) -> None:
    assert compared(analyse(replace(study, info=replace(study.info, sampler="tpe")))) == []
    single = replace(study, records=tuple(record for record in study.records if record.control or record.number < 2))
    assert compared(analyse(single)) == []
