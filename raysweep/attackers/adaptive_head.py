"""A3: trains a classifier on anonymized photographs of the very people it looks for."""

from __future__ import annotations

from collections.abc import Callable
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
        early_stopping: choose the number of passes on a tenth of the enrolled images that it does not learn from, then learn from all.
    """

    epochs: int = 60
    penalty: float = 1e-3
    early_stopping: bool = False

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
        epochs = self.epochs
        if self.early_stopping and epochs:
            epochs = _best_epochs(known, labels, classes, epochs, self.penalty, view.seed)
        weights = _fit(known, labels, classes, epochs, self.penalty)
        # Rounded so that people with equal data stay equal; scores are of the order of 1.
        logits = np.round(((probe.row - learned.mean) @ matrix) @ weights, 7)
        logits[~probe.row.any(axis=1)] = MISSING
        return np.asarray(logits[probe.index], dtype=np.float32)


def _best_epochs(features: Array, labels: IntArray, classes: int, most: int, penalty: float, seed: int) -> int:
    """Passes after which a head that has not seen a tenth of the images tells them best; all of them when nobody can spare an image."""
    order = np.random.default_rng([seed, 5]).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    # At most one image of a person, and only of people who keep two.
    spare = order[first][np.bincount(labels, minlength=classes)[labels[order[first]]] >= 3]
    held = np.sort(spare[np.argsort(np.argsort(order)[spare])][: max(1, len(labels) // 10)])
    if not len(held):
        return most
    learned = np.setdiff1d(np.arange(len(labels)), held)
    losses: list[float] = []

    def watch(flat: Array) -> None:
        logits = features[held] @ flat.reshape(features.shape[1], classes)
        logits -= logits.max(axis=1, keepdims=True)
        losses.append(float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(held)), labels[held]]).mean()))

    _fit(features[learned], labels[learned], classes, most, penalty, watch)
    return int(np.argmin(losses)) + 1 if losses else most


def _fit(
    features: Array,
    labels: IntArray,
    classes: int,
    epochs: int,
    penalty: float,
    watch: Callable[[Array], None] | None = None,
) -> Array:
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
    options = {"maxiter": epochs, "maxfun": epochs + 1}
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options=options, callback=watch)
    return np.asarray(result.x).reshape(size, classes)
