"""Attackers against one release: every attacker through every embedder, the worst chosen on S and reported on E."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.attackers import Attacker, AttackView, Embeddings, attacker
from raysweep.attackers.controls import clear_control, null_control, random_control, vacuity
from raysweep.errors import DataError
from raysweep.metrics.identification import IdentificationSums
from raysweep.metrics.uncertainty import Estimate, Resampling
from raysweep.metrics.value import MetricValue
from raysweep.objective.ground import Ground, rounded

__all__ = ["NAIVE", "Attacked", "Privacy"]

NAIVE = "A0"
TINY = 1e-12
"""What the arithmetic leaves of an exact 0."""


@dataclass(frozen=True)
class _Outcome:
    """One attack on one role: counted hits, or why not."""

    sums: IdentificationSums | None
    reason: str = ""

    def rank1(self, plan: Resampling) -> Estimate:
        return Estimate(math.nan, reason=self.reason) if self.sums is None else self.sums.standard(plan)


@dataclass(frozen=True)
class Attacked:
    """What the attackers found out about one release.

    Attributes:
        metrics: of `Judgement.metrics`.
        rows: of `Judgement.attackers`.
        evidence: of `Judgement.evidence`.
        worst: counted hits on role E of the attacker that decides, and of the same attacker on clear faces; None when nobody decides.
    """

    metrics: dict[str, MetricValue]
    rows: list[dict[str, Any]]
    evidence: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    worst: tuple[IdentificationSums, IdentificationSums] | None = None


class Privacy:
    """The attackers of a protocol with their controls on the clear side, which no trial changes.

    Args:
        ground: the clear side.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.attackers = ground.protocol.make_attackers()
        # A0 on clear faces is the frozen embedder itself, which the vacuity gate compares with, even when A0 is not asked for.
        self.backbone = {
            (role, name): self._attack(attacker(NAIVE), role, clear_control(view))
            for (role, name), view in ground.views.items()
        }
        self._controls = {
            (role, each.id, name): self._attack(each, role, clear_control(view))
            for (role, name), view in ground.views.items()
            for each in self.attackers
        }
        self._random = self._run_random() if ground.protocol.controls else {}

    def _attack(self, each: Attacker, role: str, view: AttackView) -> _Outcome:
        reason = self.ground.why_not(role) or each.problem(view)
        if reason:
            return _Outcome(None, reason)
        sums = IdentificationSums.start(len(view.classes), self.ground.gallery[role])
        return _Outcome(sums.update(each.scores(view), view.probe_class))

    def _run_random(self) -> dict[str, _Outcome]:
        return {
            role: self._attack(attacker("A1"), role, random_control(view))
            for (role, name), view in self.ground.views.items()
            if name == next(iter(self.ground.clear))
        }

    def _advantage(self, outcome: _Outcome, control: _Outcome, role: str) -> Estimate:
        """Adv = clip((m - 1/q) / (m_clear - 1/q), 0, 1), both resampled together."""
        attacked, clear = outcome.rank1(self.ground.plan), control.rank1(self.ground.plan)
        if math.isnan(attacked.value) or math.isnan(clear.value):
            return Estimate(math.nan, reason=attacked.reason or clear.reason)
        chance = 1 / self.ground.gallery[role]
        if clear.value <= chance:
            return Estimate(math.nan, reason="not above chance on clear faces")

        def scaled(value: Any, best: Any) -> Any:
            gain = np.where(np.abs(value - chance) < TINY, 0.0, value - chance)
            return np.clip(gain / np.maximum(best - chance, TINY), 0.0, 1.0)

        return Estimate(
            float(scaled(attacked.value, clear.value)),
            scaled(attacked.samples, clear.samples),
            attacked.n,
            attacked.n_ids,
            all_or_none=attacked.all_or_none,
            transform=lambda share: float(scaled(share, clear.value)),
        )

    def _vacuous(self, attacker_id: str, embedder: str, role: str) -> str:
        control = self._controls[role, attacker_id, embedder].rank1(self.ground.plan)
        backbone = self.backbone[role, embedder].rank1(self.ground.plan)
        if math.isnan(control.value):
            return ""
        low = control.interval(self.ground.plan)[0]
        reason = vacuity(
            control.value, control.value if math.isnan(low) else low, 1 / self.ground.gallery[role], backbone.value
        )
        return f"{reason}, role {role}" if reason else ""

    def judge(self, faces: Mapping[str, Embeddings]) -> Attacked:
        """Attack anonymized faces, per embedder."""
        outcomes: dict[tuple[str, str, str], _Outcome] = {}
        advantage: dict[tuple[str, str, str], Estimate] = {}
        pairs = [(each, name) for each in self.attackers for name in self.ground.clear]
        for each, name in pairs:
            for role in ("S", "E"):
                key = (role, each.id, name)
                outcomes[key] = self._attack(each, role, self.ground.views[role, name].with_anonymized(faces[name]))
                advantage[key] = self._advantage(outcomes[key], self._controls[key], role)
        empty: dict[tuple[str, str], str] = {}
        for each, name in pairs:
            reasons = [self._vacuous(each.id, name, role) for role in ("S", "E")]
            empty[each.id, name] = "; ".join(filter(None, reasons))

        def usable(role: str) -> list[tuple[str, str]]:
            return [
                (each.id, name)
                for each, name in pairs
                if not math.isnan(advantage[role, each.id, name].value) and not empty[each.id, name]
            ]

        on_e = usable("E")
        on_s = [key for key in usable("S") if key in on_e]
        selected_on = "S" if on_s else "E"
        candidates = on_s or on_e
        # Among equals the one named last wins, the better informed in the usual order; rounding keeps arithmetic noise out of the choice.
        chosen = _strongest({key: advantage[(selected_on, *key)] for key in candidates}) if candidates else None

        metrics: dict[str, MetricValue] = {}
        why = self.ground.why_not("E")
        if not why and chosen is None:
            reasons = [advantage["E", each.id, name].reason or empty[each.id, name] for each, name in pairs]
            why = "no attacker is above chance: " + "; ".join(dict.fromkeys(filter(None, reasons)))
            if all(advantage["E", each.id, name].reason and not empty[each.id, name] for each, name in pairs):
                why = "; ".join(dict.fromkeys(advantage["E", each.id, name].reason for each, name in pairs))
        names = (
            "privacy",
            "privacy/rank1",
            "privacy/rank1_full",
            "privacy/rank1_micro",
            "privacy/rank5",
            "privacy/max_on_e",
        )
        if chosen is None:
            metrics |= {name: MetricValue.undefined(why) for name in (*names, "selection/privacy")}
        else:
            remark = (
                "" if selected_on == "S" else f"attacker chosen on E: {self.ground.why_not('S') or 'none usable on S'}"
            )
            worst = outcomes[("E", *chosen)].sums
            if worst is None:
                raise DataError(f"attacker {chosen[0]} has an advantage but no result on role E")
            metrics["privacy"] = _complement(advantage[("E", *chosen)], remark).metric(self.ground.plan)
            metrics["privacy/rank1"] = worst.standard(self.ground.plan).metric(self.ground.plan)
            metrics["privacy/rank1_full"] = worst.rank(1, self.ground.plan).metric(self.ground.plan)
            metrics["privacy/rank1_micro"] = worst.rank_micro(1, self.ground.plan).metric(self.ground.plan)
            metrics["privacy/rank5"] = worst.rank(5, self.ground.plan).metric(self.ground.plan)
            risk = worst.risk()
            tenth = np.sort(risk)[-max(1, len(risk) // 10) :]
            for name, value in (
                ("privacy/risk_median", np.median(risk)),
                ("privacy/risk_worst_tenth", tenth.mean()),
                ("privacy/risk_above_half", (risk > 0.5).mean()),
            ):
                metrics[name] = MetricValue(
                    float(value), n=worst.sums.n, n_ids=len(risk), reason="no interval: order statistic"
                )
            best = _strongest({key: advantage[("E", *key)] for key in on_e})
            metrics["privacy/max_on_e"] = _complement(
                advantage[("E", *best)], "attacker chosen on E: optimistic for the attacker"
            ).metric(self.ground.plan)
            metrics["selection/privacy"] = (
                _complement(advantage[("S", *chosen)]).metric(self.ground.plan)
                if selected_on == "S"
                else MetricValue.undefined(f"no attacker usable on role S: {self.ground.why_not('S') or 'all vacuous'}")
            )
        metrics |= self._naive(advantage, outcomes, empty, chosen, why)
        rows = [
            self._row(each, name, outcomes, advantage, empty[each.id, name], (each.id, name) == chosen, selected_on)
            for each, name in pairs
        ]
        decides = None
        if chosen is not None:
            sides = outcomes[("E", *chosen)].sums, self._controls[("E", *chosen)].sums
            decides = None if sides[0] is None or sides[1] is None else (sides[0], sides[1])
        return Attacked(metrics, rows + self._control_rows(faces), worst=decides)

    def _naive(
        self,
        advantage: Mapping[tuple[str, str, str], Estimate],
        outcomes: Mapping[tuple[str, str, str], _Outcome],
        empty: Mapping[tuple[str, str], str],
        chosen: tuple[str, str] | None,
        why: str,
    ) -> dict[str, MetricValue]:
        """What an evaluation against the ignorant attacker alone would have claimed, and how far off it is."""
        naive = [
            name
            for name in self.ground.clear
            if ("E", NAIVE, name) in advantage
            and not math.isnan(advantage["E", NAIVE, name].value)
            and not empty[NAIVE, name]
        ]
        if not naive:
            ran = any(key[1] == NAIVE for key in outcomes)
            reason = self.ground.why_not("E") or (
                "the ignorant attacker is vacuous" if ran else "attacker A0 was not asked for"
            )
            return {
                name: MetricValue.undefined(reason) for name in ("privacy/naive", "privacy/gap", "privacy/naive_rank1")
            }
        # The same rule as for all attackers: the embedder is chosen on S where there is one.
        role = "S" if all(not math.isnan(advantage["S", NAIVE, name].value) for name in naive) else "E"
        name = max(naive, key=lambda item: round(advantage[role, NAIVE, item].value, 9))
        weakest = _complement(advantage["E", NAIVE, name])
        metrics = {
            "privacy/naive": weakest.metric(self.ground.plan),
            "privacy/naive_rank1": outcomes["E", NAIVE, name].rank1(self.ground.plan).metric(self.ground.plan),
        }
        if chosen is None:
            return metrics | {"privacy/gap": MetricValue.undefined(why)}
        strongest = _complement(advantage[("E", *chosen)])
        gap = Estimate(
            weakest.value - strongest.value, weakest.samples - strongest.samples, strongest.n, strongest.n_ids
        )
        return metrics | {"privacy/gap": gap.metric(self.ground.plan)}

    def _row(
        self,
        each: Attacker,
        embedder: str,
        outcomes: Mapping[tuple[str, str, str], _Outcome],
        advantage: Mapping[tuple[str, str, str], Estimate],
        vacuous: str,
        selected: bool,
        selected_on: str,
    ) -> dict[str, Any]:
        row: dict[str, Any] = {
            "attacker": each.id,
            "name": each.name,
            "embedder": embedder,
            "control": "",
            "selected": selected,
            "selected_on": selected_on if selected else "",
        }
        for role in ("S", "E"):
            key = (role, each.id, embedder)
            attacked = outcomes[key].rank1(self.ground.plan).metric(self.ground.plan)
            row |= {
                f"gallery_{role}": self.ground.gallery[role],
                f"rank1_{role}": rounded(attacked.value),
                f"clear_{role}": rounded(self._controls[key].rank1(self.ground.plan).value),
                f"advantage_{role}": rounded(advantage[key].value),
            }
            if role == "E":
                row |= {"rank1_E_lo": rounded(attacked.lo), "rank1_E_hi": rounded(attacked.hi)}
        reason = advantage["E", each.id, embedder].reason
        row["status"] = "vacuous" if vacuous else "undefined" if reason else "ok"
        row["reason"] = vacuous or reason
        return row

    def _control_rows(self, faces: Mapping[str, Embeddings]) -> list[dict[str, Any]]:
        """Null (labels permuted within enrolment, per embedder) and random embeddings, on E: both must be at chance."""
        if not self.ground.protocol.controls or self.ground.why_not("E"):
            return []
        lazy = attacker("A1")
        runs = [
            ("null", name, self._attack(lazy, "E", null_control(self.ground.views["E", name].with_anonymized(rows))))
            for name, rows in faces.items()
        ]
        runs.append(("random", "", self._random["E"]))
        return [
            {
                "attacker": lazy.id,
                "name": lazy.name,
                "embedder": name,
                "control": control,
                "selected": False,
                "selected_on": "",
                "gallery_E": self.ground.gallery["E"],
                "rank1_E": rounded(found.value),
                "rank1_E_lo": rounded(found.lo),
                "rank1_E_hi": rounded(found.hi),
                "status": "ok",
                "reason": f"chance is {1 / self.ground.gallery['E']:.4f}",
            }
            for control, name, outcome in runs
            for found in [outcome.rank1(self.ground.plan).metric(self.ground.plan)]
        ]


def _complement(advantage: Estimate, remark: str = "") -> Estimate:
    """1 - advantage."""
    change = advantage.transform
    return Estimate(
        1 - advantage.value,
        1 - advantage.samples,
        advantage.n,
        advantage.n_ids,
        remark or advantage.reason,
        all_or_none=advantage.all_or_none,
        transform=None if change is None else lambda share: 1 - change(share),
    )


def _strongest(advantage: Mapping[tuple[str, str], Estimate]) -> tuple[str, str]:
    """Largest advantage; of equals the last."""
    return max(reversed(list(advantage)), key=lambda key: round(advantage[key].value, 9))
