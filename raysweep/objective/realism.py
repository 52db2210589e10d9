"""How far a released face is from the clear one, and how real it looks: never utility, but a third axis."""

from __future__ import annotations

import numpy as np

from raysweep.metrics.uncertainty import ClusterSums, clusters
from raysweep.metrics.value import MetricValue
from raysweep.objective.ground import Ground
from raysweep.schema import Measurements

__all__ = ["realism"]

REALISM = ("psnr", "ssim", "lpips")


def realism(ground: Ground, anonymized: Measurements) -> dict[str, MetricValue]:
    """Mean of each realism score over the faces of E, with intervals over people."""
    rows = ground.rows("E")
    cluster = clusters(ground.table.identity[rows], rows)
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
            0, ground.plan, f"{missing} images without a value left out" if missing else ""
        ).metric(ground.plan)
    return metrics
