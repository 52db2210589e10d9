"""The front while a sweep runs, brought up to date trial by trial: a late trial costs what the first one did.

`standing` sorts out all records anew; what it says of the front of all records is what this says after the last of them.
"""

from __future__ import annotations

import numpy as np

from raysweep.engine.record import TrialRecord
from raysweep.metrics.front import hypervolume, nondominated
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.standing import may_stand

__all__ = ["RunningFront"]


class RunningFront:
    """Counts and front of the trials added so far; controls are passed over.

    Args:
        info: of the sweep.

    Attributes:
        trials: how many have ended.
        failed: how many of them without a result.
        front: trials on the front, in the order in which they came.
        volumes: hypervolume after each trial.
    """

    def __init__(self, info: SweepInfo) -> None:
        self._info = info
        self.trials = self.failed = 0
        self.front: tuple[TrialRecord, ...] = ()
        self.volumes: list[float] = []

    @property
    def hypervolume(self) -> float:
        """Of the front; 0 before there is one."""
        return self.volumes[-1] if self.volumes else 0.0

    @property
    def keys(self) -> frozenset[str]:
        """Of the trials on the front."""
        return frozenset(record.key for record in self.front)

    def add(self, record: TrialRecord) -> None:
        """Take one trial of a key that was not there before."""
        if record.control:
            return
        self.trials += 1
        self.failed += record.state == "failed"
        volume = self.hypervolume
        if may_stand(record, self._info):
            # Only the front so far and the new point can be on the next front.
            front = (*self.front, record)
            points = np.array([[item.metrics[name].value for name in ("privacy", "utility")] for item in front])
            self.front = tuple(item for item, on in zip(front, nondominated(points), strict=True) if on)
            volume = hypervolume(points)
        self.volumes.append(volume)
