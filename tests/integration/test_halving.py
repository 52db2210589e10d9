"""Successive halving in a sweep: who is stopped, what it saves, and that it changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

import raysweep
from raysweep.engine.record import TrialRecord
from raysweep.search.fidelity import Ladder
from raysweep.search.parameters import Value
from raysweep.search.recorded import Recorder
from raysweep.search.space import canonical_hash
from raysweep.training.stages import PAUSED

FACES = "synthetic:identities=75,images_per_identity=5"


STEPS = 24
WORDS = (f"steps={STEPS}", "identity=1.0", "trials=6", "attackers=A0,A1", "bootstrap=100", "sampler=random", "eta=2")


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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_training_that_climbs_ends_as_one_that_ran_at_once(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the steps on the lower rung, the rest for those that climb: same weights, curves and metrics."""
    if engine == "local":  # one thread: several that wait for each other on busy cores take minutes
        monkeypatch.setattr("os.cpu_count", lambda: 1)
    words = [*WORDS, f"engine={engine}"]
    at_once = trials(raysweep.tune("ganonymization", *words, data=FACES, runs=tmp_path / "whole").records)
    trained_at_once = {canonical_hash(record.setting): record for record in at_once.values()}
    found = raysweep.tune("ganonymization", *words, "rungs=2", data=FACES, runs=tmp_path / "halved")
    halved = trials(found.records)
    if engine == "local":  # with several workers it depends on who comes first
        assert {record.state for record in halved.values()} == {"complete", "stopped"}
    finished = changed = 0
    for record in halved.values():
        (rung,) = record.rungs
        assert rung["steps"] == STEPS // 2
        whole = trained_at_once[canonical_hash(record.setting)]
        if record.state == "stopped":
            assert record.fidelity["steps"] == STEPS // 2
            assert record.curves["step"] == (10.0,)
            continue
        finished += 1
        assert record.curves == whole.curves
        assert record.fidelity == whole.fidelity
        assert record.notes["steps"] == STEPS
        assert record.metrics.keys() == whole.metrics.keys()
        for name, value in whole.metrics.items():
            assert record.metrics[name].ok == value.ok, name
            assert not value.ok or record.metrics[name].value == pytest.approx(value.value, abs=1e-6), name
        # On the rung another generator drew: half-trained, and for half of the people.
        changed += rung["utility"] != record.metrics["utility"].value
    assert finished
    assert changed
    controls = {record.control: record for record in found.records if record.control}
    assert controls["untrained"].state == "complete"
    assert controls["untrained"].rungs == ()
    # What is kept to be applied later is the end of the training, without what going on would need.
    kept = list((found.info.run_folder / "states").glob("*.safetensors"))
    assert kept
    for path in kept:
        with safe_open(path, framework="pt") as file:
            assert PAUSED not in set(file.keys())
            assert file.get_tensor("trained")[1].item() == STEPS


@pytest.mark.slow
def test_a_recorded_setting_that_trains_is_trained_in_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of simulated searches asks of each rung what a sweep does, and ends at the same point."""
    recorder = Recorder(FACES, None, Ladder(2, 2), tmp_path)
    setting: dict[str, Value] = {"steps": 8, "init": "scratch"}
    low, full = recorder.score("ganonymization", setting)
    assert 0 < low.seconds == low.whole
    assert 0 < full.seconds < full.whole < low.seconds + full.seconds
    monkeypatch.setattr("raysweep.search.recorded.trains_in_stages", lambda name, setting: False)
    recorder._worker._loaded.clear()  # it must learn anew, not draw with the generator that it has
    early, whole = recorder.score("ganonymization", setting, 1)
    for name in ("privacy", "utility"):
        assert full.metrics[name].value == pytest.approx(whole.metrics[name].value, abs=1e-9)
    # Measured on half of the people in both cases, after half of the steps in one of them.
    assert any(low.metrics[name].value != early.metrics[name].value for name in low.metrics if low.metrics[name].ok)
