"""Are two faces the same person? Scores of all pairs, on the embedder that links best."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from raysweep.attackers import Embeddings
from raysweep.attackers.base import cosine
from raysweep.metrics.value import MetricValue
from raysweep.metrics.verification import RULE_OF_30, PairScores, false_match_rate, threshold_at_far
from raysweep.objective.ground import Ground

__all__ = ["Verification"]

FARS = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3}


class Verification:
    """Pairs of enrolled and probed faces.

    Args:
        ground: the clear side.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._clear_impostors = {
            name: self.pairs("S" if ground.gallery["S"] else "E", name, rows, rows)
            for name, rows in ground.clear.items()
        }

    def pairs(self, role: str, embedder: str, enrol: Embeddings, probe: Embeddings) -> PairScores | None:
        """Scores of all (probe, enrolled) pairs of a role; None when nobody can be compared there."""
        if self.ground.why_not(role):
            return None
        view = self.ground.views[role, embedder]
        scores = cosine(probe.take(view.probe), enrol.take(view.enrol))
        return PairScores(scores, view.probe_class, view.enrol_class, len(view.classes), self.ground.protocol.seed)

    def judge(self, faces: Mapping[str, Embeddings]) -> dict[str, MetricValue]:
        """AUC, EER, d' and TAR of the worst embedder (chosen on S by AUC where S has people)."""
        fars = [f"privacy/tar_at_far_{far}{kind}" for far in FARS for kind in ("", "_deployed")]
        names = ["privacy/auc", "privacy/eer", "privacy/dprime", "privacy/auc_naive", "privacy/eer_naive", *fars]
        why = self.ground.why_not("E")
        if why:
            return {name: MetricValue.undefined(why) for name in names}
        role = "E" if self.ground.why_not("S") else "S"
        chosen_by = {name: self.pairs(role, name, rows, rows) for name, rows in faces.items()}
        worst = max(chosen_by, key=lambda name: round(_auc_or_half(chosen_by[name]), 9))
        rows = faces[worst]
        metrics: dict[str, MetricValue] = {}
        sides = {"": rows, "_naive": self.ground.clear[worst]}
        evaluated = {suffix: self.pairs("E", worst, enrol, rows) for suffix, enrol in sides.items()}
        for suffix, found in evaluated.items():
            if found is not None:
                metrics |= {
                    f"privacy/{name}{suffix}": value.metric(self.ground.plan)
                    for name, value in found.estimates(self.ground.plan).items()
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
                metrics[name] = linked.accepted(threshold, self.ground.plan).metric(self.ground.plan)
                metrics[f"privacy/far_at_{label}{kind}"] = MetricValue(
                    false_match_rate(linked.impostor, threshold),
                    n=len(linked.impostor),
                    n_ids=linked.people,
                    reason="no interval: false accept rate reached on E",
                )
        return metrics


def _auc_or_half(pairs: PairScores | None) -> float:
    value = math.nan if pairs is None else pairs.auc()
    return 0.5 if math.isnan(value) else value
