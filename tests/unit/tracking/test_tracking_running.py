"""The front kept up to date trial by trial is the front of all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fake_sweep as fake
import pytest

from raysweep.metrics.value import MetricValue
from raysweep.tracking.running import RunningFront
from raysweep.tracking.standing import standing, trace


def test_it_agrees_with_all_records_after_every_trial(tmp_path: Path) -> None:
    info = fake.sweep_info(tmp_path)
    records = sorted(fake.sweep(), key=lambda record: record.ended_at)
    front = RunningFront(info)
    for count, record in enumerate(records, start=1):
        front.add(record)
        whole = standing(records[:count], info)
        assert front.keys == whole.front_keys
        assert front.trials == len(whole.trials)
        assert front.failed == sum(item.state == "failed" for item in whole.trials)
        assert front.hypervolume == pytest.approx(whole.hypervolume)
    assert front.volumes == pytest.approx([point.hypervolume for point in trace(records, info)])
    assert front.trials > 3


def test_what_may_not_stand_counts_and_moves_nothing(tmp_path: Path) -> None:
    info = fake.sweep_info(tmp_path)
    record = next(item for item in fake.sweep() if item.rankable)
    front = RunningFront(info)
    front.add(record)
    front.add(replace(record, key="other", metrics={**record.metrics, "privacy": MetricValue.undefined("no people")}))
    front.add(replace(record, key="lower", fidelity={"identities": 1}))
    assert front.keys == {record.key}
    assert front.trials == 3
    assert len(set(front.volumes)) == 1
