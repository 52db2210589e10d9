from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_evidence import JUDGES, judged_run, store

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue
from raysweep.objective import privacy
from raysweep.tracking import recompute as module
from raysweep.tracking.recompute import Evidence, differences, recompute, recomputed_records, shown_pair
from raysweep.tracking.standing import standing
from raysweep.tracking.stored import StoredRun, load_run


@pytest.fixture(scope="module")
def run() -> StoredRun:
    return judged_run()


def changed(run: StoredRun, number: int, **fields: object) -> StoredRun:
    records = [replace(record, **fields) if record.number == number else record for record in run.records]  # type: ignore[arg-type]
    return replace(run, records=tuple(records))


def trial(run: StoredRun, number: int) -> TrialRecord:
    return next(record for record in run.records if record.number == number)


def test_the_numbers_come_out_again(run: StoredRun) -> None:
    found = recompute(run)
    assert set(found) == {record.key for record in run.records}
    assert differences(run, found) == []
    for record in run.records:
        again = found[record.key].metrics
        for name in (
            "privacy",
            "utility",
            "selection/privacy",
            "selection/utility",
            "privacy/naive",
            "privacy/gap",
            "privacy/rank1",
        ):
            assert again[name].value == pytest.approx(record.metrics[name].value, abs=1e-9), (record.number, name)
            assert again[name].hi == pytest.approx(record.metrics[name].hi, abs=1e-9), (record.number, name)
    fresh = replace(run, records=recomputed_records(run, found))
    assert standing(fresh.records, run.info).front_keys == standing(run.records, run.info).front_keys
    spread = [record.metrics["privacy"].value for record in run.records]
    assert max(spread) - min(spread) > 0.5, "trials that are all alike would prove nothing"


def test_the_attacker_is_chosen_again(run: StoredRun) -> None:
    evidence, found = Evidence(run), recompute(run)
    chosen = [
        (found[record.key].attacker, shown_pair(record, evidence)) for record in run.records if not record.control
    ]
    assert all(again == recorded for again, recorded in chosen)
    assert None not in {again for again, _ in chosen}


@pytest.mark.parametrize("attackers", [("A1",), ("A0", "A2", "A5", "A6")])
def test_any_protocol(attackers: tuple[str, ...]) -> None:
    run = judged_run(attackers, count=1)
    assert differences(run, recompute(run)) == []


def test_a_changed_record_is_told(run: StoredRun) -> None:
    record = trial(run, 1)
    better = replace(record.metrics["privacy"], value=record.metrics["privacy"].value + 2e-6)
    cheated = changed(run, 1, metrics={**record.metrics, "privacy": better})
    told = differences(cheated, recompute(cheated))
    assert [(item.trial, item.name) for item in told] == [("#1", "privacy")]
    assert told[0].recorded - told[0].recomputed == pytest.approx(2e-6)


def test_a_cheat_that_moves_the_front_is_told(run: StoredRun) -> None:
    record = trial(run, 1)
    metrics = {**record.metrics, "privacy": MetricValue(1.0, 1.0, 1.0), "utility": MetricValue(1.0, 1.0, 1.0)}
    cheated = changed(run, 1, metrics=metrics)
    names = {item.name for item in differences(cheated, recompute(cheated))}
    assert {"privacy", "utility", "on the front"} <= names


def test_evidence_that_does_not_fit_gives_no_number(run: StoredRun) -> None:
    record = trial(run, 2)
    names = [name for name in record.evidence if name.startswith("rank/")]
    for spoil in (
        lambda array: array[:-1],
        lambda array: array + 1000,
        lambda array: array - 100,
        lambda array: array.reshape(1, -1),
    ):
        arrays = {**record.evidence, **{name: spoil(record.evidence[name]) for name in names}}
        bad = changed(run, 2, evidence=arrays)
        value = recompute(bad)[record.key].metrics["privacy"]
        assert value.status == "undefined"
        assert math.isnan(value.value)


def test_without_the_clear_side_nothing_is_claimed(run: StoredRun) -> None:
    common = {name: array for name, array in run.common.items() if not name.startswith("clear/")}
    with_control = replace(run, common=common)
    assert differences(with_control, recompute(with_control)) == [], "the control identity shows the same"
    bare = replace(with_control, records=tuple(record for record in run.records if record.control != "identity"))
    assert all(again.metrics["privacy"].status == "undefined" for again in recompute(bare).values())


def test_curves(run: StoredRun) -> None:
    evidence, record = Evidence(run), trial(run, 1)
    pair = shown_pair(record, evidence)
    assert pair is not None
    curve = evidence.curve(record, pair)
    assert curve is not None
    assert (np.diff(curve) >= -1e-12).all()
    assert curve[-1] == pytest.approx(1.0)
    assert curve[0] == pytest.approx(record.metrics["privacy/rank1_full"].value)
    risk = evidence.risk(record, pair)
    assert risk is not None
    assert risk[0].mean() == pytest.approx(record.metrics["privacy/rank1"].value)
    table = evidence.confusion(record, JUDGES[0])
    assert table is not None
    assert np.trace(table) / table.sum() == pytest.approx(record.metrics[f"utility/{JUDGES[0]}/match"].value)
    assert evidence.expression_models(record) == list(JUDGES)
    assert evidence.roc(record, pair[1]) is not None
    assert evidence.draws(record) is not None


def test_the_rules_are_those_of_the_referee() -> None:
    assert module.DERIVED == privacy.DERIVED
    assert module.NAIVE == privacy.NAIVE


def test_a_stored_run_is_read_back_and_damage_is_said(run: StoredRun, tmp_path: Path) -> None:
    folder = store(run, tmp_path / "noise-3f2a91c0")
    stored = load_run(folder)
    assert stored.missing == {}
    assert differences(stored, recompute(stored)) == []
    (folder / "scores" / "00000001.npz").write_bytes(b"nonsense")
    (folder / "scores" / "00000002.npz").unlink()
    damaged = load_run(folder)
    assert "digest" in damaged.missing["00000001"]
    assert "not there" in damaged.missing["00000002"]
    assert len(recompute(damaged)) == len(run.records) - 2
