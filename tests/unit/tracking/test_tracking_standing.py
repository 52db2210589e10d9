from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_sweep import control, failed, record, sweep, sweep_info

from raysweep.engine.record import TrialRecord
from raysweep.tracking.note import reading, sweep_note
from raysweep.tracking.standing import rung_agreement, rung_words, searched, setting_words, standing, trace, varying

INFO = sweep_info(Path("runs"))


def test_front_knee_and_volume_of_known_points() -> None:
    records = [record(0, 0.9, 0.2), record(1, 0.6, 0.6), record(2, 0.2, 0.9), record(3, 0.5, 0.5)]
    state = standing(records, INFO)
    assert [item.number for item in state.front] == [0, 1, 2]
    assert state.knee is not None
    assert state.knee.number == 1
    assert state.hypervolume == pytest.approx(0.48)


def test_only_what_is_ranked_stands_on_the_front() -> None:
    low = record(9, 0.99, 0.99, fidelity={"identities": 5})
    records = [record(0, 0.5, 0.5), failed(1), record(2, None, 0.99), control("identity", 0.999, 1.0), low]
    state = standing(records, INFO)
    assert [item.number for item in state.front] == [0]
    assert len(state.trials) == 4
    assert [item.control for item in state.controls] == ["identity"]


def test_nothing_to_rank() -> None:
    state = standing([failed(0)], INFO)
    assert (state.front, state.knee, state.hypervolume) == ((), None, 0.0)
    assert standing([], INFO).trials == ()


def test_last_record_of_a_key_counts() -> None:
    state = standing([failed(0), record(0, 0.4, 0.4)], INFO)
    assert [item.state for item in state.trials] == ["complete"]


def test_trace_ends_at_the_front_and_never_falls() -> None:
    records = sweep()
    path = trace(reversed(records), INFO)
    state = standing(records, INFO)
    assert [point.step for point in path] == list(range(1, len(state.trials) + 1))
    volumes = [point.hypervolume for point in path]
    assert volumes == sorted(volumes)
    assert volumes[-1] == pytest.approx(state.hypervolume)
    assert path[-1].front_size == len(state.front)


def test_varying_parameters() -> None:
    records = [record(0, 0.1, 0.1, setting={"a": 1, "b": 2, "c": 0}), record(1, 0.2, 0.2, setting={"a": 1, "b": 3})]
    assert varying(records) == ("b",)
    assert varying([]) == ()


def test_a_trial_is_named_by_what_is_searched() -> None:
    assert searched(record(2, 0.1, 0.1, setting={"a": 1, "width": 24, "b": 3}), INFO) == {"width": 24}
    assert setting_words(record(2, 0.1, 0.1, setting={"a": 1, "width": 24}), INFO) == "width=24"


def test_a_parameter_that_means_nothing_is_not_told() -> None:
    arms = [{"anonymizer": "ganonymization", "when": {"weight": {"loss": ["logit"]}}}]
    search = sweep_info(Path("runs"), parameters=("loss", "weight"), space={"arms": arms})
    assert searched(record(0, 0.1, 0.1, setting={"loss": "none", "weight": 1.0}), search) == {"loss": "none"}
    assert searched(record(1, 0.1, 0.1, setting={"loss": "logit", "weight": 1.0}), search) == {
        "loss": "logit",
        "weight": 1.0,
    }


def test_a_listed_setting_is_named_by_what_its_study_lists() -> None:
    arms = [
        {"anonymizer": "blur", "settings": [{"kernel_size": 31}, {"kernel_size": 31, "sigma": 2.0}, {"kernel_size": 51}]},
        {"anonymizer": "blackout", "settings": [{}]},
    ]  # fmt: skip
    study = sweep_info(Path("runs"), parameters=(), space={"arms": arms}, anonymizer="blur, blackout")
    plain_blur = record(0, 0.1, 0.1, anonymizer="blur", setting={"kernel_size": 31, "sigma": 0.0, "mode": "reflect"})
    assert setting_words(plain_blur, study) == "blur: kernel_size=31", "defaults of what is not listed are not told"
    assert setting_words(replace(plain_blur, setting={**plain_blur.setting, "sigma": 2.0}), study) == (
        "blur: kernel_size=31, sigma=2"
    ), "the setting that says most"
    assert setting_words(record(1, 1.0, 0.0, anonymizer="blackout", setting={"colour": 0}), study) == "blackout"
    assert searched(replace(plain_blur, setting={"kernel_size": 7}), study) == {"kernel_size": 7}, "listed nowhere"


def test_a_control_is_named_by_its_anonymizer() -> None:
    assert setting_words(control("untrained", 0.9, 0.0), INFO) == "ganonymization"
    assert setting_words(replace(control("identity", 0.0, 1.0), anonymizer="identity"), INFO) == ""


def test_few_people_are_told_with_the_front() -> None:
    state = standing([record(0, 0.5, 0.5)], INFO)
    assert not [line for line in reading(state, INFO) if "people were evaluated" in line]
    for people, said in ((3, "no interval is stated"), (12, "intervals are wide")):
        lines = reading(state, sweep_info(Path("runs"), identities={"E": people}))
        assert any(f"{people} people were evaluated" in line and said in line for line in lines)


def test_a_front_without_a_compromise_is_not_called_balanced() -> None:
    state = standing([record(0, 0.4, 0.0), record(1, 0.0, 0.5)], INFO)
    lines = reading(state, INFO)
    assert lines[1].startswith("No trial does both")
    assert [line.split(":")[0] for line in lines[2:4]] == ["Most private is trial #0", "Most expressive is trial #1"]
    assert not any("balanced choice (knee)" in line for line in lines)


def test_people_who_were_used_for_nothing_else_are_claimed_only_where_there_are_any() -> None:
    records, words = [record(0, 0.5, 0.5)], "people who were used for nothing else"
    assert words in sweep_note(records, sweep_info(Path("runs"), identities={"T": 9, "S": 5, "E": 10}))
    assert words not in sweep_note(records, sweep_info(Path("runs"), identities={"E": 3}))


def test_the_order_on_a_rung_is_compared_with_that_at_full_fidelity() -> None:
    def climbed(number: int, low: float, full: float, **more: object) -> TrialRecord:
        rung = {"identities": 11, "images": 90, "privacy": low, "utility": 0.5}
        return record(number, full, 0.5, rungs=(rung,), **more)

    same = [climbed(n, 0.05 * n + 0.1, 0.05 * n) for n in range(14)]
    stopped = [climbed(20 + n, 0.9, 0.0, state="stopped", metrics={}) for n in range(5)]
    found = rung_agreement([*same, *stopped, record(40, 0.3, 0.3)])
    assert found[11]["privacy"].value == pytest.approx(1)
    assert found[11]["privacy"].n == 14
    assert found[11]["utility"].status == "undefined"
    (line,) = rung_words([*same, *stopped])
    assert line.startswith(
        "Kendall's tau between the rung of 11 people and full fidelity, over 14 trials run on both: privacy 1.00"
    )
    assert "utility undefined (all trials are equal" in line
    assert line in reading(standing(same, INFO), INFO)
    (few,) = rung_words(same[:3])
    assert "3 shared trials; the order of 12 is needed" in few
    assert rung_words([record(0, 0.5, 0.5)]) == []
