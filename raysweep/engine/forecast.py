"""What a sweep will take: from rates that a calibration measured to seconds, bytes and trials per rung, each with a range.

    seconds = start + prepare + makespan(sum over trials and rungs of fit + rows x (anonymize + measure) + judge, on w workers)

A training that is divided among the rungs costs each trial the steps of the rungs that it reaches and, on each of them, what `fit` costs
whatever the steps; its faces are drawn and measured anew on each.

Nothing is measured here (`engine.calibration` does that) and nothing is built in: no rate, no price. The forecast ends where a run's own clock
ends, when the last trial is recorded; the report and the tracker follow within seconds.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.errors import StoreError
from raysweep.search.fidelity import Ladder
from raysweep.search.space import canonical_hash
from raysweep.storage.files import write_whole

if TYPE_CHECKING:
    from raysweep.config import RunSettings
    from raysweep.engine.runs import Identity

__all__ = ["ArmRates", "Forecast", "Rates", "Scope", "Span", "Timekeeper", "expected_rungs", "forecast", "forecast_key", "makespan", "read_forecast", "write_forecast"]  # fmt: skip

LEAST_SPREAD = 0.08
"""Half width of every range, as a share: no machine runs twice the same."""
FOLDER = "forecasts"
FIRST_TRIALS = 4
"""Fewest trials whose pace foretells that of the others."""


@dataclass(frozen=True)
class Span:
    """A number and the range in which it is expected."""

    value: float
    low: float
    high: float

    @classmethod
    def about(cls, value: float, share: float = LEAST_SPREAD) -> Span:
        """Give or take a share of the value."""
        return cls(value, value * max(0.0, 1 - share), value * (1 + share))

    def __add__(self, other: Span) -> Span:
        return Span(self.value + other.value, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Span:
        """So many of them."""
        return Span(self.value * factor, self.low * factor, self.high * factor)


NOTHING = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class ArmRates:
    """What the trials of one anonymizer cost a worker, while all workers are busy.

    Attributes:
        anonymizer: name.
        trials: how many of the planned trials are its own (a share of them where the sampler chooses).
        settings: how many settings were measured.
        fit_s: per trial, at the steps that the trials ask for.
        anonymize_s, measure_s: per row.
        extras_s: per trial, attackers that need pixels.
        state_bytes: that a trial on the front keeps.
        fixed_s: the part of `fit_s` that does not depend on the steps.
        staged: share of its trials whose training is divided among the rungs.
    """

    anonymizer: str
    trials: float
    settings: int
    fit_s: Span
    anonymize_s: Span
    measure_s: Span
    extras_s: Span = NOTHING
    state_bytes: int = 0
    fixed_s: Span = NOTHING
    staged: float = 0.0

    def fit(self, reached: Sequence[float], ladder: Ladder) -> Span:
        """Of all trials of which so many reach each rung."""
        begun = [0.0, *ladder.shares]
        steps = sum(
            number * (now - begun[place])
            for place, (number, now) in enumerate(zip(reached, ladder.shares, strict=True))
        )
        return (
            self.fit_s.times((1 - self.staged) * reached[0])
            + self.fit_s.times(self.staged * steps)
            + self.fixed_s.times(self.staged * (sum(reached) - steps))
        )

    def rows(self, reached: Sequence[float], rows: Sequence[int]) -> float:
        """That are measured of all trials of which so many reach each rung, with so many new rows on it."""
        once = sum(number * new for number, new in zip(reached, rows, strict=True))
        anew = sum(number * all_ for number, all_ in zip(reached, itertools.accumulate(rows), strict=True))
        return (1 - self.staged) * once + self.staged * anew


@dataclass(frozen=True)
class Rates:
    """What a calibration found.

    Attributes:
        arms: per anonymizer.
        start_s: until the first trial runs, with nothing left to prepare.
        prepare_s: of the whole data set; nothing when it is prepared.
        judge_s: per rung, full fidelity last.
        store_bytes, shard_bytes: of the whole data set, and whether they are there already (`prepared`).
        evidence_bytes, record_bytes: per trial.
        controls: trials beside the planned ones, which learn nothing.
        seconds: that the calibration took.
        notes: what it could not measure, for the reader.
    """

    arms: tuple[ArmRates, ...]
    start_s: Span
    prepare_s: Span
    judge_s: tuple[Span, ...]
    store_bytes: float
    shard_bytes: float
    prepared: bool
    evidence_bytes: float
    record_bytes: float
    controls: int
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scope:
    """What is to be done.

    Attributes:
        trials: planned.
        workers: of the pool.
        rows: that a trial anonymizes on each rung, those of the rungs below it left out; full fidelity last.
        items: work items of a full trial.
        ladder: the rungs.
        budget_s: after which no trial starts, None for no limit.
    """

    trials: int
    workers: int
    rows: tuple[int, ...]
    items: int
    ladder: Ladder = field(default_factory=Ladder)
    budget_s: float | None = None


@dataclass(frozen=True)
class Forecast:
    """What a sweep will take.

    Attributes:
        stages: seconds by stage, as they add up on the clock.
        total_s: until the last trial is recorded.
        rungs: expected trials on each rung.
        trials: that will run within the budget.
        disk: bytes by what is written.
    """

    stages: Mapping[str, Span]
    total_s: Span
    rungs: tuple[float, ...]
    trials: float
    disk: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)


# --------------------------------------------------------------------- trials per rung
def expected_rungs(ladder: Ladder, trials: int, grace: int = 3) -> tuple[float, ...]:
    """How many trials are expected to be run on each rung, lowest first, by the rule of `search.scheduler.Halving`.

    Of trials that come in any order, the k-th one of a rung climbs when it is among the best ceil(k / eta) of the k that are there, and always
    while k <= grace. Where a result stands among those before it does not depend on how they stood among themselves (Renyi, 1962), so that the
    number that climbs is a sum of independent draws, and its distribution exact for one objective. With two, the ends of a front stand equal
    and the later one gives way: somewhat fewer climb, up to a sixth where a rung has ten trials. Those whose intervals are wide get the
    benefit of the doubt: of them more climb.

    Args:
        ladder: the rungs.
        trials: that start.
        grace: results of a rung that all climb.

    >>> expected_rungs(Ladder(1), 20)
    (20.0,)
    >>> [round(number, 1) for number in expected_rungs(Ladder(2, 3), 27)]
    [27.0, 11.7]
    """
    reached = [0.0] * trials + [1.0]  # chance of each number of trials on this rung
    expected = [float(trials)]
    for _ in range(ladder.rungs - 1):
        climbing = [0.0] * (trials + 1)
        number = [1.0] + [0.0] * trials  # chance of each number that has climbed, after k results
        for k in range(trials + 1):
            if k:
                chance = 1.0 if k <= grace else math.ceil(k / ladder.eta) / k
                number = [
                    many * (1 - chance) + (number[place - 1] * chance if place else 0.0)
                    for place, many in enumerate(number)
                ]
            if reached[k]:
                climbing = [before + reached[k] * many for before, many in zip(climbing, number, strict=True)]
        reached = climbing
        expected.append(sum(place * chance for place, chance in enumerate(reached)))
    return tuple(expected)


# --------------------------------------------------------------------- seconds and bytes
def makespan(work_s: float, longest_s: float, workers: int) -> float:
    """Seconds until all trials have ended, when each worker takes the next one as soon as it is free.

    At the end workers run out of trials one by one, on average half a longest step before the last one ends.

    Args:
        work_s: worker seconds of all trials together.
        longest_s: of a trial that cannot be shared: what must follow one another.
        workers: how many.

    >>> makespan(40.0, 4.0, 1), makespan(40.0, 4.0, 2), makespan(4.0, 4.0, 8)
    (40.0, 21.0, 4.0)
    """
    return max(work_s / workers + longest_s / 2 * (1 - 1 / workers), longest_s)


def forecast(work: Scope, rates: Rates) -> Forecast:
    """Seconds, bytes and trials per rung of a sweep."""
    rungs = expected_rungs(work.ladder, work.trials)
    whole = _stages(work, rates, rungs)
    before = rates.start_s + rates.prepare_s
    spent = sum((whole[name] for name in whole), NOTHING)
    # A sweep that is stopped by its budget ends a trial after it.
    share = 1.0
    if work.budget_s is not None and work.budget_s < spent.value:
        last = work.budget_s + min(spent.value - work.budget_s, _longest(work, rates).value / 2)
        share = last / spent.value
        whole = {name: span.times(share) for name, span in whole.items()}
        spent = sum((whole[name] for name in whole), NOTHING)
    return Forecast(
        stages={"start": rates.start_s, "prepare": rates.prepare_s, **whole},
        total_s=before + spent,
        rungs=tuple(share * number for number in rungs),
        trials=share * work.trials,
        disk=_disk(work, rates, share),
    )


def _stages(work: Scope, rates: Rates, rungs: Sequence[float]) -> dict[str, Span]:
    """Seconds on the clock of each stage of the trials: their worker seconds, and their share of what the last trials leave idle."""
    controls, full = rates.controls, sum(work.rows)
    fit = anonymize = extras = NOTHING
    finished = rungs[-1]
    planned = sum(arm.trials for arm in rates.arms)
    look = NOTHING
    for arm in rates.arms:
        share = arm.trials / planned
        measured = arm.rows(rungs, work.rows)
        fit += arm.fit([share * reached for reached in rungs], work.ladder)
        anonymize += arm.anonymize_s.times(share * measured)
        look += arm.measure_s.times(share * (measured + controls * full))
        extras += arm.extras_s.times(share * (finished + controls))
    judge = sum((span.times(reached) for span, reached in zip(rates.judge_s, rungs, strict=True)), NOTHING)
    judge += rates.judge_s[-1].times(controls)
    workers = {"fit": fit, "anonymize + measure": anonymize + look, "attack + judge": extras + judge}
    total = sum(workers.values(), NOTHING)
    longest = _longest(work, rates)
    clock = Span(
        makespan(total.value, longest.value, work.workers),
        makespan(total.low, 0.0, work.workers),
        makespan(total.high, 2 * longest.high, work.workers),
    )

    def on_clock(part: Span) -> Span:
        ratios = (clock.value / total.value, clock.low / total.low, clock.high / total.high)
        return Span(*(value * ratio for value, ratio in zip((part.value, part.low, part.high), ratios, strict=True)))

    return {name: on_clock(part) for name, part in workers.items() if part.value > 0}


def _longest(work: Scope, rates: Rates) -> Span:
    """What follows one another in the longest trial: fit, one item on each worker, judge."""
    shared = max(1, min(work.workers, work.items))
    whole = [1.0] * work.ladder.rungs
    chains = [
        arm.fit(whole, work.ladder)
        + (arm.anonymize_s + arm.measure_s).times(arm.rows(whole, work.rows) / shared)
        + arm.extras_s
        + rates.judge_s[-1]
        for arm in rates.arms
    ]
    return max(chains, key=lambda chain: chain.value)


def _disk(work: Scope, rates: Rates, share: float) -> dict[str, float]:
    trials = share * work.trials + rates.controls
    state = max(arm.state_bytes for arm in rates.arms)
    found = {
        "shards": rates.shard_bytes,
        "reference store": rates.store_bytes,
        "evidence": trials * rates.evidence_bytes,
        "ledger": trials * rates.record_bytes,
    }
    return found | ({"generators, each on the front": float(state)} if state else {})


# --------------------------------------------------------------------- kept until the sweep is run
def forecast_key(identity: Identity, run: RunSettings) -> str:
    """Of a sweep that is asked for: the same question by the same means with the same settings of the run."""
    return canonical_hash(json.loads(json.dumps([identity.to_dict(), run.model_dump(mode="json")], default=str)), 32)


def write_forecast(runs: Path, key: str, found: Forecast) -> None:
    """Keep a forecast, so that the sweep can be held against it.

    Raises:
        StoreError: it cannot be written.
    """
    path = runs / FOLDER / f"{key}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, json.dumps(found.to_dict()))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def read_forecast(runs: Path, key: str) -> Span | None:
    """Seconds that were foretold; None when nobody asked, or the file is damaged."""
    try:
        content = json.loads((runs / FOLDER / f"{key}.json").read_text(encoding="utf-8"))["total_s"]
        span = Span(**{item.name: float(content[item.name]) for item in fields(Span)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return span if math.isfinite(span.value) and span.value > 0 else None


# --------------------------------------------------------------------- held against the clock
class Timekeeper:
    """Holds the time of a sweep against what was foretold: by its dry run, else by the pace of its first trials.

    Args:
        trials: planned.
        foretold: by a dry run of the same sweep.
        guess: whether a sweep without a dry run is foretold by its first trials; not where something else than their number ends it.
        began_at: when the sweep began, by the clock.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        trials: int,
        foretold: Span | None,
        *,
        guess: bool,
        began_at: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trials, self._foretold, self._clock = trials, foretold, clock
        self._began_at = began_at
        self._first_at: float | None = None
        self._ended = 0
        self._basis = "" if foretold is None else "its dry run"
        self._after = max(FIRST_TRIALS, math.ceil(trials / 5)) if guess and foretold is None else 0

    def start(self) -> None:
        """A trial starts."""
        if self._first_at is None:
            self._first_at = self._clock()

    def end(self) -> None:
        """A trial has ended."""
        self._ended += 1
        if self._ended == self._after < self._trials and self._first_at is not None:
            now = self._clock()
            total = now - self._began_at + (self._trials - self._ended) * (now - self._first_at) / self._ended
            self._foretold, self._basis = Span(total, total, total), f"its first {self._ended} trials"

    def timing(self) -> dict[str, float | str]:
        """`actual_s`, and where there was a forecast `predicted_s`, `low_s`, `high_s` and `basis`, what it was made from."""
        found: dict[str, float | str] = {"actual_s": round(self._clock() - self._began_at, 2)}
        if self._foretold is not None:
            span = self._foretold
            found |= {"predicted_s": round(span.value, 2), "low_s": round(span.low, 2), "high_s": round(span.high, 2)}
            found["basis"] = self._basis
        return found
