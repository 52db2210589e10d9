"""A2: retrains its recogniser on anonymized faces of other people, then compares like with like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysweep.attackers.base import AttackView, cosine, lacking, per_identity, principal_axes
from raysweep.schema import FloatArray, IntArray

__all__ = ["SemiInformed"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SemiInformed:
    """Adapter on the frozen embedder, learned on anonymized T: standardise, PCA, LDA with shrinkage; then cosine.

    Args:
        components: most PCA components kept.
    """

    components: int = 128

    id: ClassVar[str] = "A2"
    name: ClassVar[str] = "semi_informed"
    knowledge: ClassVar[str] = "adapter trained on anonymized faces of other people; enrolment and probes anonymized"
    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    reference: ClassVar[str] = "VoicePrivacy Challenge 2022 (semi-informed)"

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) best cosine in the adapted space."""
        train = view.anonymized.take(view.train)
        usable = train.found
        features = train.images[usable].astype(np.float64)
        project = _discriminant(features, view.identity[view.train][usable], self.components)
        probe, enrol = (view.anonymized.take(rows) for rows in (view.probe, view.enrol))
        pairs = cosine(probe.mapped(project(probe.row)), enrol.mapped(project(enrol.row)))
        return per_identity(pairs, view.enrol_class, len(view.classes))


def _discriminant(features: Array, labels: IntArray, components: int) -> Callable[[FloatArray], FloatArray]:
    """Learn (n, D) -> (n, F) from labelled embeddings: standardise, PCA, LDA.

    Directions are scaled by the within-person spread (shrunk by Ledoit and Wolf 2004), so cosine in the result weighs what tells people apart.
    """
    from sklearn.covariance import ledoit_wolf

    mean, axes = principal_axes(features, components)
    if not axes.shape[1]:
        return lambda rows: np.zeros((len(rows), 1), dtype=np.float32)
    reduced = (features - mean) @ axes
    people, index = np.unique(labels, return_inverse=True)
    centre = np.zeros((len(people), reduced.shape[1]))
    np.add.at(centre, index, reduced)
    centre /= np.bincount(index)[:, None]
    within, _ = ledoit_wolf(reduced - centre[index], assume_centered=True)
    values, vectors = np.linalg.eigh(within)
    whiten = vectors / np.sqrt(np.maximum(values, 1e-9 * values[-1]))
    between = (centre - centre.mean(axis=0)) @ whiten
    _, _, directions = np.linalg.svd(between, full_matrices=False)
    matrix = axes @ whiten @ directions[: len(people) - 1].T

    def project(rows: FloatArray) -> FloatArray:
        return np.asarray((rows - mean) @ matrix, dtype=np.float32)

    return project
