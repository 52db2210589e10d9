"""Are two faces the same person? Scores of all pairs, on the embedder that links best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.attackers import Embeddings
from raysweep.attackers.base import cosine
from raysweep.metrics.value import MetricValue
from raysweep.metrics.verification import (
    RULE_OF_30,
    PairScores,
    false_match_rate,
    roc,
    rule_of_3,
    threshold_at_far,
)
from raysweep.objective.ground import Ground
from raysweep.objective.protocol import Part

__all__ = ["Verification"]

FARS = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3}
NAMES = {"auc": "privacy/auc", "eer": "privacy/eer", "linkability": "leak/linkability"}
ADVANTAGE = "privacy/auc_advantage"


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
        return None if self.ground.why_not(role) else self._pairs(role, embedder, enrol, probe)

    def judge(self, faces: Mapping[str, Embeddings]) -> Part:
        """AUC, EER, d', linkability and TAR of the worst embedder (chosen on S by AUC where S has people).

        Two kinds of pairs are told apart: anonymized against anonymized, which links releases (of pseudonyms, say), and anonymized against
        clear (`_naive`), which tells who it was.
        """
        fars = [f"privacy/tar_at_far_{far}{kind}" for far in FARS for kind in ("", "_deployed")]
        named = [f"{name}{suffix}" for suffix in ("", "_naive") for name in NAMES.values()]
        why = self.ground.why_not("E")
        if why:
            return Part({name: MetricValue.undefined(why) for name in (*named, "privacy/dprime", ADVANTAGE, *fars)})
        linked = {name: self._pairs("E", name, rows, rows) for name, rows in faces.items()}
        chosen_by = (
            linked
            if self.ground.why_not("S")
            else {name: self._pairs("S", name, rows, rows) for name, rows in faces.items()}
        )
        worst = max(chosen_by, key=lambda name: round(_auc_or_half(chosen_by[name]), 9))
        metrics: dict[str, MetricValue] = {}
        sides = {"": linked[worst], "_naive": self._pairs("E", worst, self.ground.clear[worst], faces[worst])}
        for suffix, pairs in sides.items():
            found = pairs.compute(self.ground.plan)
            metrics |= {f"{name}{suffix}": found[key].metric(self.ground.plan) for key, name in NAMES.items()}
            if not suffix:
                metrics["privacy/dprime"] = found["dprime"].metric(self.ground.plan)
                area = found["auc"]
                over = replace(area, value=max(0.0, 2 * area.value - 1), samples=np.maximum(0.0, 2 * area.samples - 1))
                metrics[ADVANTAGE] = (over if math.isfinite(area.value) else area).metric(self.ground.plan)
        for kind, source in (("", chosen_by[worst]), ("_deployed", self._clear_impostors[worst])):
            if source is not None:
                metrics |= self._accepted(linked[worst], kind, source)
        return Part(metrics, self._curves(linked))

    def _accepted(self, linked: PairScores, kind: str, reference: PairScores) -> dict[str, MetricValue]:
        """TAR at each false accept rate with the threshold of `reference` impostors, and the rate that it reaches on E."""
        metrics: dict[str, MetricValue] = {}
        for label, far in FARS.items():
            name = f"privacy/tar_at_far_{label}{kind}"
            impostors = reference.impostor
            if len(impostors) * far < RULE_OF_30:
                metrics[name] = MetricValue.undefined(
                    f"rule of 30: {len(impostors)} impostor pairs are too few for a false accept rate of {label}"
                )
                continue
            threshold = threshold_at_far(impostors, far, ordered=True)
            metrics[name] = linked.accepted(threshold, self.ground.plan).metric(self.ground.plan)
            reached, count = false_match_rate(linked.impostor, threshold), len(linked.impostor)
            metrics[f"privacy/far_at_{label}{kind}"] = MetricValue(
                reached,
                lo=math.nan if reached else 0.0,
                hi=math.nan if reached else rule_of_3(count),
                n=count,
                n_ids=linked.people,
                reason="no interval: false accept rate reached on E" if reached else "none seen: rule of 3 over pairs",
            )
        return metrics

    def _curves(self, linked: Mapping[str, PairScores]) -> dict[str, npt.NDArray[Any]]:
        """`roc/<embedder>/fmr|fnmr`: at most 200 points on E, anonymized against anonymized."""
        evidence: dict[str, npt.NDArray[Any]] = {}
        for name, pairs in linked.items():
            curves = roc(pairs.genuine, pairs.impostor, ordered=True)
            evidence |= {
                f"roc/{name}/{axis}": curve.astype(np.float32)
                for axis, curve in zip(("fmr", "fnmr"), curves, strict=True)
            }
        return evidence

    def _pairs(self, role: str, embedder: str, enrol: Embeddings, probe: Embeddings) -> PairScores:
        """The same as `pairs` for a role in which people can be compared."""
        view = self.ground.views[role, embedder]
        scores = cosine(probe.take(view.probe), enrol.take(view.enrol))
        return PairScores(scores, view.probe_class, view.enrol_class, len(view.classes), self.ground.protocol.seed)


def _auc_or_half(pairs: PairScores) -> float:
    value = pairs.auc()
    return 0.5 if math.isnan(value) else value
