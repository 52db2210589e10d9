"""Optuna proposes settings for two objectives; the study is rebuilt from the ledger, never stored itself.

Ray Tune's own `OptunaSearch` leaves trials that failed or reported NaN as RUNNING for ever and pickles its storage; this
wrapper tells every outcome, serves repeated proposals from the record, and keeps nothing on disk.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from raysweep.errors import ConfigError, nearest
from raysweep.redaction import redacted
from raysweep.search.parameters import Categorical, Float, Int, Parameter, Value
from raysweep.search.scheduler import Bias, ranking
from raysweep.search.space import Arm, Space

if TYPE_CHECKING:
    import optuna

    from raysweep.engine.record import TrialRecord

__all__ = ["SAMPLERS", "Proposal", "Proposer"]

SAMPLERS = ("tpe", "nsga2", "gp", "qmc", "random", "list")
"""`list` runs the explicit settings of a study in order; the others are Optuna's."""

FORGETFUL = ("tpe", "gp", "random")
"""Samplers that keep nothing between two proposals: with a seed per proposal and the same history they propose the same, after a kill too."""
REPLACED = "replaced"

STUBBORN = 10
"""Known settings in a row after which one is drawn at random: a sampler may be fond of the same few."""

MAX_REPEATS = 50
"""How many already known settings in a row a sampler may propose before the space counts as exhausted."""


HISTORY, REFRESH, BEST = 200, 50, 50
"""What a sampler looks at takes time at every proposal. When it knows `HISTORY + REFRESH` trials, it goes on with `HISTORY` of them: the `BEST`
and the newest. TPE calls at most 25 trials good, however many there are; the others only tell it where trials lie."""


@dataclass(frozen=True)
class Proposal:
    """What to try next."""

    number: int
    anonymizer: str
    setting: Mapping[str, Value]
    repeat: int = 0
    """Which run of the same setting this is; each has a seed of its own."""


def make_sampler(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """The Optuna sampler of a name, seeded; that of QMC needs to know the space, see `Proposer`."""
    from optuna import samplers

    startup = max(4, min(10, trials // 3))
    if name == "tpe":
        return samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=max(4, min(24, trials // 4)))
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return samplers.RandomSampler(seed=seed)


class Proposer:
    """Ask and tell over a space, with what is already known.

    Args:
        space: what to search.
        sampler: one of `SAMPLERS`.
        seed: of the sampler.
        trials: how many trials in all, the known ones included.
        key_of: (anonymizer, setting, repeat) -> trial key.
        known: finished records of this sweep; they count, are told to the sampler, and are never run again.
        repeats: how often each listed setting is run.

    Raises:
        ConfigError: unknown sampler, or repeats of a space that is searched.
    """

    def __init__(
        self,
        space: Space,
        *,
        sampler: str,
        seed: int,
        trials: int,
        key_of: Callable[[str, Mapping[str, Value], int], str],
        known: Sequence[TrialRecord] = (),
        repeats: int = 1,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # Known to be experimental, and wanted: a user can do nothing about the notice.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        if sampler not in SAMPLERS:
            raise ConfigError(
                f"sampler = {sampler!r} is not known{nearest(sampler, SAMPLERS)}; known: {', '.join(SAMPLERS)}"
            )
        self._trials, self._key_of = trials, key_of
        self._records = {record.key: record for record in known}
        self._running: dict[int, str] = {}
        self._asked: dict[int, optuna.Trial] = {}
        # All settings once before any of them again: a study that is stopped early is complete at fewer repeats.
        self._listed = [
            (arm, setting, repeat) for repeat in range(repeats) for arm in space.arms for setting in arm.settings
        ]
        self._arms = [arm for arm in space.arms if not arm.settings]
        if repeats > 1 and self._arms:
            raise ConfigError(
                f"repeats = {repeats}: only a study that lists its settings is repeated; run the points of a front "
                "again with `evaluate`, or search once more with another seed"
            )
        numbers = {record.number for record in known}
        # What was under way when a sweep was killed comes first: its number decides what is proposed.
        self._numbers = (number for number in itertools.count() if number not in numbers)
        self.number = next(self._numbers)
        self.finished = len(self._records)
        self._closed = False
        self.duplicates = 0
        self._bias = Bias()
        self._sampler, self._seed = sampler, seed
        # NSGA-II begins anew after a resume, with another seed: the same one would propose the known settings again. QMC is a fixed
        # sequence, of which the known settings are passed over.
        first = seed + 1 + max(numbers, default=-1)
        self._study = optuna.create_study(
            directions=["maximize", "maximize"],
            sampler=self._sequence(seed) if sampler == "qmc" else make_sampler(sampler, first, trials),
        )
        self._told: list[optuna.trial.FrozenTrial] = []
        for record in sorted(known, key=lambda record: record.number):
            self._remember(record)
        for arm in self._arms:
            for setting in arm.try_first:
                # Of a fixed sequence each proposal has its place, those included.
                if (
                    sampler == "qmc"
                    or self._key_of(arm.anonymizer, self._complete(arm, {**arm.fixed, **setting}), 0)
                    not in self._records
                ):
                    self._study.enqueue_trial(self._flat(arm, setting))

    def ask(self) -> Proposal | None:
        """The next setting that has no record yet; None when the budget is used up, the space exhausted or `close` was called."""
        if self._closed:
            return None
        for attempt in range(MAX_REPEATS + (len(self._records) if self._sampler == "qmc" else 0)):
            if self.finished + len(self._running) >= self._trials:
                return None
            if self._sampler in FORGETFUL:
                state = np.random.SeedSequence([self._seed, self.number, attempt]).generate_state(1)
                name = self._sampler if attempt < STUBBORN else "random"
                self._study.sampler = make_sampler(name, int(state[0]) >> 1, self._trials)
            arm, setting, trial, repeat = self._next()
            if arm is None:
                return None
            key = self._key_of(arm.anonymizer, setting, repeat)
            if key in self._records or key in self._running.values():
                self.duplicates += trial is not None
                if self._sampler in FORGETFUL:
                    self._replace(trial)
                else:
                    self._tell(trial, self._records.get(key))
                continue
            proposal = Proposal(self.number, arm.anonymizer, setting, repeat)
            self.number = next(self._numbers)
            self._running[proposal.number] = key
            if trial is not None:
                self._asked[proposal.number] = trial
            return proposal
        return None

    def close(self) -> None:
        """Propose nothing more; what runs may end and be told."""
        self._closed = True

    def tell(self, record: TrialRecord) -> None:
        """Report how a proposal ended; a failed one is told as such and never stays open."""
        self._running.pop(record.number, None)
        if record.key not in self._records:
            self.finished += 1
        record = self._records[record.key] = replace(record, evidence={})  # its arrays are megabytes, and on disk
        trial = self._asked.pop(record.number, None)
        if trial is not None and self._sampler in FORGETFUL:
            # As a resumed sweep will find it in the ledger: rounded, and without what was proposed twice.
            self._replace(trial)
            self._remember(record)
        else:
            self._tell(trial, record)

    def states(self) -> dict[str, int]:
        """How many trials the study holds, by state (a finished sweep has none RUNNING)."""
        counts: dict[str, int] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if REPLACED not in trial.user_attrs:
                counts[trial.state.name] = counts.get(trial.state.name, 0) + 1
        return counts

    def _next(self) -> tuple[Arm | None, dict[str, Value], optuna.Trial | None, int]:
        if self._listed:
            arm, listed, repeat = self._listed.pop(0)
            return arm, self._complete(arm, listed), None, repeat
        if not self._arms:
            return None, {}, None, 0
        trial = self._study.ask()
        arm = self._arms[0]
        if len(self._arms) > 1:
            chosen = trial.suggest_categorical("anonymizer", [item.anonymizer for item in self._arms])
            arm = next(item for item in self._arms if item.anonymizer == chosen)
        setting: dict[str, Value] = dict(arm.fixed)
        for name, item in arm.ranges.items():
            if arm.active(name, setting):
                setting[name] = _suggest(trial, self._label(arm, name), item)
        return arm, self._complete(arm, setting), trial, 0

    def _sequence(self, seed: int) -> optuna.samplers.BaseSampler:
        """The QMC sampler over all parameters from the first proposal on, whether a proposal makes use of each or not.

        Left alone, it looks for them in the first trial that is complete and draws at random until then: what was under way before that
        would never come again after a kill.
        """
        from optuna import samplers

        class Sequence(samplers.QMCSampler):  # type: ignore[misc]
            def infer_relative_search_space(
                self, study: optuna.Study, trial: optuna.trial.FrozenTrial
            ) -> dict[str, optuna.distributions.BaseDistribution]:
                return whole

        whole = {key: item for arm in self._arms for key, item in self._distributions(arm).items()}
        return Sequence(seed=seed, scramble=True)

    def _distributions(self, arm: Arm) -> dict[str, optuna.distributions.BaseDistribution]:
        """Of the parameters of an arm, and of the choice between arms."""
        from optuna.distributions import CategoricalDistribution

        found = {self._label(arm, name): _distribution(item) for name, item in arm.ranges.items()}
        if len(self._arms) > 1:
            found["anonymizer"] = CategoricalDistribution([item.anonymizer for item in self._arms])
        return found

    def _label(self, arm: Arm, name: str) -> str:
        return name if len(self._arms) == 1 else f"{arm.anonymizer}.{name}"

    def _flat(self, arm: Arm, setting: Mapping[str, Value]) -> dict[str, Value]:
        flat: dict[str, Value] = {} if len(self._arms) == 1 else {"anonymizer": arm.anonymizer}
        return flat | {
            self._label(arm, name): setting[name]
            for name in arm.ranges
            if name in setting and arm.active(name, setting)
        }

    @staticmethod
    def _complete(arm: Arm, setting: Mapping[str, Value]) -> dict[str, Value]:
        """Every declared parameter with its value, so that equal trials have equal keys."""
        from raysweep.anonymizers.registry import get_anonymizer

        return dict(get_anonymizer(arm.anonymizer, allow_file=True)(**setting).setting)

    def _remember(self, record: TrialRecord) -> None:
        """Put a record of an earlier run into the study."""
        import optuna

        arm = next((arm for arm in self._arms if record.anonymizer in (arm.anonymizer, redacted(arm.anonymizer))), None)
        if arm is None:
            return
        flat = self._flat(arm, record.setting)
        distributions = self._distributions(arm)
        values = self._values(record)
        state = optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.FAIL
        trial = optuna.create_trial(
            state=state,
            params=flat,
            distributions={name: item for name, item in distributions.items() if name in flat},
            values=values,
        )
        self._study.add_trial(trial)
        if values and self._sampler in FORGETFUL:
            self._told.append(trial)
            if len(self._told) == HISTORY + REFRESH:
                self._thin()

    def _thin(self) -> None:
        """Go on with a study of the best and the newest trials, and of what is still to be tried first."""
        import optuna

        place = ranking([trial.values for trial in self._told])
        rest = np.flatnonzero(place >= BEST)[BEST - HISTORY :]
        kept = sorted({*np.flatnonzero(place < BEST).tolist(), *rest.tolist()})
        self._told = [self._told[row] for row in kept]
        waiting = self._study.get_trials(states=(optuna.trial.TrialState.WAITING,))
        self._study = optuna.create_study(directions=["maximize", "maximize"], sampler=self._study.sampler)
        self._study.add_trials([*self._told, *waiting])

    def _replace(self, trial: optuna.Trial | None) -> None:
        """End an asked trial so that no sampler learns from it."""
        import optuna

        if trial is not None:
            trial.set_user_attr(REPLACED, True)
            trial.study.tell(
                trial, state=optuna.trial.TrialState.FAIL
            )  # it may have been asked before the study was thinned

    def _tell(self, trial: optuna.Trial | None, record: TrialRecord | None) -> None:
        import optuna

        if trial is None:
            return
        values = None if record is None else self._values(record)
        if values is not None:
            self._study.tell(trial, values)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _values(self, record: TrialRecord) -> list[float] | None:
        """What the study is told: the objectives; of a stopped trial, what its last rung lets expect of them. None: it has none.

        A small rung overstates privacy. Told as measured, a stopped trial would look better than those that were run in full; not told
        at all, the sampler would never learn where the bad settings are.
        """
        points = [
            (found["privacy"], found["utility"]) for found in record.rungs if {"privacy", "utility"} <= set(found)
        ]
        if record.rankable:
            full = (record.metrics["privacy"].value, record.metrics["utility"].value)
            if len(points) == len(record.rungs):
                self._bias.learn([*points, full])
            return list(full)
        if record.state == "stopped" and points and len(points) == len(record.rungs):
            return list(self._bias.corrected(points[-1], len(points) - 1))
        return None


def _distribution(item: Parameter) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if isinstance(item, Float):
        return distributions.FloatDistribution(item.low, item.high, log=item.log)
    if isinstance(item, Int):
        return distributions.IntDistribution(item.low, item.high, log=item.log, step=item.step)
    if isinstance(item, Categorical):
        return distributions.CategoricalDistribution(list(item.choices))
    return distributions.CategoricalDistribution([False, True])


def _suggest(trial: optuna.Trial, name: str, item: Parameter) -> Value:
    if isinstance(item, Float):
        # Four significant digits are enough for any of these knobs and readable in every table.
        value = float(f"{trial.suggest_float(name, item.low, item.high, log=item.log):.4g}")
        return min(max(value, item.low), item.high)
    if isinstance(item, Int):
        return int(trial.suggest_int(name, item.low, item.high, step=item.step, log=item.log))
    if isinstance(item, Categorical):
        return trial.suggest_categorical(name, list(item.choices))  # type: ignore[no-any-return]
    return bool(trial.suggest_categorical(name, [False, True]))
