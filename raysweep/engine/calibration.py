"""What a trial costs, measured on the pool that would run it: a few settings, few steps, few rows, with every worker busy.

The worker is the real one; it only looks at its watch. What a worker does alone says little about what it does beside others on the same
cores, so that all of them measure at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raysweep.engine.evidence import pack
from raysweep.engine.fitted import Fitted
from raysweep.engine.items import CHUNK_ROWS
from raysweep.engine.pools import Pool
from raysweep.engine.record import Outcome, TrialTask
from raysweep.engine.worker import Measured, TrialWorker
from raysweep.errors import RaysweepError
from raysweep.objective import Referee
from raysweep.schema import FloatArray, IntArray, Measurements

__all__ = ["CalibrationWorker", "Judging", "Survey", "calibration_worker", "judging", "surveys"]

WARM_STEPS, SHORT_STEPS = 2, 4
WARM_ROWS, PIECES = 8, 5
NOISE = 0.05
"""Added to each number of an embedding: attackers then have something to learn, and do not stop at once."""


@dataclass(frozen=True)
class Survey:
    """What one setting costs a worker, in seconds.

    Attributes:
        anonymizer: name.
        fixed_s: of `fit`, whatever the steps.
        step_s: more for each step.
        anonymize_s, measure_s: per row.
        warm_s: more than that for what was done first: imports, teachers, kernels that are chosen.
        extras_s: of all attackers that need pixels, for `extras_rows` rows.
        extras_rows: how many rows there were for them.
        state_bytes: that `fit` left.
        curve_bytes: per step, in the record.
    """

    anonymizer: str
    fixed_s: float
    step_s: float
    anonymize_s: float
    measure_s: float
    warm_s: float = 0.0
    extras_s: float = 0.0
    extras_rows: int = 0
    state_bytes: int = 0
    curve_bytes: float = 0.0


@dataclass(frozen=True)
class Judging:
    """What judging costs.

    Attributes:
        clear_s: once, what no trial changes; 0 where the worker had it.
        judge_s: per trial.
        warm_s: more than that for the first one.
        evidence_bytes, record_bytes: that a trial leaves.
    """

    clear_s: float
    judge_s: float
    evidence_bytes: int = 0
    record_bytes: int = 0
    warm_s: float = 0.0


class CalibrationWorker(TrialWorker):
    """A `TrialWorker` that times its own work."""

    def survey(self, task: TrialTask, seconds: float) -> Survey:
        """Fit with few steps, measure a few rows.

        Args:
            task: with the steps that its trial would have; no more than those are done.
            seconds: to spend, about: half on learning, half on rows. One that is slower takes what it takes.
        """
        fitted, fixed_s, step_s, steps, learning_s = self._fit_rate(task, seconds / 2)
        anonymize_s, measure_s, measuring_s = self._row_rate(task, fitted, seconds / 2)
        extras = [self.develop(task, fitted, name) for name in task.extras]
        curves = len(json.dumps([list(values) for values in fitted.curves.values()]))
        return Survey(
            task.anonymizer,
            fixed_s,
            step_s,
            anonymize_s,
            measure_s,
            warm_s=learning_s + measuring_s,
            extras_s=sum(extra.seconds for extra in extras),
            extras_rows=len(self.rows) if extras else 0,
            state_bytes=fitted.state.nbytes,
            curve_bytes=curves / steps if steps and fitted.curves else 0.0,
        )

    def judged(self, task: TrialTask, rung: int | None) -> Judging:
        """Judge clear faces with some noise, as if they were a trial's; what is made once for a rung counts as its clear side.

        Args:
            task: any.
            rung: below full fidelity, None for all faces.
        """
        new, began = rung is not None and rung not in self._rungs, time.perf_counter()
        rows = self.rows if rung is None else self.rows[self._rung(rung)[0]]
        clear_s = time.perf_counter() - began if new else 0.0
        places = np.array([self._position[int(row)] for row in rows], dtype=np.int64)
        random = np.random.default_rng(task.seed)
        measured = _noisy(self._clear, places, random)
        parts, fitted = [Measured(rows, measured, {})], Fitted.nothing()
        started = time.perf_counter()
        outcome = self.judge(task, fitted, parts) if rung is None else self.judge_rung(task, fitted, parts, rung)
        seconds = time.perf_counter() - started
        return Judging(clear_s, seconds, *_sizes(task, outcome))

    def judged_made_up(self, task: TrialTask, faces: int, images: int) -> Judging:
        """The same for a data set that is not there yet: so many made-up faces, with as many numbers each as the models at hand give."""
        from raysweep.objective.timing import made_up

        dims = tuple(rows.shape[1] for rows in self._clear.embeddings.values())
        table, clear, changed = made_up(faces, images, dims)
        started = time.perf_counter()
        referee = Referee(table, self._without_extras(clear), self.plan.protocol)
        made = time.perf_counter()
        judgement = referee.judge(self._without_extras(changed))
        ended = time.perf_counter()
        evidence = {**judgement.evidence, **self._sheet(task, Fitted.nothing())}
        outcome = Outcome(judgement.metrics, tuple(judgement.attackers), {}, {}, {}, evidence)
        return Judging(made - started, ended - made, *_sizes(task, outcome))

    def _fit_rate(self, task: TrialTask, seconds: float) -> tuple[Fitted, float, float, int, float]:
        """The last fit, its fixed seconds, seconds per step, how many steps it did, and what the first fit took more."""
        steps = int(task.setting["steps"]) if "steps" in task.setting and self._make(task).trains else 0

        def timed(number: int) -> tuple[Fitted, float]:
            short = replace(task, setting={**task.setting, "steps": number}) if steps else task
            started = time.perf_counter()
            return self.fit(short), time.perf_counter() - started

        first = min(WARM_STEPS, steps)
        fitted, first_s = timed(first)
        if not steps and first_s > seconds:
            return fitted, first_s, 0.0, 0, 0.0
        few = min(SHORT_STEPS, steps)
        fitted, few_s = timed(few)
        if not steps:
            return fitted, few_s, 0.0, 0, max(0.0, first_s - few_s)
        many, step_s = min(steps, max(2 * few, int(few * seconds / few_s))), few_s / few
        if many > few:
            fitted, many_s = timed(many)
            step_s = max(0.0, (many_s - few_s) / (many - few))
        fixed_s = max(0.0, (many_s if many > few else few_s) - step_s * many)
        return fitted, fixed_s, step_s, many, max(0.0, first_s - fixed_s - step_s * first)

    def _row_rate(self, task: TrialTask, fitted: Fitted, seconds: float) -> tuple[float, float, float]:
        """Seconds a row to anonymize, and for all the rest of measuring; and what the first rows took more."""
        rows = np.random.default_rng(task.seed).permutation(self.rows)  # roles in the mixture that items have
        started = time.perf_counter()
        self.measure(task, fitted, np.sort(rows[:WARM_ROWS]))
        first_s = time.perf_counter() - started
        started = time.perf_counter()
        self.measure(task, fitted, np.sort(rows[:WARM_ROWS]))
        row_s = (time.perf_counter() - started) / WARM_ROWS
        size = max(WARM_ROWS, min(CHUNK_ROWS, int(seconds / 2 / row_s), len(rows)))
        first, done, spent, anonymizing = WARM_ROWS, 0, 0.0, 0.0
        for turn in range(PIECES):
            part = np.sort(np.take(rows, np.arange(turn * size, (turn + 1) * size), mode="wrap"))
            started = time.perf_counter()
            measured = self.measure(task, fitted, part)
            took = time.perf_counter() - started
            if not turn:  # the first one of this size warms up as well
                first, first_s = first + size, first_s + took
                continue
            done, spent = done + size, spent + took
            anonymizing += measured.seconds["anonymize"]
            if spent + took > seconds:
                break
        return anonymizing / done, (spent - anonymizing) / done, max(0.0, first_s - first * spent / done)


def calibration_worker(plan: Any) -> CalibrationWorker:
    """What `worker_of` of a pool takes."""
    return CalibrationWorker(plan)


# --------------------------------------------------------------------- on the pool
def surveys(pool: Pool, tasks: Sequence[TrialTask], kinds: int, limit_s: float) -> tuple[list[Survey], list[str]]:
    """Survey settings until the time is used up, all workers at once; one of each kind at least.

    Args:
        pool: of `CalibrationWorker`.
        tasks: the settings; the first `kinds` of them are one of each anonymizer.
        kinds: how many anonymizers there are.
        limit_s: after which no further round starts.

    Returns:
        Surveys, and a line for each setting that failed.
    """
    found: list[Survey] = []
    problems: list[str] = []
    rounds = -(-kinds // pool.size)
    each_s = max(1.0, min(limit_s / 3, limit_s / rounds))
    started = time.monotonic()
    for first in range(0, len(tasks), pool.size):
        if first >= kinds and time.monotonic() - started + each_s > limit_s:
            break
        now = [tasks[(first + place) % len(tasks)] for place in range(pool.size)]
        handles = []
        for place, task in enumerate(now):
            with _noted(task, problems):
                handles.append((task, pool.call("survey", replace(task, key=f"calibration-{first + place}"), each_s)))
        for task, handle in handles:
            with _noted(task, problems):
                found.append(pool.result(handle))
    return found, problems


@contextmanager
def _noted(task: TrialTask, problems: list[str]) -> Iterator[None]:
    """An anonymizer is anybody's code: whatever it raises is a line for the reader, and the others go on."""
    try:
        yield
    except RaysweepError as error:
        problems.append(f"{task.anonymizer}: {error}")
    except Exception as error:
        problems.append(f"{task.anonymizer}: {type(error).__name__}: {error}")


def judging(pool: Pool, task: TrialTask, method: str, *arguments: Any) -> Judging:
    """The mean over all workers, which judge at the same time; a first turn, which imports and warms, only counts for what is made once."""
    turns: list[list[Judging]] = []
    for _ in range(2):
        handles = [pool.call(method, replace(task, key=f"judge-{place}"), *arguments) for place in range(pool.size)]
        turns.append([pool.result(handle) for handle in handles])
    first, second = turns
    return replace(
        second[0],
        clear_s=_mean([item.clear_s for item in second]) or _mean([item.clear_s for item in first]),
        judge_s=_mean([item.judge_s for item in second]),
        warm_s=max(0.0, _mean([item.judge_s for item in first]) - _mean([item.judge_s for item in second])),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _noisy(clear: Measurements, places: IntArray, random: np.random.Generator) -> Measurements:
    def changed(rows: FloatArray) -> FloatArray:
        noisy = rows[places] + NOISE * random.standard_normal((len(places), rows.shape[1]), dtype=np.float32)
        return np.asarray(noisy / np.linalg.norm(noisy, axis=1, keepdims=True), dtype=np.float32)

    def some(values: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        return {name: rows[places] for name, rows in values.items()}

    return Measurements(
        {name: changed(rows) for name, rows in clear.embeddings.items()},
        some(clear.probabilities),
        some(clear.realism) | {name: np.zeros(len(places), np.float32) for name in ("psnr", "ssim")},
        some(clear.features),
    )


def _sizes(task: TrialTask, outcome: Outcome) -> tuple[int, int]:
    """Bytes of the evidence and of the ledger's line of a trial."""
    metrics = {name: value.to_dict() for name, value in outcome.metrics.items()}
    line = json.dumps([dict(task.setting), metrics, *map(dict, outcome.attackers)], default=str)
    return len(pack(outcome.evidence)) if outcome.evidence else 0, len(line)
