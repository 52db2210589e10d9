"""Where a sweep stands: which trials count, which of them are on the front, the knee, the hypervolume so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raysweep.engine.record import TrialRecord
from raysweep.metrics.front import hypervolume, knee, nondominated
from raysweep.metrics.value import MetricValue
from raysweep.schema import FloatArray
from raysweep.search.parameters import Value
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.text import plain, setting_text

__all__ = [
    "REFEREE",
    "STAGES",
    "Standing",
    "TracePoint",
    "may_stand",
    "referee_share",
    "rung_agreement",
    "rung_words",
    "searched",
    "setting_words",
    "spent_by_stage",
    "standing",
    "trace",
    "varying",
]

STAGES = ("fit", "anonymize", "embed", "express", "realism", "develop", "judge")
"""Stages of `TrialRecord.seconds` that are work; `wall` is the time from start to end of a trial."""
REFEREE = "judge"
"""The referee's."""


@dataclass(frozen=True)
class Standing:
    """The state of a sweep.

    Attributes:
        trials: every proposed trial, the last record of each key, by number; controls apart.
        controls: control rows.
        ranked: trials that may stand on the front.
        front: those that do, most private first.
        knee: the balanced point of the front, None when there is no front.
        hypervolume: of the front, reference (0, 0).
    """

    trials: tuple[TrialRecord, ...]
    controls: tuple[TrialRecord, ...]
    ranked: tuple[TrialRecord, ...]
    front: tuple[TrialRecord, ...]
    knee: TrialRecord | None
    hypervolume: float

    @property
    def front_keys(self) -> frozenset[str]:
        """Keys of the trials on the front."""
        return frozenset(record.key for record in self.front)


@dataclass(frozen=True)
class TracePoint:
    """The front after the first `step` finished trials.

    Attributes:
        step: number of finished trials, from 1.
        hypervolume: of the front until then.
        front_size: how many trials on it.
        ended_at: when the trial of this step ended, seconds since the epoch.
    """

    step: int
    hypervolume: float
    front_size: int
    ended_at: float


def standing(records: Iterable[TrialRecord], info: SweepInfo) -> Standing:
    """Sort out the records of a sweep; with several of one key the last one counts."""
    latest = sorted({record.key: record for record in records}.values(), key=lambda record: (record.number, record.key))
    trials = tuple(record for record in latest if not record.control)
    ranked = tuple(record for record in trials if may_stand(record, info))
    front: tuple[TrialRecord, ...] = ()
    best: TrialRecord | None = None
    volume = 0.0
    if ranked:
        points = _points(ranked)
        front = tuple(record for record, on in zip(ranked, nondominated(points), strict=True) if on)
        front = tuple(sorted(front, key=lambda record: (-record.metrics["privacy"].value, record.number)))
        best = front[knee(_points(front)) or 0]
        volume = hypervolume(points)
    return Standing(trials, tuple(record for record in latest if record.control), ranked, front, best, volume)


def searched(record: TrialRecord, info: SweepInfo) -> dict[str, Value]:
    """The part of a setting that tells a trial from the others of its sweep.

    What the sweep searches, but for parameters that mean nothing beside the others (`when:`); in a study the words that its file lists for this setting; all of it where neither is known.
    """
    found = {
        name: record.setting[name]
        for name in info.parameters
        if name in record.setting and _asked_for(name, record, info)
    }
    if found:
        return found
    listed = _listed(record, info)
    return dict(record.setting) if listed is None else {name: record.setting[name] for name in listed}


def setting_words(record: TrialRecord, info: SweepInfo, limit: int = 200) -> str:
    """`searched` as text, with the anonymizer where the sweep has several: `pixelate: block_size=16`, `blackout`, `kernel_size=31`.

    Of a control only the anonymizer, where its name does not say it: all its parameters are at their defaults.
    """
    name = plain(record.anonymizer, 60)
    if record.control:
        return "" if record.control == record.anonymizer else name
    setting = searched(record, info)
    if "," not in info.anonymizer:
        return setting_text(setting, limit)
    return plain(f"{name}: {setting_text(setting, limit)}", limit) if setting else name


def trace(records: Iterable[TrialRecord], info: SweepInfo) -> list[TracePoint]:
    """The front after each finished trial, in the order in which the trials ended; failed ones count as a step."""
    finished = [record for record in {record.key: record for record in records}.values() if not record.control]
    finished.sort(key=lambda record: (record.ended_at, record.number))
    points = np.zeros((0, 2))
    path = []
    for step, record in enumerate(finished, start=1):
        if may_stand(record, info):
            # only the front so far and the new point can be on the next front
            points = np.concatenate([points, _points([record])])
            points = points[nondominated(points)]
        volume = hypervolume(points) if len(points) else 0.0
        path.append(TracePoint(step, volume, len(points), record.ended_at))
    return path


def varying(records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Names of the parameters that all records have and that take more than one value, in the order of the setting."""
    if not records:
        return ()
    names = [name for name in records[0].setting if all(name in record.setting for record in records)]
    return tuple(name for name in names if len({record.setting[name] for record in records}) > 1)


def _listed(record: TrialRecord, info: SweepInfo) -> tuple[str, ...] | None:
    """Names that the study lists in the setting which this trial ran; None where it lists none that fits.

    A record holds every default too: of the listed settings that agree with it, the one that says most is meant.
    """
    fitting = [
        tuple(setting)
        for arm in info.space.get("arms") or ()
        if arm.get("anonymizer") == record.anonymizer
        for setting in arm.get("settings") or ()
        if all(name in record.setting and record.setting[name] == value for name, value in setting.items())
    ]
    return max(fitting, key=len) if fitting else None


def _asked_for(name: str, record: TrialRecord, info: SweepInfo) -> bool:
    """Whether the conditions that the space sets to a parameter hold in this trial."""
    rules = [
        arm.get("when") or {} for arm in info.space.get("arms") or () if arm.get("anonymizer") == record.anonymizer
    ]
    return all(
        record.setting.get(other) in allowed for rule in rules for other, allowed in (rule.get(name) or {}).items()
    )


def may_stand(record: TrialRecord, info: SweepInfo) -> bool:
    """Whether a trial may be ranked: both objectives are known, at the full fidelity of the sweep."""
    return record.rankable and (not info.fidelity or dict(record.fidelity) == dict(info.fidelity))


def _points(records: Sequence[TrialRecord]) -> FloatArray:
    return np.array([[record.metrics["privacy"].value, record.metrics["utility"].value] for record in records])


def rung_agreement(records: Iterable[TrialRecord]) -> dict[int, dict[str, MetricValue]]:
    """How well the order of trials on each rung agrees with that at full fidelity: people on the rung -> objective -> Kendall's tau.

    Over the trials that were run in full; those were chosen for standing high, which makes agreement look worse than it is.
    """
    # With it comes SciPy, for which a view of a running sweep must not wait.
    from raysweep.metrics.comparison import agreement

    pairs: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for record in records:
        for rung in record.rungs if record.rankable else ():
            here = pairs.setdefault(int(rung.get("identities", 0)), {"privacy": [], "utility": []})
            for name, values in here.items():
                if name in rung:
                    values.append((float(rung[name]), record.metrics[name].value))
    return {
        people: {
            name: agreement(*map(list, zip(*values, strict=True))) if values else agreement([], [])
            for name, values in found.items()
        }
        for people, found in sorted(pairs.items())
    }


def rung_words(records: Iterable[TrialRecord]) -> list[str]:
    """The same in sentences, one per rung; empty where every trial was run in full at once."""
    lines = []
    for people, found in rung_agreement(records).items():
        told = [
            f"{name} {value.value:.2f}" if value.ok else f"{name} undefined ({value.reason})"
            for name, value in found.items()
        ]
        count = max(value.n for value in found.values())
        lines.append(
            f"Kendall's tau between the rung of {people} people and full fidelity, over {count} trials run on both: {', '.join(told)}."
        )
    return lines


def spent_by_stage(records: Iterable[TrialRecord]) -> dict[str, float]:
    """Seconds of work per stage, all workers together, over trials and controls."""
    spent: dict[str, float] = {}
    for record in records:
        for stage in STAGES:
            if stage in record.seconds:
                spent[stage] = spent.get(stage, 0.0) + float(record.seconds[stage])
    return spent


def referee_share(spent: Mapping[str, float]) -> float:
    """The referee's part of all work, NaN when no time was recorded."""
    total = sum(spent.values())
    return spent.get(REFEREE, 0.0) / total if total else math.nan
