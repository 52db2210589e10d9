"""The referee: from measured faces to (privacy, utility) and everything beside them.

Privacy is one minus the advantage of the worst attacker: the attacker is *chosen* on the people of role S and *reported* on those of role E,
each measured against what the same attacker can do on clear faces. Utility is the chance-corrected share of faces that keep
their expression. Both are in [0, 1], higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.attackers import Embeddings
from raysweep.errors import DataError
from raysweep.metrics.expression import calibration_error
from raysweep.metrics.uncertainty import Estimate, clusters, mean_of
from raysweep.metrics.value import MetricValue
from raysweep.objective.attacks import Remember
from raysweep.objective.ground import Ground
from raysweep.objective.leaks import Leaks
from raysweep.objective.privacy import Privacy, ranks_of
from raysweep.objective.protocol import Judgement, Protocol
from raysweep.objective.realism import realism
from raysweep.objective.slices import group_members, slices
from raysweep.objective.utility import Utility
from raysweep.objective.verification import Verification
from raysweep.schema import FaceTable, Measurements

__all__ = ["Referee"]


class Referee:
    """Judges trials against one set of clear faces. Making it computes what no trial changes; `judge` may then be called from any thread.

    Args:
        table: labels of the N faces.
        clear: measurements of the clear faces, rows as in `table`.
        protocol: how to judge.
        remember: where what attackers learn on clear faces is stored, see `attacks.Remember`; None learns it anew.

    Raises:
        ConfigError: unknown attacker or setting.
        DataError: measurements that do not fit the table, or are not finite.
    """

    def __init__(
        self,
        table: FaceTable,
        clear: Measurements,
        protocol: Protocol | None = None,
        remember: Remember | None = None,
    ) -> None:
        self.protocol = protocol or Protocol()
        self._check(table, clear, "clear faces")
        self.ground = Ground(table, clear.embeddings, self.protocol)
        self.privacy = Privacy(self.ground, _extra(clear), remember)
        self.verification = Verification(self.ground)
        self.leaks = Leaks(self.ground)
        self.utility = Utility(self.ground, clear.probabilities)
        self._members = group_members(self.ground)
        self._clear = clear

    # What is fixed

    def _check(self, table: FaceTable, measured: Measurements, what: str) -> None:
        """Raise one error with everything that does not fit."""
        problems = []
        groups = {
            "embeddings": measured.embeddings,
            "probabilities": measured.probabilities,
            "realism": measured.realism,
            **{f"embeddings ({what})": models for what, models in measured.extra.items()},
            "features": measured.features,
        }
        for group, models in groups.items():
            for name, rows in models.items():
                if len(rows) != len(table):
                    problems.append(f"{what}, {group} of {name}: {len(rows)} rows for {len(table)} faces")
                    continue
                if group in ("realism", "features"):  # NaN where nobody measured
                    continue
                bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
                if len(bad):
                    shown = ", ".join(table.face_id[bad[:3]].tolist())
                    problems.append(
                        f"{what}, {group} of {name}: not finite in {len(bad)} rows ({shown}{', ...' if len(bad) > 3 else ''}); "
                        "a face without a result must be all zero"
                    )
        if problems:
            raise DataError("\n".join(problems))

    # Judging

    def judge(self, anonymized: Measurements, known: Collection[str] = ()) -> Judgement:
        """All metrics of one trial.

        Args:
            anonymized: measurements of the anonymized faces, rows as in the table; the same models as the clear ones.
            known: embedders that the anonymizer was trained with, or relatives of theirs.

        Raises:
            DataError: they do not fit the table, a model is missing, or values are not finite.
        """
        self._check(self.ground.table, anonymized, "anonymized faces")
        missing = [
            f"anonymized faces: no {group} of {name}"
            for group, wanted, given in (
                ("embeddings", self.ground.clear, anonymized.embeddings),
                ("probabilities", self.utility.clear, anonymized.probabilities),
            )
            for name in wanted
            if name not in given
        ]
        if missing:
            raise DataError("\n".join(missing))
        faces = {name: Embeddings.of(anonymized.embeddings[name], name) for name in self.ground.clear}
        attacked = self.privacy.judge(faces, _extra(anonymized), anonymized.absent, known)
        metrics, rows, evidence = attacked.metrics, attacked.rows, attacked.evidence
        on_e = self.utility.counted("E", anonymized)
        for part in (
            self.verification.judge(faces),
            self.leaks.judge(faces, attacked),
            self.utility.judge(anonymized, on_e),
        ):
            metrics |= part.metrics
            evidence |= part.evidence
        metrics |= slices(self.ground, self._members, attacked.worst, on_e)
        metrics |= realism(self.ground, self._clear, anonymized)
        metrics["legacy/privacy"] = self._legacy_privacy(metrics, rows)
        return Judgement(metrics, rows, evidence)

    def common_evidence(self) -> dict[str, npt.NDArray[Any]]:
        """Labels that the evidence of all trials shares, from which ranks and decisions can be counted again; no faces, no names.

        Returns:
            `rank/<role>/class` (P,) int32: true column of each probe, and `rank/<role>/gallery` (2,) int32: enrolled people and q;
            `expression/<role>/identity` (N,) int32: who is resampled together, a negative number for a face without identity;
            `expression/<role>/label` (N,) int8: true class, -1 unknown;
            `clear/<role>/<attacker>/<embedder>/above|equal`: ranks of each attacker on clear faces, which its advantage is measured against.
        """
        found: dict[str, npt.NDArray[Any]] = {}
        for role in ("S", "E"):
            if self.ground.clear and not self.ground.why_not(role):
                view = next(view for (side, _), view in self.ground.views.items() if side == role)
                found[f"rank/{role}/class"] = view.probe_class.astype(np.int32)
                found[f"rank/{role}/gallery"] = np.array([len(view.classes), self.ground.gallery[role]], np.int32)
            rows = self.ground.rows(role)
            found[f"expression/{role}/identity"] = clusters(self.ground.table.identity[rows], rows).astype(np.int32)
            found[f"expression/{role}/label"] = self.ground.table.expression[rows].astype(np.int8)
        clear = ranks_of(self.privacy.attacks.clear)
        return found | {name.replace("rank/", "clear/", 1): ranks for name, ranks in clear.items()}

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
            `.../auc`, `clear/<model>/accuracy`, `.../uar`, `.../calibration` (its calibration error, which sharp answers raise).
        """
        return dict(self._summary())

    def _summary(self) -> Iterator[tuple[str, MetricValue]]:
        found = {}
        for name, rows in self.ground.clear.items():
            outcome = self.privacy.backbone["E", name]
            found[name] = outcome.rank1(self.ground.plan)
            yield f"clear/{name}/rank1", found[name].metric(self.ground.plan)
            full = (
                Estimate(math.nan, reason=outcome.reason)
                if outcome.sums is None
                else outcome.sums.rank(1, self.ground.plan)
            )
            yield f"clear/{name}/rank1_full", full.metric(self.ground.plan)
            pairs = self.verification.pairs("E", name, rows, rows)
            area = (
                Estimate(math.nan, reason=outcome.reason) if pairs is None else pairs.compute(self.ground.plan)["auc"]
            )
            yield f"clear/{name}/auc", area.metric(self.ground.plan)
        defined = [item for item in found.values() if not math.isnan(item.value)]
        yield (
            "clear/rank1",
            max(defined, key=lambda item: item.value).metric(self.ground.plan)
            if defined
            else MetricValue.undefined(self.ground.why_not("E") or "no embedder"),
        )
        models = {
            name: self.utility.sums("E", rows, rows).compute(self.ground.plan, self.protocol.minimum_support)
            for name, rows in self.utility.clear.items()
        }
        for name, scores in models.items():
            yield f"clear/{name}/accuracy", scores["accuracy_clear"].metric(self.ground.plan)
            yield f"clear/{name}/uar", scores["uar_clear"].metric(self.ground.plan)
            yield f"clear/{name}/calibration", self._calibration(name)
        yield (
            "clear/accuracy",
            mean_of({name: scores["accuracy_clear"] for name, scores in models.items()}).metric(self.ground.plan)
            if models
            else MetricValue.undefined("no expression model"),
        )

    def _calibration(self, model: str) -> MetricValue:
        rows = self.ground.rows("E")
        label = self.ground.table.expression[rows]
        value = calibration_error(self.utility.clear[model][rows], label)
        people = len(np.unique(clusters(self.ground.table.identity[rows], rows)))
        if math.isnan(value):
            return MetricValue.undefined("no expression labels", len(rows), people)
        return MetricValue(
            value, n=int((label >= 0).sum()), n_ids=people, reason="no interval: a binned estimate is biased"
        )


def _extra(measured: Measurements) -> dict[str, dict[str, Embeddings]]:
    return {
        what: {name: Embeddings.of(rows, f"{name} ({what})") for name, rows in models.items()}
        for what, models in measured.extra.items()
    }
