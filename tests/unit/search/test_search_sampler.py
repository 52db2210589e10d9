"""The proposer: budget, repeats, failures, and what a resumed sweep proposes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from raysweep.engine.record import TrialRecord
from raysweep.errors import ConfigError
from raysweep.metrics.value import MetricValue
from raysweep.search import sampler
from raysweep.search.parameters import Value
from raysweep.search.sampler import Proposal, Proposer
from raysweep.search.space import Arm, Space, canonical_hash, find_space, load_space


def key_of(anonymizer: str, setting: Mapping[str, Value], repeat: int = 0) -> str:
    return canonical_hash({"anonymizer": anonymizer, "repeat": repeat, **setting})


def record_of(proposal: Proposal, privacy: float | None = 0.5, utility: float = 0.5) -> TrialRecord:
    value = MetricValue.undefined("no identities") if privacy is None else MetricValue(privacy)
    return TrialRecord(
        key=key_of(proposal.anonymizer, proposal.setting, proposal.repeat),
        number=proposal.number,
        anonymizer=proposal.anonymizer,
        setting=proposal.setting,
        fidelity={},
        state="complete",
        metrics={"privacy": value, "utility": MetricValue(utility)},
    )


def make(space: Space, trials: int, known: list[TrialRecord] | None = None, sampler: str = "tpe") -> Proposer:
    return Proposer(space, sampler=sampler, seed=1, trials=trials, key_of=key_of, known=known or [])


def drive(proposer: Proposer) -> list[TrialRecord]:
    records = []
    while (proposal := proposer.ask()) is not None:
        record = record_of(proposal, privacy=proposal.number / 100, utility=1 - proposal.number / 100)
        proposer.tell(record)
        records.append(record)
    return records


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc", "random"])
def test_no_setting_is_proposed_twice_and_the_budget_is_kept(sampler: str) -> None:
    records = drive(make(load_space(find_space("blur")), 12, sampler=sampler))
    assert len(records) == 12
    assert len({record.key for record in records}) == 12
    assert [record.setting["kernel_size"] for record in records][:3] == [11, 47, 101]


def test_a_small_space_is_exhausted_not_repeated() -> None:
    space = load_space(find_space("blur"), {"kernel_size.high": 29})
    assert space.size == 4
    assert sorted(record.setting["kernel_size"] for record in drive(make(space, 50))) == [11, 17, 23, 29]


def test_arrays_of_a_trial_are_not_kept() -> None:
    """They are megabytes a trial, and on disk: a sweep of hundreds must not hold them."""
    proposer = make(load_space(find_space("pixelate")), 2)
    proposal = proposer.ask()
    assert proposal is not None
    draws = np.zeros(1000)
    held = weakref.ref(draws)
    proposer.tell(replace(record_of(proposal), evidence={"draws": draws}))
    del draws
    gc.collect()
    assert held() is None
    assert proposer.finished == 1


def test_failed_and_undefined_trials_leave_nothing_running() -> None:
    proposer = make(load_space(find_space("pixelate")), 6)
    for privacy in (None, 0.2, float("nan")):
        proposal = proposer.ask()
        assert proposal is not None
        value = record_of(proposal, privacy=0.1 if privacy is not None else None)
        if privacy is not None and privacy != privacy:
            value = TrialRecord(value.key, proposal.number, "pixelate", proposal.setting, {}, "failed", "diverged")
        proposer.tell(value)
    assert proposer.states() == {"FAIL": 2, "COMPLETE": 1, "WAITING": proposer.states().get("WAITING", 0)} or (
        "RUNNING" not in proposer.states()
    )
    assert proposer.states()["FAIL"] == 2
    assert proposer.states()["COMPLETE"] == 1


def test_a_resumed_sweep_continues_its_numbers_and_repeats_nothing() -> None:
    space = load_space(find_space("blur"))
    first = drive(make(space, 5))
    more = drive(make(space, 9, known=first))
    assert [record.number for record in more] == [5, 6, 7, 8]
    assert not {record.key for record in first} & {record.key for record in more}
    assert drive(make(space, 5, known=first)) == []


def test_a_study_runs_its_settings_in_order() -> None:
    records = drive(make(load_space(find_space("blackout")), 1))
    assert [(record.anonymizer, dict(record.setting)) for record in records] == [("blackout", {})]


def test_running_settings_are_not_proposed_again() -> None:
    space = load_space(find_space("blur"), {"kernel_size.high": 23})
    proposer = make(space, 10)
    open_settings = []
    while (proposal := proposer.ask()) is not None:
        open_settings.append(proposal.setting["kernel_size"])
    assert sorted(open_settings) == [11, 17, 23]


def test_conditional_parameters_keep_their_default(tmp_path) -> None:
    path = tmp_path / "conditional.yaml"
    path.write_text(
        "anonymizer: k-same\nparameters:\n  unit: {choices: [images, subjects]}\n  k: {low: 2, high: 9, when: {unit: subjects}}\n",
        encoding="utf-8",
    )
    records = drive(make(load_space(path), 9))
    assert all(record.setting["k"] == 5 for record in records if record.setting["unit"] == "images")
    assert len({record.setting["k"] for record in records if record.setting["unit"] == "subjects"}) > 3


def test_a_study_runs_every_setting_once_before_any_of_them_again() -> None:
    arm = Arm("blur", settings=({"kernel_size": 11}, {"kernel_size": 47}))
    study = Space("study", "", (arm,), {})

    def proposer(known: list[TrialRecord]) -> Proposer:
        return Proposer(study, sampler="tpe", seed=1, trials=6, key_of=key_of, known=known, repeats=3)

    records = drive(proposer([]))
    assert [record.setting["kernel_size"] for record in records] == [11, 47] * 3
    assert len({record.key for record in records}) == 6
    # What an interrupted study has is not run again.
    assert [record.setting["kernel_size"] for record in drive(proposer(records[:3]))] == [47, 11, 47]


def test_a_searched_space_is_not_repeated() -> None:
    space = load_space(find_space("blur"))
    with pytest.raises(ConfigError, match="only a study"):
        Proposer(space, sampler="tpe", seed=1, trials=6, key_of=key_of, repeats=2)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_sweep_killed_at_any_trial_proposes_what_the_undisturbed_one_does(sampler: str) -> None:
    space = load_space(find_space("pixelate"))
    whole = drive(make(space, 9, sampler=sampler))
    for killed_after in (1, 5, 8):
        rest = drive(make(space, 9, known=whole[:killed_after], sampler=sampler))
        assert [record.setting for record in whole] == [record.setting for record in whole[:killed_after] + rest]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
@pytest.mark.parametrize("space", ["pixelate", "ganonymization"])
@pytest.mark.parametrize("lost", [(0,), (1, 2, 3), (4, 6), (0, 5, 7)])
def test_what_was_under_way_at_a_kill_comes_first(sampler: str, space: str, lost: tuple[int, ...]) -> None:
    """Several trials run at once: those without a record are proposed again, under their own numbers."""
    searched = load_space(find_space(space))
    proposer = make(searched, 10, sampler=sampler)
    asked = [proposer.ask() for _ in range(8)]  # all at once: nothing is known yet
    proposals = [proposal for proposal in asked if proposal is not None]
    known = [record_of(proposal) for proposal in proposals if proposal.number not in lost]
    again = make(searched, 10, known=known, sampler=sampler)
    found = [again.ask() for _ in range(10 - len(known))]
    assert [proposal.number for proposal in found if proposal is not None] == [*lost, 8, 9]
    assert again.ask() is None
    if sampler != "tpe":  # which looks at what has ended, and more has ended now
        settings = [proposal.setting for proposal in found if proposal is not None]
        assert all(proposals[number].setting in settings for number in lost)


def test_a_long_search_looks_at_the_best_and_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proposal late in a long search costs what an early one does; after a resume the next ones are the same."""
    for name, value in (("HISTORY", 12), ("REFRESH", 4), ("BEST", 3)):
        monkeypatch.setattr(sampler, name, value)
    space = load_space(find_space("ganonymization"))
    proposer = make(space, 40)
    records = []
    for number in range(30):
        proposal = proposer.ask()
        assert proposal is not None
        # The second and third trial are never beaten; each later one is a little better than the one before it.
        value = 0.99 if number in (1, 2) else number / 100
        records.append(record_of(proposal, privacy=value, utility=value))
        proposer.tell(records[-1])
        complete = [trial for trial in proposer._study.trials if trial.state.name == "COMPLETE"]
        assert len(complete) < 16
        assert sum(trial.values[0] == 0.99 for trial in complete) == min(2, max(0, number))
        assert complete[-1].values[0] == value
    assert proposer.finished == 30
    resumed = make(space, 40, records)
    for _ in range(3):
        assert resumed.ask() == proposer.ask()


def test_a_trial_asked_before_the_history_was_thinned_is_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HISTORY", 4), ("REFRESH", 2), ("BEST", 1)):
        monkeypatch.setattr(sampler, name, value)
    proposer = make(load_space(find_space("ganonymization")), 20)
    first = proposer.ask()
    assert first is not None
    for number in range(7):
        proposal = proposer.ask()
        assert proposal is not None
        proposer.tell(record_of(proposal, privacy=number / 10))
    proposer.tell(record_of(first, privacy=0.9))
    assert max(trial.values[0] for trial in proposer._study.trials if trial.values) == 0.9
    assert proposer.finished == 8
