"""Successive halving in a sweep: who is stopped, what it saves, and that it changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import raysweep
from raysweep.engine.record import TrialRecord

FACES = "synthetic:identities=75,images_per_identity=5"


def trials(records: tuple[TrialRecord, ...]) -> dict[int, TrialRecord]:
    return {record.number: record for record in records if not record.control}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_most_trials_stop_early_and_the_others_are_as_without(tmp_path: Path, engine: str) -> None:
    words = [f"engine={engine}", "trials=8", "attackers=A0,A1", "bootstrap=100", "sampler=random", "eta=2"]
    halved = trials(raysweep.tune("pixelate", *words, "rungs=2", data=FACES, runs=tmp_path / "halved").records)
    assert len(halved) == 8
    states = {record.state for record in halved.values()}
    assert states == {"complete", "stopped"}
    for record in halved.values():
        assert len(record.rungs) == 1
        assert record.rungs[0]["images"] < 0.75 * max(item.fidelity["images"] for item in halved.values())
        if record.state == "stopped":
            assert not record.metrics
            assert not record.rankable
    whole = trials(raysweep.tune("pixelate", *words, data=FACES, runs=tmp_path / "whole").records)
    same = {record.setting["block_size"]: record for record in whole.values()}
    finished = [record for record in halved.values() if record.state == "complete"]
    shared = [record for record in finished if record.setting["block_size"] in same]
    assert shared
    for record in shared:
        other = same[record.setting["block_size"]]
        for name in ("privacy", "utility"):
            assert record.metrics[name].value == pytest.approx(other.metrics[name].value, abs=1e-6)
    # Again: everything is served, nothing is run.
    again = trials(raysweep.tune("pixelate", *words, "rungs=2", data=FACES, runs=tmp_path / "halved").records)
    assert {number: record.ended_at for number, record in again.items()} == {
        number: record.ended_at for number, record in halved.items()
    }
