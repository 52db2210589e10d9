"""One trial from setting to record: fit, measure in chunks, judge. The same code on every pool."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raysweep.engine.checked import checked
from raysweep.engine.record import Outcome, TrialRecord, TrialTask
from raysweep.errors import RaysweepError

if TYPE_CHECKING:
    from raysweep.engine.pools import Pool
    from raysweep.schema import IntArray

__all__ = ["failed_record", "run_trial"]


def run_trial(
    task: TrialTask,
    pool: Pool,
    chunks: Sequence[IntArray],
    fidelity: Mapping[str, int],
    stamp: Callable[[], float] = time.time,
) -> TrialRecord:
    """Run a task to its end; an error becomes a failed record with its reason, it does not stop the sweep.

    Args:
        task: what to run.
        pool: where.
        chunks: row numbers, each chunk one work item.
        fidelity: recorded as it is.
        stamp: the wall clock.
    """
    started = time.perf_counter()
    try:
        # Each step waits for the one before, so that no worker sits waiting for another worker's result.
        fitted = pool.call("fit", task)
        pool.wait([fitted])
        parts = [pool.call("measure", task, fitted, rows) for rows in chunks]
        extras = [pool.call("develop", task, fitted, name) for name in task.extras]
        pool.wait([*parts, *extras])
        outcome: Outcome = pool.result(pool.call("judge", task, fitted, parts, extras))
    except RaysweepError as error:
        return failed_record(task, fidelity, str(error), stamp())
    except Exception as error:
        # An anonymizer is anybody's code: whatever it raises fails its trial and is reported, not hidden.
        last = traceback.extract_tb(error.__traceback__)[-1:]
        place = f" ({last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno})" if last else ""
        return failed_record(task, fidelity, f"{type(error).__name__}: {error}{place}", stamp())
    seconds = {**outcome.seconds, "wall": time.perf_counter() - started}
    record = TrialRecord(
        key=task.key,
        number=task.number,
        anonymizer=task.anonymizer,
        setting=dict(task.setting),
        fidelity=dict(fidelity),
        state="complete",
        metrics=outcome.metrics,
        attackers=tuple(_plain(row) for row in outcome.attackers),
        curves=outcome.curves,
        seconds={stage: round(value, 4) for stage, value in seconds.items()},
        control=task.control,
        seed=task.seed,
        notes=_plain(outcome.notes),
        ended_at=stamp(),
        evidence=outcome.evidence,
    )
    return checked(record)


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
