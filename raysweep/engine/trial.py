"""One trial from setting to record: fit, measure in chunks, judge. The same code on every pool."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from raysweep.engine.checked import checked
from raysweep.engine.pools import ResultLostError
from raysweep.engine.record import Outcome, TrialRecord, TrialTask, Work
from raysweep.engine.session import SessionError
from raysweep.errors import RaysweepError, StoreError

if TYPE_CHECKING:
    from raysweep.engine.pools import Pool

__all__ = ["failed_record", "run_trial", "trial_records"]

MACHINES_LOST = 3
"""Times that a trial starts again because a machine went."""


def run_trial(
    task: TrialTask,
    pool: Pool,
    work: Work,
    climbs: Callable[[TrialRecord], bool] | None = None,
    stamp: Callable[[], float] = time.time,
) -> TrialRecord:
    """Run a task to its end; an error becomes a failed record with its reason, it does not stop the sweep.

    Args:
        task, pool, work, stamp: as in `trial_records`.
        climbs: asked after each rung below full fidelity, with the record as it would be; False ends the trial there.
    """
    for record in trial_records(task, pool, work, stamp):
        if record.state == "stopped" and (climbs is None or climbs(record)):
            continue
        return record
    raise StoreError(f"trial {task.number} ended without a record")


def trial_records(
    task: TrialTask, pool: Pool, work: Work, stamp: Callable[[], float] = time.time
) -> Iterator[TrialRecord]:
    """The record of a trial as it would be if it were stopped after each rung, then its final one.

    Args:
        task: what to run.
        pool: where.
        work: on which rows.
        stamp: the wall clock.

    Raises:
        SessionError: Ray cannot go on; the trial has not failed and is not recorded.
    """
    climb = _Climb(task, work, stamp)
    try:
        for lost in range(MACHINES_LOST + 1):
            try:
                yield from climb.records(pool)
                break
            except ResultLostError:  # every step is a function of the task alone: from the start again
                if lost == MACHINES_LOST:
                    raise
    except SessionError:
        raise  # true of the machine, not of this trial
    except RaysweepError as error:
        yield failed_record(task, work.fidelity, str(error), stamp())
    except Exception as error:
        # An anonymizer is anybody's code: whatever it raises fails its trial and is reported, not hidden.
        last = traceback.extract_tb(error.__traceback__)[-1:]
        place = f" ({last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno})" if last else ""
        yield failed_record(task, work.fidelity, f"{type(error).__name__}: {error}{place}", stamp())


class _Climb:
    """One trial on its way through the rungs; it keeps what it has told already, should it have to start again."""

    def __init__(self, task: TrialTask, work: Work, stamp: Callable[[], float]) -> None:
        self._task, self._work, self._stamp = task, work, stamp
        self._started = time.perf_counter()
        self._passed: list[dict[str, float]] = []
        self._spent: dict[str, float] = {}

    def records(self, pool: Pool) -> Iterator[TrialRecord]:
        """All steps; rungs that were told already are not told again.

        What is trained in full before the first rung is measured once: the parts of a rung count on the next one. What goes on training
        from rung to rung draws other faces on each, and all of them are measured anew.
        """
        task, staged = self._task, self._task.staged
        work = self._work.anew if staged else self._work
        fitted = None if staged else self._fit(pool)
        parts: list[Any] = []
        for rung, new in enumerate(work.rungs):
            if staged:
                if rung < len(self._passed):
                    continue  # nothing of it counts on the next one, which is trained from the start
                fitted, parts = self._fit(pool, rung, fitted), []
            parts += [pool.call("measure", task, fitted, rows) for rows in new]
            pool.wait(parts)
            if rung < len(self._passed):
                continue
            found: Outcome = pool.result(pool.call("judge_rung", task, fitted, parts, rung))
            self._passed.append(_passed(found, self._seconds()))
            yield self._record(replace(found, metrics={}, attackers=(), evidence={}), "stopped")
            self._spend(found.seconds)
        if staged:
            fitted, parts = self._fit(pool, None, fitted), []
        parts += [pool.call("measure", task, fitted, rows) for rows in work.chunks]
        extras = [pool.call("develop", task, fitted, name) for name in task.extras]
        pool.wait([*parts, *extras])
        yield self._record(pool.result(pool.call("judge", task, fitted, parts, extras)), "complete")

    def _fit(self, pool: Pool, *stage: Any) -> Any:
        """Each step waits for the one before, so that no worker sits waiting for another worker's result."""
        fitted = pool.call("fit", self._task, *stage)
        pool.wait([fitted])
        return fitted

    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def _spend(self, seconds: Mapping[str, float]) -> None:
        """Keep what the outcomes of higher rungs do not tell of a lower one: the attack there, and what is measured anew."""
        for stage, value in seconds.items():
            if stage == "judge" or (self._task.staged and stage != "fit"):
                self._spent[stage] = self._spent.get(stage, 0.0) + value

    def _record(self, outcome: Outcome, state: Literal["complete", "stopped"]) -> TrialRecord:
        task = self._task
        seconds = {stage: value + self._spent.get(stage, 0.0) for stage, value in outcome.seconds.items()}
        seconds["wall"] = self._seconds()
        record = TrialRecord(
            key=task.key,
            number=task.number,
            anonymizer=task.anonymizer,
            setting=dict(task.setting),
            fidelity={**self._work.fidelity, **outcome.fidelity},
            state=state,
            reason="" if state == "complete" else "discarded on a lower rung: too far behind the others there",
            metrics=outcome.metrics,
            attackers=tuple(_plain(row) for row in outcome.attackers),
            curves=outcome.curves,
            seconds={stage: round(value, 4) for stage, value in seconds.items()},
            control=task.control,
            seed=task.seed,
            rungs=tuple(self._passed),
            notes=_plain(outcome.notes),
            ended_at=self._stamp(),
            evidence=outcome.evidence,
        )
        return checked(record) if state == "complete" else record


def _passed(outcome: Outcome, wall: float) -> dict[str, float]:
    """What a rung found; without the objectives that are not ok."""
    found = {**{name: float(value) for name, value in outcome.fidelity.items()}, "wall": round(wall, 4)}
    for name in ("privacy", "utility"):
        value = outcome.metrics[name]
        if value.ok:
            found[name] = value.value
            found[f"{name}_hi"] = value.value if math.isnan(value.hi) else value.hi
    return found


def failed_record(task: TrialTask, fidelity: Mapping[str, int], reason: str, ended_at: float) -> TrialRecord:
    """The record of a trial that could not be scored."""
    return TrialRecord(
        key=task.key,
        number=task.number,
        anonymizer=task.anonymizer,
        setting=dict(task.setting),
        fidelity=dict(fidelity),
        state="failed",
        reason=" ".join(reason.split())[:500],
        control=task.control,
        seed=task.seed,
        ended_at=ended_at,
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-safe copy: NumPy scalars become Python's, NaN becomes null."""
    plain: dict[str, Any] = {}
    for name, value in row.items():
        item = value.item() if hasattr(value, "item") else value
        plain[name] = None if isinstance(item, float) and not math.isfinite(item) else item
    return plain
