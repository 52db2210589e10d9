"""What each recorded number means: direction, range and a sentence. Read by the listings, so that no one types a direction twice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "MetricDescription"]


@dataclass(frozen=True)
class MetricDescription:
    """One recorded metric.

    Attributes:
        name: as in a record and in MLflow.
        higher_is_better: for whoever publishes the faces.
        range: of its values, with unit.
        meaning: one sentence.
    """

    name: str
    higher_is_better: bool
    range: str
    meaning: str


METRICS: tuple[MetricDescription, ...] = (
    MetricDescription(
        "privacy", True, "0 to 1", "P: 1 - advantage over chance of the strongest attacker, chosen on S, measured on E"
    ),
    MetricDescription(
        "utility", True, "0 to 1", "U: share of expressions kept, chance removed, mean over classes and judges"
    ),
    MetricDescription("privacy/naive", True, "0 to 1", "the same for the attacker who expects clear faces (A0)"),
    MetricDescription("privacy/gap", False, "-1 to 1", "naive - P: what a naive evaluation overestimates"),
    MetricDescription(
        "privacy/max_on_e", True, "0 to 1", "P if the attacker were chosen on E itself (optimistic for the attacker)"
    ),
    MetricDescription("privacy/rank1", False, "0 to 1", "rank-1 at gallery size q of that attacker"),
    MetricDescription("privacy/rank1_full", False, "0 to 1", "rank-1 with all of E as gallery"),
    MetricDescription("privacy/rank5", False, "0 to 1", "rank-5 with all of E as gallery"),
    MetricDescription(
        "privacy/auc", False, "0 to 1", "verification: chance that a genuine pair scores above an impostor pair"
    ),
    MetricDescription("privacy/eer", True, "0 to 0.5", "verification: equal error rate"),
    MetricDescription("utility/match", True, "0 to 1", "share of faces whose expression class stays"),
    MetricDescription("utility/kappa", True, "-1 to 1", "the same, chance removed (Cohen)"),
    MetricDescription("utility/js", True, "0 to 1", "1 - Jensen-Shannon divergence / ln 2 of the class probabilities"),
    MetricDescription("utility/kl_exp", True, "0 to 1", "mean of exp(-KL(clear || anonymized))"),
    MetricDescription("utility/tv", True, "0 to 1", "1 - total variation of the class probabilities"),
    MetricDescription("utility/accuracy", True, "0 to 1", "agreement with the labels, anonymized"),
    MetricDescription("utility/accuracy_clear", True, "0 to 1", "agreement with the labels, clear"),
    MetricDescription("utility/retention", True, "0 to 1", "macro recall above chance, anonymized over clear"),
    MetricDescription("realism/psnr", True, "dB", "peak signal-to-noise ratio against the clear crop"),
    MetricDescription("realism/ssim", True, "-1 to 1", "structural similarity against the clear crop"),
    MetricDescription("realism/lpips", False, "0 and up", "perceptual distance; undefined without backbone weights"),
    MetricDescription(
        "legacy/privacy", True, "0 to 1", "1 - max(top-1, adaptive, AUC), for comparison with older tables only"
    ),
    MetricDescription("legacy/consistency", True, "0 to 1", "1 - mean KL, for comparison with older tables only"),
    MetricDescription("selection/privacy", True, "0 to 1", "P on the selection identities"),
    MetricDescription("selection/utility", True, "0 to 1", "U on the selection identities"),
)
