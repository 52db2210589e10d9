"""What each metric of a judgement is: unit, range, direction. Light to import: listings and plots read it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "MetricInfo", "describe"]


@dataclass(frozen=True)
class MetricInfo:
    """A metric describes itself.

    Attributes:
        name: key in `Judgement.metrics`.
        meaning: one line.
        higher_is_better: for the person who publishes faces; of numbers on clear faces, for the model that judges.
        low, high: bounds.
        unit: empty for a share.
    """

    name: str
    meaning: str
    higher_is_better: bool
    low: float = 0.0
    high: float = 1.0
    unit: str = ""

    @property
    def range(self) -> str:
        """The bounds in words."""
        return f"{self.low:g} to {self.high:g}" + (f" {self.unit}" if self.unit else "")


def _all() -> tuple[MetricInfo, ...]:
    info = MetricInfo
    return (
        info("privacy", "1 - advantage of the worst attacker over chance, relative to clear faces (objective)", True),
        info("utility", "chance-corrected share of faces that keep their expression, mean over models (objective)", True),
        info("privacy/naive", "the same, had only the ignorant attacker been tried", True),
        info("privacy/gap", "privacy/naive - privacy: what a naive evaluation overstates", False, -1.0),
        info("privacy/max_on_e", "privacy with the attacker chosen on the reported people: optimistic for the attacker", True),
        info("privacy/rank1", "rank-1 of the worst attacker in a random gallery of the standard size, mean over people", False),
        info("privacy/rank1_full", "rank-1 among all enrolled people, mean over people", False),
        info("privacy/rank1_micro", "rank-1 among all enrolled people, mean over photographs", False),
        info("privacy/rank5", "rank-5 among all enrolled people, mean over people", False),
        info("privacy/naive_rank1", "rank-1 of the ignorant attacker at the standard gallery size", False),
        info("privacy/risk_median", "rank-1 of the median person", False),
        info("privacy/risk_worst_tenth", "mean rank-1 of the tenth of people most at risk", False),
        info("privacy/risk_above_half", "share of people recognised more often than not", False),
        info("privacy/auc", "verification AUC, anonymized against anonymized, worst embedder", False),
        info("privacy/auc_advantage", "max(0, 2 AUC - 1): what verification gives away beyond guessing", False),
        info("privacy/eer", "verification equal error rate, anonymized against anonymized", True),
        info("privacy/dprime", "separation of genuine and impostor scores", False, -10.0, 10.0, "standard deviations"),
        info("privacy/auc_naive", "verification AUC, anonymized against clear", False),
        info("privacy/eer_naive", "verification equal error rate, anonymized against clear", True),
        *(
            item
            for far in ("1e-1", "1e-2", "1e-3")
            for item in (
                info(f"privacy/tar_at_far_{far}", f"true accepts at false accept rate {far}, threshold from anonymized impostors of S", False),
                info(f"privacy/far_at_{far}", f"false accept rate that this threshold reaches on E (wanted {far})", False),
                info(f"privacy/tar_at_far_{far}_deployed", f"true accepts at the threshold a deployed system sets on clear faces for {far}", False),
                info(f"privacy/far_at_{far}_deployed", f"false accept rate that the deployed threshold reaches on E (wanted {far})", False),
            )
        ),
        info("leak/linkability", "D_sys: how surely two anonymized photographs can be linked to one person", False),
        info("leak/linkability_naive", "D_sys: how surely an anonymized photograph can be linked to a clear one", False),
        info("leak/rank_bits", "bits of identity that the rank of the true person gives away, at most log2 of the people", False, 0.0, 64.0, "bits"),
        info("leak/attribute/<name>", "how well a group (gender, age band...) can be told from the release, relative to clear faces", False),
        info("slice/<attribute>/<group>/privacy", "privacy of the people of one group, against the same attacker", True),
        info("slice/<attribute>/<group>/privacy_gap", "the attacker's advantage over this group minus that over all people", False, -1.0),
        info("slice/<attribute>/<group>/clear_rank1", "rank-1 of the same attacker on clear faces of this group", False),
        info("slice/<attribute>/<group>/utility", "utility on the faces of this group", True),
        info("selection/privacy", "privacy on the people of role S: choose the front by it, report `privacy`", True),
        info("selection/utility", "utility on the faces of role S", True),
        info("utility/recall", "share of faces that keep their class, mean over classes", True),
        info("utility/match", "share of faces that keep their class", True),
        info("utility/kappa", "Cohen's kappa between clear and anonymized answers", True, -1.0),
        info("utility/js", "expression consistency: 1 - Jensen-Shannon divergence / ln 2", True),
        info("utility/js_corrected", "the same without the credit for always giving the usual mixture", True),
        info("utility/kl_exp", "mean exp(-KL(clear || anonymized))", True),
        info("utility/tv", "1 - total variation distance", True),
        info("utility/accuracy", "expression accuracy on anonymized faces, by label", True),
        info("utility/accuracy_clear", "expression accuracy on clear faces, by label", True),
        info("utility/uar", "mean class recall on anonymized faces, by label", True),
        info("utility/uar_clear", "mean class recall on clear faces, by label", True),
        info("utility/f1", "macro F1 on anonymized faces, by label", True),
        info("utility/f1_clear", "macro F1 on clear faces, by label", True),
        info("utility/retention", "how much of the class recall above chance is left", True),
        info("realism/psnr", "peak signal to noise ratio against the clear crop", True, 0.0, 100.0, "dB"),
        info("realism/ssim", "structural similarity to the clear crop", True, -1.0),
        info("realism/lpips", "perceptual distance to the clear crop", False, 0.0, 2.0),
        info("realism/detection", "share of the faces a detector finds in the clear that it still finds", True),
        info("privacy/fta", "share of anonymized faces in which a detector finds none", True),
        info("realism/kid", "kernel inception distance to the clear faces (Inception v3 of torchvision)", False, -1.0, 1000.0),
        info("realism/fid", "Frechet inception distance to the clear faces, from 2,048 images on", False, 0.0, 1e6),
        info("realism/kid_expression", "the same kernel distance in the features of an expression model", False, -1.0, 1e9),
        info("realism/fid_expression", "the same Frechet distance in the features of an expression model", False, 0.0, 1e9),
        info("realism/axis", "detection rate x exp(-KID / 0.05): the optional third axis of the front", True),
        info("attack/undertrained", "1 when an attacker still gains from the second half of its faces: privacy is then an upper estimate", False),
        info("attack/undertrained_gain", "rank-1 that an attacker gains from the second half of its faces, the largest", False, -1.0),
        info("legacy/privacy", "clip(1 - max(top-1, adaptive, AUC)): comparison with older numbers only", True),
        info("legacy/hifd_privacy", "half of 1 - cosine to the clear face, about 0.5 for strangers: comparison with older numbers only", True),
        info("legacy/consistency", "clip(1 - mean KL): comparison with older numbers only", True),
    )  # fmt: skip


METRICS: tuple[MetricInfo, ...] = _all()
"""All metrics of a judgement, objectives first. `<...>` stands for a name; `utility/<model>` and `utility/<model>/<metric>` repeat some per
expression model."""

_BY_NAME = {item.name: item for item in METRICS}


def describe(name: str) -> MetricInfo | None:
    """The entry of a metric, also of one with a name in it; None for an unknown name.

    >>> describe("utility/vit/match").meaning
    'share of faces that keep their class'
    >>> describe("slice/gender/f/privacy").name
    'slice/<attribute>/<group>/privacy'
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    match name.split("/"):
        case ["utility", _]:
            return _BY_NAME["utility"]
        case ["utility", _, metric]:
            return _BY_NAME.get(f"utility/{metric}")
        case ["leak", "attribute", _]:
            return _BY_NAME["leak/attribute/<name>"]
        case ["slice", _, _, metric]:
            return _BY_NAME.get(f"slice/<attribute>/<group>/{metric}")
    return None
