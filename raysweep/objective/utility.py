"""Does the face still show what it expressed? The same models on both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.metrics.expression import ExpressionSums, decisions, js_similarity, null_corrected
from raysweep.metrics.uncertainty import clusters, mean_of
from raysweep.metrics.value import MetricValue
from raysweep.objective.ground import Ground
from raysweep.objective.protocol import Part
from raysweep.schema import FloatArray, Measurements

__all__ = ["Utility"]


class Utility:
    """Answers of the expression models on the clear faces.

    Args:
        ground: labels and intervals.
        clear: per model (N, K) probabilities of the clear faces.
    """

    def __init__(self, ground: Ground, clear: Mapping[str, FloatArray]) -> None:
        self.ground = ground
        self.clear = dict(clear)

    def sums(self, role: str, clear: FloatArray, anonymized: FloatArray) -> ExpressionSums:
        """Counts of one model on one role."""
        rows = self.ground.rows(role)
        return ExpressionSums.start(clear.shape[1]).update(
            clear[rows],
            anonymized[rows],
            clusters(self.ground.table.identity[rows], rows),
            self.ground.table.expression[rows],
        )

    def counted(self, role: str, anonymized: Measurements) -> dict[str, ExpressionSums]:
        """Counts of each model on one role."""
        return {model: self.sums(role, clear, anonymized.probabilities[model]) for model, clear in self.clear.items()}

    def judge(self, anonymized: Measurements, on_e: Mapping[str, ExpressionSums]) -> Part:
        """Utility and the scores beside it, the mean over models and per model.

        Args:
            anonymized: measurements of the anonymized faces.
            on_e: `counted("E", anonymized)`.
        """
        metrics: dict[str, MetricValue] = {}
        names = ("utility", "recall", "match", "kappa", "kl_exp", "js", "tv", "legacy")
        labelled = ("accuracy", "accuracy_clear", "uar", "uar_clear", "f1", "f1_clear", "retention")

        def key(name: str) -> str:
            return {"utility": "utility", "legacy": "legacy/consistency"}.get(name, f"utility/{name}")

        if not self.clear:
            reason = "no expression model"
            nothing = {key(name): MetricValue.undefined(reason) for name in (*names, *labelled)}
            return Part(
                nothing
                | {name: MetricValue.undefined(reason) for name in ("utility/js_corrected", "selection/utility")}
            )
        per_model = {
            name: sums.compute(self.ground.plan, self.ground.protocol.minimum_support) for name, sums in on_e.items()
        }
        means = {
            name: mean_of({model: found[name] for model, found in per_model.items()}) for name in (*names, *labelled)
        }
        metrics |= {key(name): found.metric(self.ground.plan) for name, found in means.items()}
        for model, found in per_model.items():
            for name in ("utility", "recall", "match", "js", "accuracy", "accuracy_clear"):
                metrics[f"utility/{model}" if name == "utility" else f"utility/{model}/{name}"] = found[name].metric(
                    self.ground.plan
                )
        metrics["utility/js_corrected"] = self._null_corrected(anonymized)
        on_s = {
            name: sums.compute(self.ground.plan, self.ground.protocol.minimum_support)["utility"]
            for name, sums in self.counted("S", anonymized).items()
        }
        metrics["selection/utility"] = mean_of(on_s).metric(self.ground.plan)
        evidence: dict[str, npt.NDArray[Any]] = {"draws/utility": means["utility"].samples.astype(np.float32)}
        return Part(metrics, evidence | self._decisions(anonymized))

    def _decisions(self, anonymized: Measurements) -> dict[str, npt.NDArray[Any]]:
        """`expression/<role>/<model>/clear|anonymized` (N,) int8: the class on each side in the order of the role's rows, K for none."""
        return {
            f"expression/{role}/{model}/{side}": decisions(table[self.ground.rows(role)])[0].astype(np.int8)
            for role in ("S", "E")
            for model, clear in self.clear.items()
            for side, table in (("clear", clear), ("anonymized", anonymized.probabilities[model]))
        }

    def _null_corrected(self, anonymized: Measurements) -> MetricValue:
        rows = self.ground.rows("E")
        if not len(rows):
            return MetricValue.undefined("no images")
        values = []
        for name, clear in self.clear.items():
            _, p = decisions(clear[rows])
            _, q = decisions(anonymized.probabilities[name][rows])
            values.append(null_corrected(js_similarity, p, q, np.random.default_rng([self.ground.protocol.seed, 3])))
        if any(math.isnan(value) for value in values):
            return MetricValue.undefined("all clear faces get the same answer", len(rows))
        people = len(np.unique(clusters(self.ground.table.identity[rows], rows)))
        return MetricValue(float(np.mean(values)), n=len(rows), n_ids=people, reason="no interval: permutation null")
