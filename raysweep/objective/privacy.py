"""Attackers against one release: every attacker through every embedder, the worst chosen on S and reported on E."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.attackers import AttackView, Embeddings, attacker
from raysweep.attackers.controls import null_control, random_control, vacuity
from raysweep.errors import DataError
from raysweep.metrics.identification import IdentificationSums
from raysweep.metrics.identification import advantage as advantage_over
from raysweep.metrics.uncertainty import Estimate
from raysweep.metrics.value import MetricValue
from raysweep.objective.attacks import ALL, NAIVE, Attack, Attacks, Outcome, Remember, settings_text
from raysweep.objective.ground import Ground, rounded
from raysweep.objective.learning import undertrained

__all__ = ["NAIVE", "Attacked", "Privacy", "ranks_of"]

Key = tuple[str, str]
"""(label of the attacker, embedder)."""
DERIVED = ("A5", "A6", "A7")
"""Attackers that repeat or add up others."""


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
        extra: what restorers made of clear faces, per name and embedder.
        remember: where the clear side of attackers is stored.
    """

    def __init__(
        self,
        ground: Ground,
        extra: Mapping[str, Mapping[str, Embeddings]] | None = None,
        remember: Remember | None = None,
    ) -> None:
        self.ground = ground
        self.attacks = Attacks(ground, extra or {}, remember)
        self.backbone = self.attacks.backbone
        self._vacuous = {
            attack.key: "; ".join(filter(None, (self._why_vacuous(attack.key, role) for role in ("S", "E"))))
            for attack in self.attacks.all
        }
        self._random = self._run_random() if ground.protocol.controls else {}

    def _run_random(self) -> dict[str, Outcome]:
        name = next(iter(self.ground.clear), None)
        if name is None:
            return {}
        views = {(role, name): random_control(self.ground.views[role, name]) for role in ("S", "E")}
        return {role: self.attacks.run(Attack(attacker("A1"), name), role, views) for role in ("S", "E")}

    def _why_vacuous(self, key: Key, role: str) -> str:
        control = self.attacks.clear[(role, *key)].rank1(self.ground.plan)
        backbone = self.backbone[role, key[1]].rank1(self.ground.plan)
        if math.isnan(control.value):
            return ""
        low = control.interval(self.ground.plan)[0]
        reason = vacuity(
            control.value, control.value if math.isnan(low) else low, 1 / self.ground.gallery[role], backbone.value
        )
        return f"{reason}, role {role}" if reason else ""

    def judge(
        self,
        faces: Mapping[str, Embeddings],
        extra: Mapping[str, Mapping[str, Embeddings]] | None = None,
        absent: Mapping[str, str] | None = None,
        known: Collection[str] = (),
    ) -> Attacked:
        """Attack one release.

        Args:
            faces: per embedder, of the released faces.
            extra, absent, known: as for `Ground.scene`.
        """
        views = self.ground.scene(faces, extra, absent, known)
        outcomes: dict[tuple[str, str, str], Outcome] = {}
        advantage: dict[tuple[str, str, str], Estimate] = {}
        pairs = [attack.key for attack in self.attacks.all]
        for attack in self.attacks.all:
            for role in ("S", "E"):
                key = (role, *attack.key)
                outcomes[key] = found = self.attacks.run(attack, role, views)
                clear = self.attacks.clear[key]
                chance = 1 / self.ground.gallery[role] if self.ground.gallery[role] else math.nan
                advantage[key] = advantage_over(found.rank1(self.ground.plan), clear.rank1(self.ground.plan), chance)
        empty = self._vacuous

        def usable(role: str) -> list[tuple[str, str]]:
            return [pair for pair in pairs if not math.isnan(advantage[(role, *pair)].value) and not empty[pair]]

        on_e = usable("E")
        on_s = [key for key in usable("S") if key in on_e]
        selected_on = "S" if on_s else "E"
        candidates = on_s or on_e
        # Among equals the one named last wins, the better informed in the usual order, but not one that only repeats or adds up others;
        # rounding keeps arithmetic noise out of the choice.
        candidates = sorted(candidates, key=lambda pair: not pair[0].startswith(DERIVED))
        chosen = _strongest({key: advantage[(selected_on, *key)] for key in candidates}) if candidates else None

        metrics: dict[str, MetricValue] = {}
        why = self.ground.why_not("E")
        if not why and chosen is None:
            reasons = [advantage[("E", *pair)].reason or empty[pair] for pair in pairs]
            why = "no attacker is above chance: " + "; ".join(dict.fromkeys(filter(None, reasons)))
            if all(advantage[("E", *pair)].reason and not empty[pair] for pair in pairs):
                why = "; ".join(dict.fromkeys(advantage[("E", *pair)].reason for pair in pairs))
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
            self._row(attack, views, outcomes, advantage, attack.key == chosen, selected_on)
            for attack in self.attacks.all
        ]
        evidence = ranks_of(outcomes)
        decides = None
        if chosen is not None:
            sides = outcomes[("E", *chosen)].sums, self.attacks.clear[("E", *chosen)].sums
            decides = None if sides[0] is None or sides[1] is None else (sides[0], sides[1])
            evidence["draws/privacy"] = (1 - advantage[("E", *chosen)].samples).astype(np.float32)
        if self.ground.protocol.learning_curve:
            metrics |= self._learning(views, rows)
        return Attacked(metrics, rows + self._control_rows(faces), evidence, decides)

    def _naive(
        self,
        advantage: Mapping[tuple[str, str, str], Estimate],
        outcomes: Mapping[tuple[str, str, str], Outcome],
        empty: Mapping[Key, str],
        chosen: Key | None,
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
        attack: Attack,
        views: Mapping[tuple[str, str], AttackView],
        outcomes: Mapping[tuple[str, str, str], Outcome],
        advantage: Mapping[tuple[str, str, str], Estimate],
        selected: bool,
        selected_on: str,
    ) -> dict[str, Any]:
        each, plan, vacuous = attack.attacker, self.ground.plan, self._vacuous[attack.key]
        chooses = getattr(each, "variant", "")
        row: dict[str, Any] = {
            "attacker": attack.key[0],
            "name": f"{each.name} ({getattr(each, chooses)})" if chooses else each.name,
            "embedder": attack.embedder,
            "settings": settings_text(each),
            "assignment": self.ground.protocol.assignment,
            "known_to_anonymizer": any(
                view.known for (_, name), view in views.items() if attack.embedder in (name, ALL)
            ),
            "control": "",
            "selected": selected,
            "selected_on": selected_on if selected else "",
        }
        for role in ("S", "E"):
            key = (role, *attack.key)
            attacked = outcomes[key].rank1(plan).metric(plan)
            row |= {
                f"gallery_{role}": self.ground.gallery[role],
                f"rank1_{role}": rounded(attacked.value),
                f"clear_{role}": rounded(self.attacks.clear[key].rank1(plan).value),
                f"advantage_{role}": rounded(advantage[key].value),
            }
            if role == "E":
                row |= {"rank1_E_lo": rounded(attacked.lo), "rank1_E_hi": rounded(attacked.hi)}
        reason = advantage[("E", *attack.key)].reason
        row["status"] = "vacuous" if vacuous else "undefined" if reason else "ok"
        row["reason"] = vacuous or reason
        return row

    def _learning(
        self, views: Mapping[tuple[str, str], AttackView], rows: list[dict[str, Any]]
    ) -> dict[str, MetricValue]:
        """Train A2 and A3 on less, add `rank1_E_25` and `rank1_E_50` to their rows, and say whether more faces would still help them."""
        metrics, shares = undertrained(self.attacks, views, self.ground.plan)
        for row in rows:
            row |= shares.get((row["attacker"], row["embedder"]), {})
        return metrics

    def _control_rows(self, faces: Mapping[str, Embeddings]) -> list[dict[str, Any]]:
        """Null (labels permuted within enrolment, per embedder) and random embeddings, on E: both must be at chance."""
        if not self.ground.protocol.controls or self.ground.why_not("E"):
            return []
        lazy = attacker("A1")
        runs = [
            ("null", name, self.attacks.run(Attack(lazy, name), "E", {("E", name): null_control(view)}))
            for name, rows in faces.items()
            for view in [self.ground.views["E", name].with_anonymized(rows)]
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


def ranks_of(outcomes: Mapping[tuple[str, str, str], Outcome]) -> dict[str, npt.NDArray[Any]]:
    """`rank/<role>/<attacker>/<embedder>/above` and `.../equal`, (P,): from these all hits can be counted again."""
    found: dict[str, npt.NDArray[Any]] = {}
    for place, outcome in outcomes.items():
        if outcome.sums is not None:
            kind = np.int16 if outcome.sums.classes < 2**15 else np.int32
            found["/".join(("rank", *place, "above"))] = outcome.above.astype(kind)
            found["/".join(("rank", *place, "equal"))] = outcome.equal.astype(kind)
    return found


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
