"""A2c: learns from pairs how an anonymized face looked before, and compares with clear photographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysweep.attackers.base import AttackView, Template, checked_template, compare, lacking
from raysweep.attackers.whitening import Whitening
from raysweep.schema import FloatArray

__all__ = ["CrossDomain", "PairMap"]

Array = npt.NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in range(-4, 5))
"""Tried for the ridge regression; the best by generalised cross-validation on T is taken (Golub, Heath and Wahba 1979)."""


@dataclass(frozen=True)
class PairMap:
    """Ridge regression from anonymized to clear embeddings.

    Attributes:
        mean: (D,) of the anonymized side.
        target: (D,) mean of the clear side.
        matrix: (D, D).
        penalty: that won.
    """

    mean: Array
    target: Array
    matrix: Array
    penalty: float

    @classmethod
    def fit(cls, anonymized: Array, clear: Array) -> PairMap:
        """Learn from (n, D) pairs, row by row the same face."""
        mean, target = anonymized.mean(axis=0), clear.mean(axis=0)
        centred, wanted = anonymized - mean, clear - target
        # All in D x D: neither the number of faces nor of penalties costs much.
        squared, directions = np.linalg.eigh(centred.T @ centred)
        squared = np.maximum(squared, 0.0)
        along = directions.T @ (centred.T @ wanted)
        explained = (along**2).sum(axis=1)
        errors = []
        for penalty in PENALTIES:
            shrink = 1 / (squared + penalty)
            rest = (wanted**2).sum() - (explained * (2 * shrink - squared * shrink**2)).sum()
            freedom = 1 - (squared * shrink).sum() / len(clear) - 1 / len(clear)
            errors.append(float(rest / max(freedom, 1e-9) ** 2))
        penalty = PENALTIES[int(np.argmin(errors))]
        return cls(mean, target, directions @ (along / (squared + penalty)[:, None]), penalty)

    def __call__(self, rows: Array) -> Array:
        """(n, D) anonymized -> (n, D) as it may have been."""
        return np.asarray((rows - self.mean) @ self.matrix + self.target)


@dataclass(frozen=True)
class CrossDomain:
    """Ridge map from the anonymized to the clear embedding of the same face, then within-person whitening over both; cosine.

    Args:
        template: compare with the `mean` of a person's clear images, or with the `best` one.
    """

    template: Template = "mean"

    id: ClassVar[str] = "A2c"
    name: ClassVar[str] = "cross_domain"
    knowledge: ClassVar[str] = (
        "map learned on pairs (anonymized, clear) of other people; enrolment clear, probes anonymized"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    reference: ClassVar[str] = "Hao et al. 2020 (cross-domain adaptation)"

    def __post_init__(self) -> None:
        checked_template(self.name, self.template)

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) cosine in the clear space, whitened."""
        probe, enrol = view.anonymized.take(view.probe), view.clear.take(view.enrol)
        learned = view.once("pairs", lambda: _learn(view))
        if learned is not None:
            back, white = learned
            matrix = white.matrix()
            probe = probe.mapped(((back(probe.row.astype(np.float64)) - white.mean) @ matrix).astype(np.float32))
            enrol = enrol.mapped(((enrol.row - white.mean) @ matrix).astype(np.float32))
        return compare(probe, enrol, view.enrol_class, len(view.classes), self.template)


def _learn(view: AttackView) -> tuple[PairMap, Whitening] | None:
    """None when hardly any pair is there: the attacker then stays with the frozen embedder."""
    sides = [side.take(view.train) for side in (view.anonymized, view.clear)]
    usable = sides[0].found & sides[1].found
    labels = view.identity[view.train][usable]
    if len(np.unique(labels)) < 2:
        return None
    anonymized, clear = (side.images[usable].astype(np.float64) for side in sides)
    back = PairMap.fit(anonymized, clear)
    white = Whitening.fit(np.concatenate([back(anonymized), clear]), np.concatenate([labels, labels]))
    return back, white
