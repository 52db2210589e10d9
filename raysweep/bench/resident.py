"""A worker that can also run its networks in a bare loop: what the pool is compared with, in the same process, on the same batches."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from raysweep.engine.fitted import Fitted
from raysweep.engine.record import TrialTask
from raysweep.engine.worker import Measured, TrialWorker
from raysweep.schema import IntArray

__all__ = ["ResidentWorker"]


class ResidentWorker(TrialWorker):
    """A `TrialWorker` that notes when each item was done, and knows the bare loop."""

    def measure(self, task: TrialTask, fitted: Fitted, rows: IntArray) -> Measured:
        """As always, with the time (wall clock) at its end."""
        measured = super().measure(task, fitted, rows)
        return replace(measured, notes={**measured.notes, "ended": time.time()})

    def bare(self, task: TrialTask, fitted: Fitted, rows: IntArray, seconds: float) -> tuple[int, float]:
        """Anonymize and measure batches that are on the device already, again and again, for so long at least.

        Returns:
            Faces and seconds.
        """
        anonymizer = self._load(task, fitted)
        size = self.plan.batch_size
        pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
        batches = [(piece, self._batch(piece, task.seed)) for piece in pieces]
        spent = dict.fromkeys(("anonymize", "embed", "express", "realism"), 0.0)
        faces, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            for piece, batch in batches:
                self._measure_batch(anonymizer, batch, piece, spent)
                faces += len(piece)
        return faces, time.perf_counter() - started


def resident_worker(plan: Any) -> ResidentWorker:
    """What `worker_of` of a pool takes."""
    return ResidentWorker(plan)
