"""Does the anonymized face still show the same expression? One model judges both sides.

y is the model's class on the clear face, z on the anonymized one; p and p' are its probabilities. A face without a usable
answer (all zero, or all classes exactly equal) has z = none and a uniform p'. All scores: higher is better, 1 is the same.

Sources: HiFD (1 - TV); VoicePrivacy 2024 (UAR); Cohen 1960 (kappa).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysweep.metrics.uncertainty import ClusterSums, Estimate, Resampling
from raysweep.schema import EXPRESSIONS, IntArray

__all__ = [
    "ExpressionSums",
    "calibration_error",
    "decisions",
    "exp_kl",
    "js_similarity",
    "kappa",
    "kl",
    "legacy_consistency",
    "null_corrected",
    "tv_similarity",
    "utility",
]

Probabilities = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]

EPSILON = 1e-6
MIN_SUPPORT = 5
"""Fewest images of a class that counts."""
TINY = 1e-12
"""What the arithmetic leaves of an exact 0."""


def decisions(probabilities: Probabilities) -> tuple[IntArray, Array]:
    """Class of each row, K where there is none, and the probabilities with those rows uniform: (N,), (N, K) float64."""
    table = np.asarray(probabilities, dtype=np.float64)
    classes = table.shape[1]
    none = (table.max(axis=1) - table.min(axis=1)) <= 0.0
    total = table.sum(axis=1, keepdims=True)
    cleaned = np.where(none[:, None], 1 / classes, table / np.where(total > 0, total, 1.0))
    return np.where(none, classes, table.argmax(axis=1)).astype(np.int64), cleaned


def calibration_error(probabilities: Probabilities, label: IntArray, bins: int = 15) -> float:
    """How far a model's confidence is from how often it is right, in [0, 1] (expected calibration error, Guo et al. 2017).

    KL and Jensen-Shannon scores depend on how sharp a model's answers are; this number stands beside them.

    Args:
        probabilities: (N, K).
        label: (N,) true classes, -1 unknown; those and faces without an answer are left out.
        bins: of equal width over the confidence.

    Returns:
        0 for a model that is right as often as it is sure; NaN where nothing is labelled.
    """
    said, table = decisions(probabilities)
    known = (label >= 0) & (said < table.shape[1])
    if not known.any():
        return math.nan
    sure, right = table[known].max(axis=1), (said == label)[known].astype(np.float64)
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    off = np.bincount(place, sure - right, minlength=bins)
    return float(np.abs(off).sum() / known.sum())


def kl(p: Probabilities, q: Probabilities) -> Array:
    """KL(p || q) in nats per row, both with 1e-6 added inside the logarithm: clear || anonymized."""
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    return np.asarray((p * np.log((p + EPSILON) / (q + EPSILON))).sum(axis=-1))


def exp_kl(p: Probabilities, q: Probabilities) -> Array:
    """exp(-KL), in [0, 1] up to the epsilon."""
    return np.asarray(np.clip(np.exp(-kl(p, q)), 0.0, 1.0))


def js_similarity(p: Probabilities, q: Probabilities) -> Array:
    """1 - JS / ln 2, the reported consistency, in [0, 1]."""
    left, right = np.asarray(p, np.float64), np.asarray(q, np.float64)
    middle = (left + right) / 2

    def term(side: npt.NDArray[np.float64]) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(side > 0, side * np.log(side / middle), 0.0).sum(axis=-1))

    return np.asarray(np.clip(1 - (term(left) + term(right)) / (2 * math.log(2)), 0.0, 1.0))


def tv_similarity(p: Probabilities, q: Probabilities) -> Array:
    """1 - half the L1 distance, in [0, 1]."""
    return np.asarray(1 - 0.5 * np.abs(np.asarray(p, np.float64) - np.asarray(q, np.float64)).sum(axis=-1))


def legacy_consistency(p: Probabilities, q: Probabilities) -> float:
    """clip(1 - mean KL, 0, 1) with both sides floored at 1e-6: for comparison with older numbers only."""
    p, q = (np.maximum(np.asarray(side, np.float64), EPSILON) for side in (p, q))
    return float(np.clip(1 - (p * np.log(p / q)).sum(axis=-1).mean(), 0.0, 1.0))


def null_corrected(
    score: Callable[[Array, Array], Array], p: Array, q: Array, generator: np.random.Generator, permutations: int = 20
) -> float:
    """Mean score with the credit for "always the usual mixture" removed, clipped to [0, 1]; NaN when the null is 1.

    The null is the same score with the anonymized rows permuted over the images, mean of `permutations`.
    """
    plain = float(score(p, q).mean())
    orders = np.stack([generator.permutation(len(q)) for _ in range(permutations)])
    null = float(score(p[None], q[orders]).mean())
    return math.nan if null >= 1 - TINY else float(np.clip((plain - null) / (1 - null), 0.0, 1.0))


def utility(pairs: Array, supported: npt.NDArray[np.bool_]) -> Array:
    """U of section "expression": chance-corrected mean share of images that keep their class.

    Args:
        pairs: (..., K, K + 1) counts of (y, z), the last column is "none".
        supported: (K,) classes that count.

    Returns:
        (...) in [0, 1]; NaN where fewer than two supported classes occur.
    """
    kept = np.diagonal(pairs, axis1=-2, axis2=-1)[..., supported]
    total = pairs.sum(axis=-1)[..., supported]
    here = total > 0
    classes = here.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = np.where(here, kept / total, 0.0).sum(axis=-1) / classes
        corrected = (recall - 1 / classes) / (1 - 1 / classes)
    corrected = np.where(np.abs(corrected) < TINY, 0.0, corrected)
    return np.where(classes >= 2, np.maximum(corrected, 0.0), np.nan)


def _recall(pairs: Array, supported: npt.NDArray[np.bool_]) -> Array:
    kept = np.diagonal(pairs, axis1=-2, axis2=-1)[..., supported]
    total = pairs.sum(axis=-1)[..., supported]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(total > 0, kept / total, 0.0).sum(axis=-1) / (total > 0).sum(axis=-1))


def _accuracy(pairs: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.trace(pairs, axis1=-2, axis2=-1) / pairs.sum(axis=(-2, -1)))


def _f1(pairs: Array, supported: npt.NDArray[np.bool_]) -> Array:
    hit = np.diagonal(pairs, axis1=-2, axis2=-1)
    truth = pairs.sum(axis=-1)
    said = pairs.sum(axis=-2)[..., : truth.shape[-1]]
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(truth + said > 0, 2 * hit / (truth + said), 0.0)
    return np.asarray(score[..., supported].mean(axis=-1))


def kappa(pairs: Array) -> Array:
    """Cohen's kappa of (..., K, K + 1) counts; where chance agreement is 1: 1 when all agree, else 0."""
    total = pairs.sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = np.trace(pairs, axis1=-2, axis2=-1) / total
        said = pairs.sum(axis=-2)[..., : pairs.shape[-2]]
        expected = (pairs.sum(axis=-1) * said).sum(axis=-1) / total**2
        value = (observed - expected) / (1 - expected)
    return np.asarray(np.where(1 - expected < TINY, np.where(observed > 1 - TINY, 1.0, 0.0), value))


@dataclass(frozen=True)
class ExpressionSums:
    """Partial sums of one expression model over a set of images; `update` and `merge` in any order.

    Attributes:
        classes: K.
        sums: per cluster: (y, z) counts, (label, y) counts, (label, z) counts, then sums of exp(-KL), JS and TV similarity, legacy KL.
    """

    classes: int
    sums: ClusterSums

    @classmethod
    def start(cls, classes: int = len(EXPRESSIONS)) -> ExpressionSums:
        """Nothing counted yet."""
        return cls(classes, ClusterSums.empty(3 * classes * (classes + 1) + 4))

    def update(
        self, clear: Probabilities, anonymized: Probabilities, cluster: IntArray, label: IntArray | None = None
    ) -> ExpressionSums:
        """Count images: (N, K) on both sides, (N,) clusters to resample by, (N,) true classes, -1 unknown."""
        classes = self.classes
        y, p = decisions(clear)
        z, q = decisions(anonymized)
        label = np.full(len(y), -1, np.int64) if label is None else label
        block = classes * (classes + 1)
        columns = np.zeros((len(y), 3 * block + 4))
        row = np.arange(len(y))
        known, answered = label >= 0, y < classes
        columns[row[answered], (y * (classes + 1) + z)[answered]] = 1
        columns[row[known], (block + label * (classes + 1) + y)[known]] = 1
        columns[row[known], (2 * block + label * (classes + 1) + z)[known]] = 1
        floored = [np.maximum(side, EPSILON) for side in (p, q)]
        columns[:, -4:] = np.stack(
            [
                exp_kl(p, q),
                js_similarity(p, q),
                tv_similarity(p, q),
                (floored[0] * np.log(floored[0] / floored[1])).sum(axis=1),
            ],
            axis=1,
        )
        return ExpressionSums(classes, self.sums.merge(ClusterSums.of(cluster, columns)))

    def merge(self, other: ExpressionSums) -> ExpressionSums:
        """The sums of both."""
        return ExpressionSums(self.classes, self.sums.merge(other.sums))

    def _block(self, sums: Array, number: int) -> Array:
        size = self.classes * (self.classes + 1)
        return sums[..., number * size : (number + 1) * size].reshape(*sums.shape[:-1], self.classes, self.classes + 1)

    def supported(self, block: int = 0, support: int = MIN_SUPPORT) -> npt.NDArray[np.bool_]:
        """(K,) classes with at least `support` images: by the model's answer on clear (block 0) or by label (block 1)."""
        return np.asarray(self._block(self.sums.sums.sum(axis=0), block).sum(axis=-1) >= support)

    def utility_of(
        self, member: npt.NDArray[np.bool_], plan: Resampling, support: int = MIN_SUPPORT, people: int | None = None
    ) -> Estimate:
        """`utility` of a part of the clusters, out of the same draws of all.

        Args:
            member: (C,) which of `sums.keys`.
            plan: of the draws.
            support: fewest images of a class that counts, within the part.
            people: how many identities these are; the number of clusters when None.
        """
        n, n_ids = int(self.sums.count[member].sum()), int(member.sum()) if people is None else people
        total = self._block(self.sums.sums[member].sum(axis=0), 0)
        chosen = total.sum(axis=-1) >= support
        if chosen.sum() < 2:
            reason = f"fewer than two expression classes with at least {support} images"
            return Estimate(math.nan, reason=reason, n=n, n_ids=n_ids)
        samples = utility(self._block(self.sums.resampled(plan, member), 0), chosen)
        found = Estimate(float(utility(total, chosen)), samples, n, n_ids)
        if found.value < 1:
            return found
        chance = 1 / int(chosen.sum())
        return _all_or_none(found, 1.0, lambda share: max(0.0, (share - chance) / (1 - chance)))

    def compute(self, plan: Resampling, support: int = MIN_SUPPORT) -> dict[str, Estimate]:
        """Everything this model says.

        Returns:
            `utility`, `recall`, `match`, `kappa`, `kl_exp`, `js`, `tv`, `legacy`; and by labels `accuracy`, `accuracy_clear`, `uar`,
            `uar_clear`, `f1`, `f1_clear`, `retention` (undefined, with the reason, where there are none).
        """
        draws = self.sums.resampled(plan)
        total = self.sums.sums.sum(axis=0)
        n, n_ids = self.sums.n, len(self.sums.keys)

        def estimate(statistic: Callable[[Array], Array], reason: str = "") -> Estimate:
            value = float(statistic(total)) if n else math.nan
            return Estimate(
                value,
                np.asarray(statistic(draws)) if n else np.empty(0),
                n,
                n_ids,
                reason or ("" if n else "no images"),
            )

        found = {}

        def pairs_of(sums: Array) -> Array:
            return self._block(sums, 0)

        chosen = self.supported(0, support)
        classes = int(chosen.sum())
        answered = self._block(total, 0).sum()
        left_out = [name for name, used in zip(EXPRESSIONS, chosen, strict=False) if not used]
        remark = f"classes with fewer than {support} images left out: {', '.join(left_out)}" if left_out else ""
        if n and classes < 2:
            reason = f"fewer than two expression classes with at least {support} images"
            found["utility"] = found["recall"] = Estimate(math.nan, reason=reason, n=n, n_ids=n_ids)
        else:
            found["utility"] = estimate(lambda sums: utility(pairs_of(sums), chosen), remark)
            found["recall"] = estimate(lambda sums: _recall(pairs_of(sums), chosen), remark)
        if n and not answered:
            nothing = Estimate(math.nan, reason="the model answers on no clear face", n=n, n_ids=n_ids)
            found["match"] = found["kappa"] = nothing
        else:
            found["match"] = estimate(lambda sums: _accuracy(pairs_of(sums)))
            found["kappa"] = estimate(lambda sums: kappa(pairs_of(sums)))
        if found["match"].value in (0.0, 1.0):
            found["match"] = _all_or_none(found["match"], found["match"].value)
        if found["utility"].value == 1.0:
            chance = 1 / classes
            found["utility"] = _all_or_none(
                found["utility"], 1.0, lambda share: max(0.0, (share - chance) / (1 - chance))
            )
            found["recall"] = _all_or_none(found["recall"], 1.0)
        for column, name in enumerate(("kl_exp", "js", "tv")):
            found[name] = self.sums.mean(self.sums.sums.shape[1] - 4 + column, plan)
        mean_kl = self.sums.mean(self.sums.sums.shape[1] - 1, plan)
        found["legacy"] = Estimate(
            float(np.clip(1 - mean_kl.value, 0, 1)), np.clip(1 - mean_kl.samples, 0, 1), n, n_ids, mean_kl.reason
        )
        found |= self._labelled(estimate, plan, support)
        return found

    def _labelled(self, estimate: Callable[..., Estimate], plan: Resampling, support: int) -> dict[str, Estimate]:
        labelled = self.supported(1, support)
        classes = int(labelled.sum())
        names = ("accuracy", "accuracy_clear", "uar", "uar_clear", "f1", "f1_clear", "retention")
        if not self._block(self.sums.sums.sum(axis=0), 1).sum():
            return {name: Estimate(math.nan, reason="no expression labels") for name in names}
        found = {
            "accuracy": estimate(lambda sums: _accuracy(self._block(sums, 2))),
            "accuracy_clear": estimate(lambda sums: _accuracy(self._block(sums, 1))),
        }
        if classes < 2:
            reason = f"fewer than two labelled expression classes with at least {support} images"
            return found | {name: Estimate(math.nan, reason=reason) for name in names[2:]}
        found |= {
            "uar": estimate(lambda sums: _recall(self._block(sums, 2), labelled)),
            "uar_clear": estimate(lambda sums: _recall(self._block(sums, 1), labelled)),
            "f1": estimate(lambda sums: _f1(self._block(sums, 2), labelled)),
            "f1_clear": estimate(lambda sums: _f1(self._block(sums, 1), labelled)),
        }
        chance = 1 / classes
        after, before = found["uar"], found["uar_clear"]
        low = before.interval(plan)[0] if len(before.samples) else before.value
        if not low > chance:
            found["retention"] = Estimate(math.nan, reason="the model is not above chance on clear faces")
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                samples = np.clip((after.samples - chance) / (before.samples - chance), 0.0, 1.0)
            value = float(np.clip((after.value - chance) / (before.value - chance), 0.0, 1.0))
            found["retention"] = Estimate(value, samples, after.n, after.n_ids)
        return found


def _all_or_none(estimate: Estimate, share: float, transform: Callable[[float], float] | None = None) -> Estimate:
    return Estimate(estimate.value, estimate.samples, estimate.n, estimate.n_ids, estimate.reason, share, transform)
