"""Numbers computed again from evidence alone: ranks and decisions in, privacy, utility, intervals and curves out.

Nothing here looks at a recorded number: the choice of the attacker, the vacuity gate and the intervals are done again, so that a
reader of a score bundle need not trust its author. What an attacker can do on clear faces is counted from ranks as well: those that all
trials share, or else those of the control `identity`, whose released faces are the clear ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.engine.evidence import Arrays
from raysweep.engine.record import TrialRecord
from raysweep.metrics.expression import ExpressionSums
from raysweep.metrics.identification import IdentificationSums, cmc, rank1_at_gallery
from raysweep.metrics.uncertainty import ClusterSums, Estimate, mean_of
from raysweep.metrics.value import MetricValue
from raysweep.schema import EXPRESSIONS
from raysweep.tracking.standing import standing
from raysweep.tracking.stored import Protocolled, StoredRun
from raysweep.tracking.text import plain

__all__ = ["Difference", "Evidence", "Recomputed", "differences", "recompute", "recomputed_records", "shown_pair"]

Array = npt.NDArray[np.float64]
Pair = tuple[str, str]
"""Attacker and embedder, as they stand in the name of a rank array."""

TOLERANCE = 1e-6
"""Recorded and recomputed numbers that differ by more are told."""
TINY = 1e-12
NAIVE = "A0"
DERIVED = ("A5", "A6", "A7")
"""Attackers that repeat or join others."""
ALL = "all"
"""In place of an embedder, for an attacker that joins them."""


@dataclass(frozen=True)
class Recomputed:
    """What the evidence of one trial gives.

    Attributes:
        metrics: `privacy`, `utility`, both on role S (`selection/...`), `privacy/rank1`, `privacy/naive` and `privacy/gap`, with intervals;
            `undefined` with the reason where the evidence does not suffice.
        attacker: the pair that was chosen, None when nobody decides.
        draws: by objective, its value in each bootstrap draw.
    """

    metrics: Mapping[str, MetricValue]
    attacker: Pair | None
    draws: Mapping[str, Array]


@dataclass(frozen=True)
class Difference:
    """A number that its evidence does not give again."""

    trial: str
    name: str
    recorded: float
    recomputed: float


class Evidence:
    """The evidence of one run, read as curves and counts.

    Args:
        run: with evidence attached to its records.

    Attributes:
        clear: the control `identity`, None when it has no evidence.
    """

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.plan = run.protocol.resampling
        self.clear = next((item for item in run.records if item.control == "identity" and item.evidence), None)
        self._sums: dict[tuple[str, str, Pair], IdentificationSums | None] = {}

    def pairs(self, record: TrialRecord) -> list[Pair]:
        """Attackers and embedders with ranks, in the order of the attacker table."""
        found = {
            (parts[2], parts[3])
            for name in record.evidence
            if len(parts := name.split("/", 3)) == 4 and parts[0] == "rank"
        }
        names = {(attacker, rest.rpartition("/")[0]) for attacker, rest in found}
        listed = [
            (str(row.get("attacker")), str(row.get("embedder"))) for row in record.attackers if not row.get("control")
        ]
        order = {pair: index for index, pair in enumerate(dict.fromkeys(listed))}
        return sorted(names, key=lambda pair: (order.get(pair, len(order)), pair))

    def ranks(self, record: TrialRecord, role: str, pair: Pair) -> IdentificationSums | None:
        """Counted hits of one attack, None when it has no (fitting) arrays."""
        key = (record.key, role, pair)
        if key not in self._sums:
            self._sums[key] = self._count(record.evidence, f"rank/{role}/{pair[0]}/{pair[1]}", role)
        return self._sums[key]

    def on_clear(self, role: str, pair: Pair) -> IdentificationSums | None:
        """Counted hits of an attacker on clear faces."""
        if pair[1] == ALL and pair[0] == NAIVE:
            # The best frozen embedder stands for an attacker that joins several.
            names = {
                name.split("/", 3)[3].rpartition("/")[0]
                for name in self.run.common
                if name.startswith(f"clear/{role}/{NAIVE}/")
            }
            found = [sums for name in sorted(names) if (sums := self.on_clear(role, (NAIVE, name))) is not None]
            return max(found, key=lambda sums: sums.standard(self.plan).value, default=None)
        key = ("", role, pair)
        if key not in self._sums:
            name = f"clear/{role}/{pair[0]}/{pair[1]}"
            self._sums[key] = self._count(self.run.common, name, role)
            if self._sums[key] is None and self.clear is not None:
                self._sums[key] = self.ranks(self.clear, role, pair)
        return self._sums[key]

    def _count(self, arrays: Arrays, name: str, role: str) -> IdentificationSums | None:
        above, equal = arrays.get(f"{name}/above"), arrays.get(f"{name}/equal")
        genuine, gallery = self.run.common.get(f"rank/{role}/class"), self.run.common.get(f"rank/{role}/gallery")
        if above is None or equal is None or genuine is None or gallery is None:
            return None
        if (
            not above.shape == equal.shape == genuine.shape
            or genuine.ndim != 1
            or gallery.shape != (2,)
            or not len(genuine)
        ):
            return None
        classes, size = (int(item) for item in gallery)
        above, equal = above.astype(np.int64), equal.astype(np.int64)
        possible = (above >= 0).all() and (equal >= 0).all() and (above + equal < classes).all()
        # A curve has one column per person: more than there can be memory for is not evidence.
        if not possible or not 1 <= size <= classes or classes * len(genuine) > 100_000_000:
            return None
        hits = np.column_stack([rank1_at_gallery(above, equal, classes, size), cmc(above, equal, classes)])
        return IdentificationSums(classes, size, ClusterSums.of(genuine.astype(np.int64), hits))

    def curve(self, record: TrialRecord, pair: Pair) -> Array | None:
        """CMC on role E, (C,), mean over people."""
        sums = self.ranks(record, "E", pair)
        return None if sums is None else sums.curve()

    def risk(self, record: TrialRecord, pair: Pair) -> tuple[Array, npt.NDArray[np.int64]] | None:
        """Rank-1 at the standard gallery of each person of role E, and their codes."""
        sums = self.ranks(record, "E", pair)
        return None if sums is None else (sums.sums.sums[:, 0] / sums.sums.count, sums.sums.keys)

    def roc(self, record: TrialRecord, embedder: str) -> tuple[Array, Array] | None:
        """False match and false non-match rates on role E, anonymized against anonymized."""
        if embedder == ALL:
            names = sorted(
                {name.removeprefix("roc/").rpartition("/")[0] for name in record.evidence if name.startswith("roc/")}
            )
            curves = [curve for name in names if name != ALL and (curve := self.roc(record, name)) is not None]
            return min(curves, key=lambda curve: float(curve[1].mean()), default=None)
        fmr, fnmr = record.evidence.get(f"roc/{embedder}/fmr"), record.evidence.get(f"roc/{embedder}/fnmr")
        if fmr is None or fnmr is None or fmr.shape != fnmr.shape or fmr.ndim != 1 or len(fmr) < 2:
            return None
        rates = np.asarray(fmr, np.float64), np.asarray(fnmr, np.float64)
        return rates if all(np.isfinite(side).all() for side in rates) else None

    def expression_models(self, record: TrialRecord) -> list[str]:
        """Models with decisions on role E."""
        start, end = "expression/E/", "/anonymized"
        return sorted(
            name[len(start) : -len(end)] for name in record.evidence if name.startswith(start) and name.endswith(end)
        )

    def decisions(
        self, record: TrialRecord, role: str, model: str
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """Classes on clear and on anonymized faces, 0 to 7."""
        sides = [record.evidence.get(f"expression/{role}/{model}/{side}") for side in ("clear", "anonymized")]
        if any(side is None for side in sides):
            return None
        clear, anonymized = (np.asarray(side).astype(np.int64) for side in sides)
        none = len(EXPRESSIONS)
        fits = clear.shape == anonymized.shape and clear.ndim == 1 and len(clear)
        inside = fits and min(clear.min(), anonymized.min()) >= 0 and max(clear.max(), anonymized.max()) <= none
        return (clear, anonymized) if inside else None

    def confusion(self, record: TrialRecord, model: str) -> npt.NDArray[np.int64] | None:
        """(7, 8) counts on role E: clear answer by anonymized answer, the last column is none."""
        found = self.decisions(record, "E", model)
        if found is None:
            return None
        table = np.zeros((len(EXPRESSIONS) + 1, len(EXPRESSIONS) + 1), dtype=np.int64)
        np.add.at(table, found, 1)
        return table[:-1]

    def draws(self, record: TrialRecord) -> Array | None:
        """(B, 2) recorded draws of both objectives, None when they are not there."""
        sides = [record.evidence.get(f"draws/{name}") for name in ("privacy", "utility")]
        if any(side is None or side.ndim != 1 or not len(side) for side in sides) or sides[0].shape != sides[1].shape:  # type: ignore[union-attr]
            return None
        return np.stack([np.asarray(side, np.float64) for side in sides], axis=1)


def recompute(run: StoredRun) -> dict[str, Recomputed]:
    """The objectives of every complete record that has evidence, by key, and what belongs to them."""
    evidence = Evidence(run)
    found = {}
    for record in run.records:
        if record.state == "complete" and record.evidence:
            chosen, estimates = _privacy(evidence, record)
            estimates["utility"] = _utility(evidence, record, "E")
            estimates["selection/utility"] = _utility(evidence, record, "S")
            metrics = {name: estimate.metric(evidence.plan) for name, estimate in estimates.items()}
            draws = {name: estimates[name].samples for name in ("privacy", "utility")}
            found[record.key] = Recomputed(metrics, chosen, draws)
    return found


def recomputed_records(run: StoredRun, found: Mapping[str, Recomputed]) -> tuple[TrialRecord, ...]:
    """The records with their numbers replaced by the recomputed ones; without evidence, objectives are undefined."""
    records = []
    for record in run.records:
        if record.state == "complete":
            again = found.get(record.key)
            nothing = MetricValue.undefined(f"no evidence: {run.missing.get(record.key, 'none was recorded')}")
            metrics = {"privacy": nothing, "utility": nothing} if again is None else again.metrics
            draws = {} if again is None else {f"draws/{name}": samples for name, samples in again.draws.items()}
            record = replace(record, metrics={**record.metrics, **metrics}, evidence={**record.evidence, **draws})
        records.append(record)
    return tuple(records)


def differences(run: StoredRun, found: Mapping[str, Recomputed]) -> list[Difference]:
    """Where recorded and recomputed numbers, ends of intervals, or places on the front differ by more than 1e-6."""
    told = []
    for record in run.records:
        again = found.get(record.key)
        for name, value in {} if again is None else again.metrics.items():
            recorded = record.metrics.get(name)
            if recorded is None and name not in ("privacy", "utility"):
                continue  # a number that the sweep did not state cannot be wrong
            recorded = recorded or MetricValue.undefined("not recorded")
            for part in ("value", "lo", "hi"):
                left, right = float(getattr(recorded, part)), float(getattr(value, part))
                same = (math.isnan(left) and math.isnan(right)) or abs(left - right) <= TOLERANCE
                if not same:
                    told.append(Difference(_label(record), name if part == "value" else f"{name} {part}", left, right))
    told += _ranking(run, found)
    return told


def _ranking(run: StoredRun, found: Mapping[str, Recomputed]) -> list[Difference]:
    """Trials with evidence that stand on one of the two fronts only."""
    before = standing(run.records, run.info).front_keys
    after = standing(recomputed_records(run, found), run.info).front_keys
    return [
        Difference(_label(record), "on the front", float(record.key in before), float(record.key in after))
        for record in run.records
        if record.key in found and (record.key in before) != (record.key in after)
    ]


def _label(record: TrialRecord) -> str:
    return plain(record.control, 40) if record.control else f"#{record.number}"


# ------------------------------------------------------------------ privacy
def _privacy(evidence: Evidence, record: TrialRecord) -> tuple[Pair | None, dict[str, Estimate]]:
    """Section 5 of the metrics: the strongest attacker of role S, measured on role E."""
    names = ("privacy", "selection/privacy", "privacy/rank1", "privacy/naive", "privacy/gap")
    why = "" if "rank/E/gallery" in evidence.run.common else "nobody can be identified in role E"
    if evidence.clear is None and not any(name.startswith("clear/") for name in evidence.run.common):
        why = why or "no evidence of the clear faces"
    advantage: dict[tuple[str, Pair], Estimate] = {}
    for pair in evidence.pairs(record) if not why else []:
        for role in ("S", "E"):
            found = _advantage(evidence, record, role, pair)
            if found is not None:
                advantage[role, pair] = found
    on_e = [pair for pair in evidence.pairs(record) if ("E", pair) in advantage and not _vacuous(evidence, pair)]
    on_s = [pair for pair in on_e if ("S", pair) in advantage]
    estimates = {name: _nothing(why or "no attacker is above chance") for name in names}
    if not on_e:
        return None, estimates
    role, candidates = ("S", on_s) if on_s else ("E", on_e)
    # Of equals the last counts, and one that only repeats or joins others never before those.
    candidates = sorted(candidates, key=lambda pair: not pair[0].startswith(DERIVED))
    chosen = max(reversed(candidates), key=lambda pair: round(advantage[role, pair].value, 9))
    estimates["privacy"] = _complement(advantage["E", chosen])
    if on_s:
        estimates["selection/privacy"] = _complement(advantage["S", chosen])
    worst = evidence.ranks(record, "E", chosen)
    if worst is not None:
        estimates["privacy/rank1"] = worst.standard(evidence.plan)
    naive = [pair for pair in on_e if pair[0] == NAIVE]
    if naive:
        role = "S" if all(("S", pair) in advantage for pair in naive) else "E"
        weakest = _complement(advantage["E", max(naive, key=lambda pair: round(advantage[role, pair].value, 9))])
        strongest = estimates["privacy"]
        estimates["privacy/naive"] = weakest
        estimates["privacy/gap"] = Estimate(
            weakest.value - strongest.value, weakest.samples - strongest.samples, strongest.n, strongest.n_ids
        )
    return chosen, estimates


def _complement(advantage: Estimate) -> Estimate:
    """1 - advantage."""
    turn = advantage.transform
    return Estimate(
        1 - advantage.value,
        1 - advantage.samples,
        advantage.n,
        advantage.n_ids,
        all_or_none=advantage.all_or_none,
        transform=None if turn is None else lambda share: 1 - turn(share),
    )


def _advantage(evidence: Evidence, record: TrialRecord, role: str, pair: Pair) -> Estimate | None:
    attacked, control = evidence.ranks(record, role, pair), evidence.on_clear(role, pair)
    if attacked is None or control is None:
        return None
    chance = 1 / attacked.gallery
    mine, best = attacked.standard(evidence.plan), control.standard(evidence.plan)
    if not best.value > chance:
        return None

    def scaled(value: Any, clear: Any) -> Any:
        gain = np.where(np.abs(value - chance) < TINY, 0.0, value - chance)
        return np.clip(gain / np.maximum(clear - chance, TINY), 0.0, 1.0)

    return Estimate(
        float(scaled(mine.value, best.value)),
        scaled(mine.samples, best.samples),
        mine.n,
        mine.n_ids,
        all_or_none=mine.all_or_none,
        transform=lambda share: float(scaled(share, best.value)),
    )


def _vacuous(evidence: Evidence, pair: Pair) -> bool:
    """Whether the attacker fails on clear faces: not surely above chance, or below half of its own frozen embedder."""
    for role in ("S", "E"):
        control = evidence.on_clear(role, pair)
        if control is None:
            continue
        own = control.standard(evidence.plan)
        low = own.interval(evidence.plan)[0]
        backbone = evidence.on_clear(role, (NAIVE, pair[1]))
        if not (own.value if math.isnan(low) else low) > 1 / control.gallery:
            return True
        if backbone is not None and own.value < 0.5 * backbone.standard(evidence.plan).value:
            return True
    return False


# ------------------------------------------------------------------ utility
def _utility(evidence: Evidence, record: TrialRecord, role: str) -> Estimate:
    """Section 6: chance-corrected mean share of kept expressions, mean over models."""
    cluster = evidence.run.common.get(f"expression/{role}/identity")
    protocol: Protocolled = evidence.run.protocol
    one_hot = np.vstack([np.eye(len(EXPRESSIONS)), np.zeros(len(EXPRESSIONS))])
    models = {}
    for model in evidence.expression_models(record):
        sides = evidence.decisions(record, role, model)
        if sides is None or cluster is None or cluster.shape != sides[0].shape:
            continue
        sums = ExpressionSums.start().update(one_hot[sides[0]], one_hot[sides[1]], cluster.astype(np.int64))
        models[model] = sums.compute(evidence.plan, protocol.minimum_support)["utility"]
    return mean_of(models) if models else _nothing("no decisions of an expression model")


def _nothing(reason: str) -> Estimate:
    return Estimate(math.nan, reason=reason)


def shown_pair(record: TrialRecord, evidence: Evidence) -> Pair | None:
    """The attacker that the record calls the strongest, when its ranks are there."""
    pairs: Sequence[Pair] = evidence.pairs(record)
    for row in record.attackers:
        pair = (str(row.get("attacker")), str(row.get("embedder")))
        if row.get("selected") and pair in pairs:
            return pair
    return None
