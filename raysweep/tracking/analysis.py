"""What a finished sweep says beyond its front: chosen on S and measured on E, who surely beats whom, how sure the hypervolume is, where the
time went, and what could not be measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.engine.record import TrialRecord
from raysweep.metrics.front import SelectedFront, confident_dominance, front_on_selection, hypervolume_band
from raysweep.tracking.charts import TraceBand
from raysweep.tracking.recompute import Evidence
from raysweep.tracking.standing import STAGES, Standing, referee_share, spent_by_stage, standing
from raysweep.tracking.stored import StoredRun
from raysweep.tracking.text import plain

__all__ = ["Analysis", "Band", "analyse", "reasons"]

Array = npt.NDArray[np.float64]

MAX_COMPARED = 300
"""Among more trials than this only those shown are compared with each other."""
MAX_TRACED = 60
"""Steps of the hypervolume trace that get a band."""


@dataclass(frozen=True)
class Band:
    """A number with its 95 % band, NaN where there is none."""

    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Analysis:
    """What the report is written from.

    Attributes:
        run, state, evidence: what was read.
        selected: the front chosen on S and measured on E; None when no trial has values on S.
        chosen: keys of the trials on it; `holding`: of those that no other chosen one dominates on E.
        shown: trials on the front by either rule, most private first.
        beaten: by key, numbers of the trials that dominate it in at least 95 % of the joint draws.
        compared: how many trials have draws.
        volume: hypervolume of the chosen front (of the front on E where nothing could be chosen on S), as measured on E.
        path: the same after each finished trial, and its cost.
        spent_s: seconds of work per stage over all trials and controls.
    """

    run: StoredRun
    state: Standing
    evidence: Evidence
    selected: SelectedFront | None
    chosen: frozenset[str]
    holding: frozenset[str]
    shown: tuple[TrialRecord, ...]
    beaten: Mapping[str, tuple[int, ...]]
    compared: int
    volume: Band
    path: tuple[TraceBand, ...]
    spent_s: Mapping[str, float]

    @property
    def referee_share(self) -> float:
        """The referee's part of all work, NaN when no time was recorded."""
        return referee_share(self.spent_s)


def analyse(run: StoredRun) -> Analysis:
    """Everything the report says, from records and evidence."""
    state = standing(run.records, run.info)
    evidence = Evidence(run)
    ranked = list(state.ranked)
    on_s, on_e = _values(ranked, "selection/"), _values(ranked, "")
    selected = front_on_selection(on_s, on_e) if len(ranked) and np.isfinite(on_s).all(axis=1).any() else None
    chosen = _taken(ranked, None if selected is None else selected.chosen)
    holding = _taken(ranked, None if selected is None else selected.standing)
    marked = chosen | state.front_keys
    shown = sorted(
        (record for record in ranked if record.key in marked),
        key=lambda record: (-record.metrics["privacy"].value, record.number),
    )
    draws = _draws(evidence, ranked)
    beaten = _beaten(ranked if len(ranked) <= MAX_COMPARED else shown, draws)
    final = [record for record in ranked if record.key in (chosen or state.front_keys)]
    return Analysis(
        run,
        state,
        evidence,
        selected,
        chosen,
        holding,
        tuple(shown),
        beaten,
        len(draws),
        _band(final, draws),
        tuple(_path(state, draws, selected is not None)),
        spent_by_stage(run.records),
    )


def reasons(run: StoredRun) -> list[tuple[str, str, str, int]]:
    """What has no number, and why: (`failed`, `undefined` or `vacuous`; what; reason; how many trials and controls)."""
    counts: dict[tuple[str, str, str], int] = {}
    for record in run.records:
        found = [("failed", "trial", plain(record.reason, 300))] if record.state == "failed" else []
        found += [
            (value.status, plain(name, 80), plain(value.reason or "no reason given", 300))
            for name, value in record.metrics.items()
            if not value.ok
        ]
        rows = {
            (
                str(row["status"]),
                f"attacker {plain(row.get('attacker', '?'), 40)}",
                plain(row.get("reason") or "no reason given", 300),
            )
            for row in record.attackers
            if row.get("status") in ("vacuous", "undefined") and not row.get("control")
        }
        for item in (*found, *rows):
            counts[item] = counts.get(item, 0) + 1
    order = {"failed": 0, "vacuous": 1, "undefined": 2}
    return sorted(
        ((*key, count) for key, count in counts.items()), key=lambda row: (order.get(row[0], 3), -row[3], row[1])
    )


# ------------------------------------------------------------------ inside
def _values(records: Sequence[TrialRecord], prefix: str) -> Array:
    """(n, 2) objectives with a prefix, NaN where there is none."""
    found = np.full((len(records), 2), math.nan)
    for row, record in enumerate(records):
        for column, name in enumerate(("privacy", "utility")):
            value = record.metrics.get(prefix + name)
            if value is not None and value.ok:
                found[row, column] = value.value
    return found


def _taken(records: Sequence[TrialRecord], taken: npt.NDArray[np.bool_] | None) -> frozenset[str]:
    """Keys of the records that are taken."""
    return frozenset() if taken is None else frozenset(records[int(row)].key for row in np.flatnonzero(taken))


def _draws(evidence: Evidence, records: Sequence[TrialRecord]) -> dict[str, Array]:
    """Joint draws by key; only trials with the usual number of draws can be compared draw by draw."""
    found = {record.key: table for record in records if (table := evidence.draws(record)) is not None}
    lengths = [len(table) for table in found.values()]
    usual = max(set(lengths), key=lengths.count) if lengths else 0
    return {key: table for key, table in found.items() if len(table) == usual}


def _beaten(records: Sequence[TrialRecord], draws: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    known = [record for record in records if record.key in draws]
    if len(known) < 2:
        return {}
    wins = confident_dominance(np.stack([draws[record.key] for record in known]))
    return {
        record.key: tuple(known[row].number for row in np.flatnonzero(wins[:, column]))
        for column, record in enumerate(known)
        if wins[:, column].any()
    }


def _band(records: Sequence[TrialRecord], draws: Mapping[str, Array]) -> Band:
    points = _values(records, "")
    if records and all(record.key in draws for record in records):
        return Band(*hypervolume_band(np.stack([draws[record.key] for record in records]), points))
    return Band(hypervolume_band(np.empty((len(records), 0, 2)), points)[0] if records else 0.0, math.nan, math.nan)


def _path(state: Standing, draws: Mapping[str, Array], on_selection: bool) -> list[TraceBand]:
    """The front after each finished trial, by the rule that chose the last one."""
    finished = sorted(state.trials, key=lambda record: (record.ended_at, record.number))
    ranked = {record.key for record in state.ranked}
    every = max(1, math.ceil(len(finished) / MAX_TRACED))
    path, so_far, cost = [], [], 0.0
    for step, record in enumerate(finished, start=1):
        cost += sum(float(record.seconds.get(stage, 0.0)) for stage in STAGES)
        if record.key in ranked:
            so_far.append(record)
        if step % every and step != len(finished):
            continue
        on_e = _values(so_far, "")
        choose_by = _values(so_far, "selection/") if on_selection else on_e
        taken = front_on_selection(choose_by, on_e).chosen if so_far else np.zeros(0, dtype=bool)
        band = _band([item for item, chosen in zip(so_far, taken, strict=True) if chosen], draws)
        path.append(TraceBand(step, cost, band.value, band.lo, band.hi))
    return path
