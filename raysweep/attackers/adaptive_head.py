"""A3: trains a classifier on anonymized photographs of the very people it looks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysweep.attackers.base import MISSING, AttackView, lacking
from raysweep.attackers.whitening import Whitening
from raysweep.errors import ConfigError
from raysweep.schema import FloatArray, IntArray

__all__ = ["AdaptiveHead"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AdaptiveHead:
    """Whitening and LDA on the enrolled images, then multinomial logistic regression, one class per enrolled person.

    Classes weigh equally and there is no bias, so without any information all scores are exactly equal. Full-batch L-BFGS from zero: the
    same data give the same attacker.

    Args:
        epochs: most passes over the enrolled images; 0 leaves it untrained.
        penalty: L2 penalty on the weights, relative to the mean log loss.
    """

    epochs: int = 60
    penalty: float = 1e-3

    id: ClassVar[str] = "A3"
    name: ClassVar[str] = "adaptive_head"
    knowledge: ClassVar[str] = (
        "classifier trained on anonymized enrolment of the people it looks for; probes anonymized"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"repeats"})
    reference: ClassVar[str] = "McPherson, Shokri and Shmatikov 2016"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.penalty < 0:
            raise ConfigError(f"adaptive_head: epochs={self.epochs} penalty={self.penalty}; allowed: both 0 or more")

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) logits; all equal for a probe that could not be embedded."""
        enrol, probe = (view.anonymized.take(rows) for rows in (view.enrol, view.probe))
        usable = enrol.found
        features = enrol.images[usable].astype(np.float64)
        classes = len(view.classes)
        labels = view.enrol_class[usable]
        if len(np.unique(labels)) < 2:
            return np.full((len(probe), classes), MISSING, dtype=np.float32)
        learned = Whitening.fit(features, labels)
        matrix = learned.discriminant()
        known = (features - learned.mean) @ matrix
        # One common scale, so that the penalty means the same for each embedder and number of people.
        size = np.sqrt((known**2).sum(axis=1).mean()) if learned.informative else 0.0
        if size > 0:
            matrix, known = matrix / size, known / size
        weights = _fit(known, labels, classes, self.epochs, self.penalty)
        # Rounded so that people with equal data stay equal; scores are of the order of 1.
        logits = np.round(((probe.row - learned.mean) @ matrix) @ weights, 7)
        logits[~probe.row.any(axis=1)] = MISSING
        return np.asarray(logits[probe.index], dtype=np.float32)


def _fit(features: Array, labels: IntArray, classes: int, epochs: int, penalty: float) -> Array:
    """Weights (F, C) of a class-balanced multinomial logistic regression."""
    # Slow to import, and listing the attackers must not wait for it.
    from scipy.optimize import minimize

    size = features.shape[1]
    if epochs == 0 or not features.any():
        return np.zeros((size, classes))
    count = np.bincount(labels, minlength=classes)
    weight = 1 / (count[labels] * (count > 0).sum())
    rows = np.arange(len(labels))

    def loss(flat: Array) -> tuple[float, Array]:
        matrix = flat.reshape(size, classes)
        logits = features @ matrix
        logits -= logits.max(axis=1, keepdims=True)
        share = np.exp(logits)
        total = share.sum(axis=1, keepdims=True)
        value = float(weight @ (np.log(total[:, 0]) - logits[rows, labels]))
        share /= total
        share[rows, labels] -= 1
        gradient = features.T @ (share * weight[:, None]) + penalty * matrix
        return value + penalty / 2 * float(flat @ flat), gradient.ravel()

    start = np.zeros(size * classes)
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": epochs, "maxfun": epochs + 1})
    return np.asarray(result.x).reshape(size, classes)
