"""The referee: from measured faces to (privacy, utility) and everything beside them.

Privacy is one minus the advantage of the worst attacker: the attacker is *chosen* on the people of role S and *reported* on those of role E,
each measured against what the same attacker can do on clear faces. Utility is the chance-corrected share of faces that keep
their expression. Both are in [0, 1], higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysweep.attackers import Attacker, AttackView, Embeddings, attacker
from raysweep.attackers.base import cosine
from raysweep.attackers.controls import clear_control, null_control, random_control, vacuity
from raysweep.errors import ConfigError, DataError
from raysweep.metrics.expression import ExpressionSums, decisions, js_similarity, null_corrected
from raysweep.metrics.identification import IdentificationSums
from raysweep.metrics.uncertainty import ClusterSums, Estimate, Resampling, clusters, mean_of
from raysweep.metrics.value import MetricValue
from raysweep.metrics.verification import RULE_OF_30, PairScores, false_match_rate, threshold_at_far
from raysweep.schema import FaceTable, FloatArray, IntArray, Measurements

__all__ = ["Judgement", "Protocol", "Referee"]

FARS = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3}
NAIVE = "A0"
REALISM = ("psnr", "ssim", "lpips")
TINY = 1e-12
"""What the arithmetic leaves of an exact 0."""


@dataclass(frozen=True)
class Protocol:
    """How trials are judged: one per study, part of every record's key.

    Attributes:
        gallery_size: q of the standard rank-1; None takes min(20, identities in E).
        attackers: ids or names of `raysweep.attackers.ATTACKERS`.
        attacker_settings: parameters by attacker id, for example {"A3": {"epochs": 60}}.
        bootstrap: draws; 0 for no intervals.
        seed: of draws, samples and controls.
        minimum_support: fewest images of an expression class that counts.
        minimum_identities: fewest identities for which an interval is stated.
        controls: also run the null and random controls on each trial.
    """

    gallery_size: int | None = None
    attackers: tuple[str, ...] = ("A0", "A1", "A3")
    attacker_settings: Mapping[str, Mapping[str, int | float]] = field(default_factory=dict)
    bootstrap: int = 1000
    seed: int = 0
    minimum_support: int = 5
    minimum_identities: int = 10
    controls: bool = True

    def __post_init__(self) -> None:
        problems = []
        if self.gallery_size is not None and self.gallery_size < 2:
            problems.append(f"gallery_size: {self.gallery_size}; allowed: 2 or more, or none")
        if not self.attackers:
            problems.append("attackers: none given; at least one is needed")
        if self.minimum_support < 1:
            problems.append(f"minimum_support: {self.minimum_support}; allowed: 1 or more")
        if problems:
            raise ConfigError(problems)

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        return Resampling(self.bootstrap, self.seed, self.minimum_identities)

    def make_attackers(self) -> tuple[Attacker, ...]:
        """Instances, with their settings.

        Raises:
            ConfigError: unknown attacker or parameter, or one named twice.
        """
        made = []
        for name in self.attackers:
            plain = attacker(name)
            settings = {**self.attacker_settings.get(plain.id, {}), **self.attacker_settings.get(plain.name, {})}
            made.append(attacker(name, **settings) if settings else plain)
        ids = [each.id for each in made]
        if len(set(ids)) < len(ids):
            raise ConfigError(f"attackers: {', '.join(ids)}; each may be named once")
        unused = set(self.attacker_settings) - {key for each in made for key in (each.id, each.name)}
        if unused:
            raise ConfigError(
                f"attacker_settings: {', '.join(sorted(unused))} is not among the attackers {', '.join(ids)}"
            )
        return tuple(made)


@dataclass(frozen=True)
class Judgement:
    """What the referee says about one trial.

    Attributes:
        metrics: by name; `privacy` and `utility` are the objectives.
        attackers: one row per attacker and embedder, then the controls: `attacker`, `name`, `embedder`, `control`, `selected`,
            `selected_on`, `gallery_S`, `rank1_S`, `clear_S`, `advantage_S`, the same for E with `rank1_E_lo` and `rank1_E_hi`, `status`, `reason`.
    """

    metrics: dict[str, MetricValue]
    attackers: list[dict[str, Any]]


@dataclass(frozen=True)
class _Outcome:
    """One attack on one role: counted hits, or why not."""

    sums: IdentificationSums | None
    reason: str = ""

    def rank1(self, plan: Resampling) -> Estimate:
        return Estimate(math.nan, reason=self.reason) if self.sums is None else self.sums.standard(plan)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


class Referee:
    """Judges trials against one set of clear faces. Making it computes what no trial changes; `judge` may then be called from any thread.

    Args:
        table: labels of the N faces.
        clear: measurements of the clear faces, rows as in `table`.
        protocol: how to judge.

    Raises:
        ConfigError: unknown attacker or setting.
        DataError: measurements that do not fit the table, or are not finite.
    """

    def __init__(self, table: FaceTable, clear: Measurements, protocol: Protocol | None = None) -> None:
        self.table = table
        self.protocol = protocol or Protocol()
        self.plan = self.protocol.resampling
        self.attackers = self.protocol.make_attackers()
        self._check(clear, "clear faces")
        self._clear_probabilities = clear.probabilities
        self._clear = {name: Embeddings.of(rows, f"clear faces, {name}") for name, rows in clear.embeddings.items()}
        self._views = {
            (role, name): AttackView.of(table, role, rows, rows, self.protocol.seed)
            for role in ("S", "E")
            for name, rows in self._clear.items()
        }
        self.gallery = {role: self._gallery_size(role) for role in ("S", "E")}
        # A0 on clear faces is the frozen embedder itself, which the vacuity gate compares with, even when A0 is not asked for.
        self._backbone = {
            (role, name): self._attack(attacker(NAIVE), role, clear_control(view))
            for (role, name), view in self._views.items()
        }
        self._controls = {
            (role, each.id, name): self._attack(each, role, clear_control(view))
            for (role, name), view in self._views.items()
            for each in self.attackers
        }
        self._clear_impostors = {
            name: self._pairs("S" if self.gallery["S"] else "E", name, self._clear[name], self._clear[name])
            for name in self._clear
        }
        self._clear_expression = {
            role: {name: self._expression(role, rows, rows) for name, rows in clear.probabilities.items()}
            for role in ("E",)
        }
        self._random = self._run_random() if self.protocol.controls else {}

    # What is fixed

    def _check(self, measured: Measurements, what: str) -> None:
        """Raise one error with everything that does not fit."""
        problems = []
        groups = {
            "embeddings": measured.embeddings,
            "probabilities": measured.probabilities,
            "realism": measured.realism,
        }
        for group, models in groups.items():
            for name, rows in models.items():
                if len(rows) != len(self.table):
                    problems.append(f"{what}, {group} of {name}: {len(rows)} rows for {len(self.table)} faces")
                    continue
                if group == "realism":
                    continue
                bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
                if len(bad):
                    shown = ", ".join(self.table.face_id[bad[:3]].tolist())
                    problems.append(
                        f"{what}, {group} of {name}: not finite in {len(bad)} rows ({shown}{', ...' if len(bad) > 3 else ''}); "
                        "a face without a result must be all zero"
                    )
        if problems:
            raise DataError("\n".join(problems))

    def _gallery_size(self, role: str) -> int:
        """q of a role; 0 when nobody can be identified there."""
        if not self._clear:
            return 0
        view = next(view for (side, _), view in self._views.items() if side == role)
        people = len(view.classes)
        if view.problem():
            return 0
        if role == "E":
            wanted = self.protocol.gallery_size
            return min(20, people) if wanted is None else wanted if wanted <= people else 0
        whole = self._gallery_size("E") or self.protocol.gallery_size or 20
        return min(whole, people)

    def _why_not(self, role: str) -> str:
        """Why nobody can be identified in a role, or empty."""
        if not self._clear:
            return "no embedder"
        view = next(view for (side, _), view in self._views.items() if side == role)
        problem = view.problem()
        if not problem and not self.gallery[role]:
            return f"gallery size {self.protocol.gallery_size} with {len(view.classes)} identities in role {role}"
        return problem

    def _rows(self, role: str) -> IntArray:
        return self.table.rows(role)

    # Attacks

    def _attack(self, each: Attacker, role: str, view: AttackView) -> _Outcome:
        reason = self._why_not(role) or each.problem(view)
        if reason:
            return _Outcome(None, reason)
        sums = IdentificationSums.start(len(view.classes), self.gallery[role])
        return _Outcome(sums.update(each.scores(view), view.probe_class))

    def _run_random(self) -> dict[str, _Outcome]:
        return {
            role: self._attack(attacker("A1"), role, random_control(view))
            for (role, name), view in self._views.items()
            if name == next(iter(self._clear))
        }

    def _advantage(self, outcome: _Outcome, control: _Outcome, role: str) -> Estimate:
        """Adv = clip((m - 1/q) / (m_clear - 1/q), 0, 1), both resampled together."""
        attacked, clear = outcome.rank1(self.plan), control.rank1(self.plan)
        if math.isnan(attacked.value) or math.isnan(clear.value):
            return Estimate(math.nan, reason=attacked.reason or clear.reason)
        chance = 1 / self.gallery[role]
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
        control = self._controls[role, attacker_id, embedder].rank1(self.plan)
        backbone = self._backbone[role, embedder].rank1(self.plan)
        if math.isnan(control.value):
            return ""
        low = control.interval(self.plan)[0]
        reason = vacuity(
            control.value, control.value if math.isnan(low) else low, 1 / self.gallery[role], backbone.value
        )
        return f"{reason}, role {role}" if reason else ""

    def _pairs(self, role: str, embedder: str, enrol: Embeddings, probe: Embeddings) -> PairScores | None:
        if self._why_not(role):
            return None
        view = self._views[role, embedder]
        scores = cosine(probe.take(view.probe), enrol.take(view.enrol))
        return PairScores(scores, view.probe_class, view.enrol_class, len(view.classes), self.protocol.seed)

    # Judging

    def judge(self, anonymized: Measurements) -> Judgement:
        """All metrics of one trial.

        Args:
            anonymized: measurements of the anonymized faces, rows as in the table; the same models as the clear ones.

        Raises:
            DataError: they do not fit the table, a model is missing, or values are not finite.
        """
        self._check(anonymized, "anonymized faces")
        missing = [
            f"anonymized faces: no {group} of {name}"
            for group, wanted, given in (
                ("embeddings", self._clear, anonymized.embeddings),
                ("probabilities", self._clear_probabilities, anonymized.probabilities),
            )
            for name in wanted
            if name not in given
        ]
        if missing:
            raise DataError("\n".join(missing))
        faces = {name: Embeddings.of(anonymized.embeddings[name], name) for name in self._clear}
        metrics, rows = self._privacy(faces)
        metrics |= self._verification(faces)
        metrics |= self._utility(anonymized)
        metrics |= self._realism(anonymized)
        metrics["legacy/privacy"] = self._legacy_privacy(metrics, rows)
        return Judgement(metrics, rows)

    def _privacy(self, faces: Mapping[str, Embeddings]) -> tuple[dict[str, MetricValue], list[dict[str, Any]]]:
        outcomes: dict[tuple[str, str, str], _Outcome] = {}
        advantage: dict[tuple[str, str, str], Estimate] = {}
        pairs = [(each, name) for each in self.attackers for name in self._clear]
        for each, name in pairs:
            for role in ("S", "E"):
                key = (role, each.id, name)
                outcomes[key] = self._attack(each, role, self._views[role, name].with_anonymized(faces[name]))
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
        why = self._why_not("E")
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
            remark = "" if selected_on == "S" else f"attacker chosen on E: {self._why_not('S') or 'none usable on S'}"
            worst = outcomes[("E", *chosen)].sums
            if worst is None:
                raise DataError(f"attacker {chosen[0]} has an advantage but no result on role E")
            metrics["privacy"] = _complement(advantage[("E", *chosen)], remark).metric(self.plan)
            metrics["privacy/rank1"] = worst.standard(self.plan).metric(self.plan)
            metrics["privacy/rank1_full"] = worst.rank(1, self.plan).metric(self.plan)
            metrics["privacy/rank1_micro"] = worst.rank_micro(1, self.plan).metric(self.plan)
            metrics["privacy/rank5"] = worst.rank(5, self.plan).metric(self.plan)
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
            ).metric(self.plan)
            metrics["selection/privacy"] = (
                _complement(advantage[("S", *chosen)]).metric(self.plan)
                if selected_on == "S"
                else MetricValue.undefined(f"no attacker usable on role S: {self._why_not('S') or 'all vacuous'}")
            )
        metrics |= self._naive(advantage, outcomes, empty, chosen, why)
        rows = [
            self._row(each, name, outcomes, advantage, empty[each.id, name], (each.id, name) == chosen, selected_on)
            for each, name in pairs
        ]
        return metrics, rows + self._control_rows(faces)

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
            for name in self._clear
            if ("E", NAIVE, name) in advantage
            and not math.isnan(advantage["E", NAIVE, name].value)
            and not empty[NAIVE, name]
        ]
        if not naive:
            ran = any(key[1] == NAIVE for key in outcomes)
            reason = self._why_not("E") or (
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
            "privacy/naive": weakest.metric(self.plan),
            "privacy/naive_rank1": outcomes["E", NAIVE, name].rank1(self.plan).metric(self.plan),
        }
        if chosen is None:
            return metrics | {"privacy/gap": MetricValue.undefined(why)}
        strongest = _complement(advantage[("E", *chosen)])
        gap = Estimate(
            weakest.value - strongest.value, weakest.samples - strongest.samples, strongest.n, strongest.n_ids
        )
        return metrics | {"privacy/gap": gap.metric(self.plan)}

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
            attacked = outcomes[key].rank1(self.plan).metric(self.plan)
            row |= {
                f"gallery_{role}": self.gallery[role],
                f"rank1_{role}": _rounded(attacked.value),
                f"clear_{role}": _rounded(self._controls[key].rank1(self.plan).value),
                f"advantage_{role}": _rounded(advantage[key].value),
            }
            if role == "E":
                row |= {"rank1_E_lo": _rounded(attacked.lo), "rank1_E_hi": _rounded(attacked.hi)}
        reason = advantage["E", each.id, embedder].reason
        row["status"] = "vacuous" if vacuous else "undefined" if reason else "ok"
        row["reason"] = vacuous or reason
        return row

    def _control_rows(self, faces: Mapping[str, Embeddings]) -> list[dict[str, Any]]:
        """Null (labels permuted within enrolment, per embedder) and random embeddings, on E: both must be at chance."""
        if not self.protocol.controls or self._why_not("E"):
            return []
        lazy = attacker("A1")
        runs = [
            ("null", name, self._attack(lazy, "E", null_control(self._views["E", name].with_anonymized(rows))))
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
                "gallery_E": self.gallery["E"],
                "rank1_E": _rounded(found.value),
                "rank1_E_lo": _rounded(found.lo),
                "rank1_E_hi": _rounded(found.hi),
                "status": "ok",
                "reason": f"chance is {1 / self.gallery['E']:.4f}",
            }
            for control, name, outcome in runs
            for found in [outcome.rank1(self.plan).metric(self.plan)]
        ]

    def _verification(self, faces: Mapping[str, Embeddings]) -> dict[str, MetricValue]:
        """AUC, EER, d' and TAR of the worst embedder (chosen on S by AUC where S has people)."""
        fars = [f"privacy/tar_at_far_{far}{kind}" for far in FARS for kind in ("", "_deployed")]
        names = ["privacy/auc", "privacy/eer", "privacy/dprime", "privacy/auc_naive", "privacy/eer_naive", *fars]
        why = self._why_not("E")
        if why:
            return {name: MetricValue.undefined(why) for name in names}
        role = "E" if self._why_not("S") else "S"
        chosen_by = {name: self._pairs(role, name, rows, rows) for name, rows in faces.items()}
        worst = max(chosen_by, key=lambda name: round(_auc_or_half(chosen_by[name]), 9))
        rows = faces[worst]
        metrics: dict[str, MetricValue] = {}
        sides = {"": rows, "_naive": self._clear[worst]}
        evaluated = {suffix: self._pairs("E", worst, enrol, rows) for suffix, enrol in sides.items()}
        for suffix, found in evaluated.items():
            if found is not None:
                metrics |= {
                    f"privacy/{name}{suffix}": value.metric(self.plan)
                    for name, value in found.estimates(self.plan).items()
                }
        linked = evaluated[""]
        reference = {"": chosen_by[worst], "_deployed": self._clear_impostors[worst]}
        if linked is None:
            return metrics
        spread = linked.dprime()
        metrics["privacy/dprime"] = (
            MetricValue.undefined("zero variance of the scores", linked.scores.size)
            if math.isnan(spread)
            else MetricValue(spread, n=linked.scores.size, n_ids=linked.people, reason="no interval")
        )
        for kind, source in reference.items():
            for label, far in FARS.items():
                name = f"privacy/tar_at_far_{label}{kind}"
                impostors = np.empty(0, np.float32) if source is None else source.impostor
                if len(impostors) * far < RULE_OF_30:
                    metrics[name] = MetricValue.undefined(
                        f"rule of 30: {len(impostors)} impostor pairs are too few for a false accept rate of {label}"
                    )
                    continue
                threshold = threshold_at_far(impostors, far, ordered=True)
                metrics[name] = linked.accepted(threshold, self.plan).metric(self.plan)
                metrics[f"privacy/far_at_{label}{kind}"] = MetricValue(
                    false_match_rate(linked.impostor, threshold),
                    n=len(linked.impostor),
                    n_ids=linked.people,
                    reason="no interval: false accept rate reached on E",
                )
        return metrics

    def _expression(self, role: str, clear: FloatArray, anonymized: FloatArray) -> ExpressionSums:
        rows = self._rows(role)
        return ExpressionSums.start(clear.shape[1]).update(
            clear[rows], anonymized[rows], clusters(self.table.identity[rows], rows), self.table.expression[rows]
        )

    def _utility(self, anonymized: Measurements) -> dict[str, MetricValue]:
        metrics: dict[str, MetricValue] = {}
        names = ("utility", "recall", "match", "kappa", "kl_exp", "js", "tv", "legacy")
        labelled = ("accuracy", "accuracy_clear", "uar", "uar_clear", "f1", "f1_clear", "retention")

        def key(name: str) -> str:
            return {"utility": "utility", "legacy": "legacy/consistency"}.get(name, f"utility/{name}")

        if not self._clear_probabilities:
            reason = "no expression model"
            nothing = {key(name): MetricValue.undefined(reason) for name in (*names, *labelled)}
            return nothing | {
                name: MetricValue.undefined(reason) for name in ("utility/js_corrected", "selection/utility")
            }
        per_model = {
            name: self._expression("E", clear, anonymized.probabilities[name]).compute(
                self.plan, self.protocol.minimum_support
            )
            for name, clear in self._clear_probabilities.items()
        }
        for name in (*names, *labelled):
            metrics[key(name)] = mean_of({model: found[name] for model, found in per_model.items()}).metric(self.plan)
        for model, found in per_model.items():
            for name in ("utility", "recall", "match", "js", "accuracy", "accuracy_clear"):
                metrics[f"utility/{model}" if name == "utility" else f"utility/{model}/{name}"] = found[name].metric(
                    self.plan
                )
        metrics["utility/js_corrected"] = self._null_corrected(anonymized)
        on_s = {
            name: self._expression("S", clear, anonymized.probabilities[name]).compute(
                self.plan, self.protocol.minimum_support
            )["utility"]
            for name, clear in self._clear_probabilities.items()
        }
        metrics["selection/utility"] = mean_of(on_s).metric(self.plan)
        return metrics

    def _null_corrected(self, anonymized: Measurements) -> MetricValue:
        rows = self._rows("E")
        if not len(rows):
            return MetricValue.undefined("no images")
        values = []
        for name, clear in self._clear_probabilities.items():
            _, p = decisions(clear[rows])
            _, q = decisions(anonymized.probabilities[name][rows])
            values.append(null_corrected(js_similarity, p, q, np.random.default_rng([self.protocol.seed, 3])))
        if any(math.isnan(value) for value in values):
            return MetricValue.undefined("all clear faces get the same answer", len(rows))
        people = len(np.unique(clusters(self.table.identity[rows], rows)))
        return MetricValue(float(np.mean(values)), n=len(rows), n_ids=people, reason="no interval: permutation null")

    def _realism(self, anonymized: Measurements) -> dict[str, MetricValue]:
        rows = self._rows("E")
        cluster = clusters(self.table.identity[rows], rows)
        metrics = {}
        for name in dict.fromkeys((*REALISM, *anonymized.realism)):
            values = anonymized.realism.get(name)
            if values is None:
                metrics[f"realism/{name}"] = MetricValue.undefined(
                    "no perceptual network: its weights are not here" if name == "lpips" else "not measured"
                )
                continue
            usable = np.isfinite(values[rows])
            if not usable.any():
                metrics[f"realism/{name}"] = MetricValue.undefined("no image has a value", len(rows))
                continue
            sums = ClusterSums.of(cluster[usable], values[rows][usable].astype(np.float64)[:, None])
            missing = int((~usable).sum())
            metrics[f"realism/{name}"] = sums.mean(
                0, self.plan, f"{missing} images without a value left out" if missing else ""
            ).metric(self.plan)
        return metrics

    def _legacy_privacy(self, metrics: Mapping[str, MetricValue], rows: list[dict[str, Any]]) -> MetricValue:
        """clip(1 - max(top-1, adaptive, AUC), 0, 1): for comparison with older numbers, not for ranking."""
        parts = [row["rank1_E"] for row in rows if not row["control"] and row["attacker"] in ("A0", "A3")]
        numbers = [part for part in parts if part is not None] + [
            metrics[name].value for name in ("privacy/auc_naive",) if metrics[name].ok
        ]
        if not numbers or not metrics["privacy/auc_naive"].ok:
            return MetricValue.undefined(metrics["privacy/auc_naive"].reason or "no attack could run")
        found = metrics["privacy/auc_naive"]
        return MetricValue(
            float(np.clip(1 - max(numbers), 0.0, 1.0)),
            n=found.n,
            n_ids=found.n_ids,
            reason="no interval: for comparison only",
        )

    # The clear faces

    def clear_summary(self) -> dict[str, MetricValue]:
        """What the judging models can do on clear faces of role E, to be printed beside the front.

        Returns:
            `clear/rank1` and `clear/accuracy` (best embedder, mean model), and per model `clear/<embedder>/rank1`, `.../rank1_full`,
            `.../auc`, `clear/<model>/accuracy`, `.../uar`.
        """
        return dict(self._summary())

    def _summary(self) -> Iterator[tuple[str, MetricValue]]:
        found = {}
        for name, rows in self._clear.items():
            outcome = self._backbone["E", name]
            found[name] = outcome.rank1(self.plan)
            yield f"clear/{name}/rank1", found[name].metric(self.plan)
            full = (
                Estimate(math.nan, reason=outcome.reason) if outcome.sums is None else outcome.sums.rank(1, self.plan)
            )
            yield f"clear/{name}/rank1_full", full.metric(self.plan)
            pairs = self._pairs("E", name, rows, rows)
            area = Estimate(math.nan, reason=outcome.reason) if pairs is None else pairs.estimates(self.plan)["auc"]
            yield f"clear/{name}/auc", area.metric(self.plan)
        defined = [item for item in found.values() if not math.isnan(item.value)]
        yield (
            "clear/rank1",
            max(defined, key=lambda item: item.value).metric(self.plan)
            if defined
            else MetricValue.undefined(self._why_not("E") or "no embedder"),
        )
        models = {
            name: sums.compute(self.plan, self.protocol.minimum_support)
            for name, sums in self._clear_expression["E"].items()
        }
        for name, scores in models.items():
            yield f"clear/{name}/accuracy", scores["accuracy_clear"].metric(self.plan)
            yield f"clear/{name}/uar", scores["uar_clear"].metric(self.plan)
        yield (
            "clear/accuracy",
            mean_of({name: scores["accuracy_clear"] for name, scores in models.items()}).metric(self.plan)
            if models
            else MetricValue.undefined("no expression model"),
        )


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


def _auc_or_half(pairs: PairScores | None) -> float:
    value = math.nan if pairs is None else pairs.auc()
    return 0.5 if math.isnan(value) else value
