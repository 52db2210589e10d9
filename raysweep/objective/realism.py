"""How far a released face is from the clear one, and how real it looks: never utility, but a third axis.

The third axis is R = detection rate x exp(-max(0, KID) / 0.05), with the KID of Inception features.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from raysweep.metrics.distribution import FeaturePairs
from raysweep.metrics.uncertainty import Estimate, MeanSums, clusters
from raysweep.metrics.value import MetricValue
from raysweep.objective.ground import Ground
from raysweep.schema import FloatArray, Measurements

__all__ = ["realism"]

REALISM = ("psnr", "ssim", "lpips")
DETECTED = "detected"
KID_SCALE = 0.05
MISSING = {
    "inception": "no inception network at hand: inception_v3_google-0cc3c7bd.pth is not among the models",
    "expression": "no torch expression model at hand, and one in ONNX gives no features",
    "lpips": "no perceptual network at hand: alexnet-owt-7be5be79.pth is not among the models",
}
"""Why there is no number."""
NETWORKS = {"inception": "", "expression": "_expression"}
"""Ending of the metric's name: values of different networks are not comparable, plain KID and FID are those of Inception."""


def realism(ground: Ground, clear: Measurements, anonymized: Measurements) -> dict[str, MetricValue]:
    """Mean of each realism score over the faces of E, distances between the two sets, detection, and the third axis.

    Args:
        ground: labels and intervals.
        clear: features, and which faces a detector finds, on the clear side.
        anonymized: the same and the scores per image on the anonymized side.
    """
    metrics = {}
    for name in REALISM:
        reason = MISSING.get(name, "not measured")
        metrics[f"realism/{name}"] = _mean(ground, anonymized.realism.get(name), reason).metric(ground.plan)
    metrics |= _distances(ground, clear, anonymized)
    metrics |= _detection(ground, clear.realism.get(DETECTED), anonymized.realism.get(DETECTED))
    metrics["realism/axis"] = _axis(metrics["realism/detection"], metrics["realism/kid"])
    return metrics


def _mean(ground: Ground, values: FloatArray | None, reason: str, share: bool = False) -> Estimate:
    """Mean over the faces of E that have a value, people resampled."""
    if values is None:
        return Estimate(math.nan, reason=reason)
    rows = ground.rows("E")
    cluster = clusters(ground.table.identity[rows], rows)
    return MeanSums.start(share).update(values[rows], cluster).compute(ground.plan)["mean"]


def _distances(ground: Ground, clear: Measurements, anonymized: Measurements) -> dict[str, MetricValue]:
    """`realism/kid` and `realism/fid` by Inception, the same with `_expression` by the expression judge."""
    found: dict[str, MetricValue] = {}
    rows = ground.rows("E")
    for network, ending in NETWORKS.items():
        sides = clear.features.get(network), anonymized.features.get(network)
        if sides[0] is None or sides[1] is None:
            found |= {f"realism/{name}{ending}": MetricValue.undefined(MISSING[network]) for name in ("kid", "fid")}
            continue
        used = rows[np.isfinite(sides[0][rows]).all(axis=1) & np.isfinite(sides[1][rows]).all(axis=1)]
        pairs = FeaturePairs.start(sides[0].shape[1]).update(used, sides[0][used], sides[1][used])
        people = len(np.unique(clusters(ground.table.identity[used], used)))
        for name, estimate in pairs.compute(ground.plan).items():
            found[f"realism/{name}{ending}"] = replace(estimate, n_ids=people).metric(ground.plan)
    return found


def _detection(ground: Ground, clear: FloatArray | None, anonymized: FloatArray | None) -> dict[str, MetricValue]:
    """Of the faces that the detector finds in the clear, how many it still finds; and the share it finds nothing in."""
    reason = "no detector of such faces at hand"
    if clear is None or anonymized is None:
        return {name: MetricValue.undefined(reason) for name in ("realism/detection", "privacy/fta")}
    kept = np.where(clear == 1, anonymized, np.nan)
    why = "the detector finds no clear face"
    return {
        "realism/detection": replace(_mean(ground, kept, reason, share=True), reason="").metric(ground.plan)
        if np.isfinite(kept[ground.rows("E")]).any()
        else MetricValue.undefined(why),
        "privacy/fta": replace(_mean(ground, 1 - anonymized, reason, share=True), reason="").metric(ground.plan),
    }


def _axis(detection: MetricValue, distance: MetricValue) -> MetricValue:
    """R in [0, 1]; undefined when one of its parts is."""
    for name, part in (("detection", detection), ("KID", distance)):
        if not part.ok:
            return MetricValue.undefined(f"{name}: {part.reason}")
    value = detection.value * math.exp(-max(0.0, distance.value) / KID_SCALE)
    return MetricValue(value, n=detection.n, n_ids=detection.n_ids, reason="no interval: KID has none")
