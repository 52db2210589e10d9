"""A2: adapts its recogniser to anonymized faces of other people, then compares like with like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raysweep.attackers.base import AttackView, cosine, lacking, per_identity, template
from raysweep.attackers.whitening import Whitening
from raysweep.schema import FloatArray

__all__ = ["SemiInformed"]


@dataclass(frozen=True)
class SemiInformed:
    """Adapter on the frozen embedder, learned on anonymized T: standardise, whiten what varies within a person; then cosine.

    All directions are kept: an LDA can only keep as many as T has people, and measured much weaker.

    Args:
        mean_template: compare with the mean of a person's enrolled images (averages the anonymizer's randomness away) instead of the best one.
    """

    mean_template: bool = True

    id: ClassVar[str] = "A2"
    name: ClassVar[str] = "semi_informed"
    knowledge: ClassVar[str] = "adapter trained on anonymized faces of other people; enrolment and probes anonymized"
    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    reference: ClassVar[str] = "VoicePrivacy Challenge 2022 (semi-informed)"

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) cosine in the adapted space."""
        train = view.anonymized.take(view.train)
        usable = train.found
        probe, enrol = (view.anonymized.take(rows) for rows in (view.probe, view.enrol))
        labels = view.identity[view.train][usable]
        if len(np.unique(labels)) < 2:
            # Hardly any face was found in the attacker's own anonymized images: it learns nothing and stays with the frozen embedder.
            adapted = [probe, enrol]
        else:
            learned = Whitening.fit(train.images[usable].astype(np.float64), labels)
            matrix = learned.matrix()
            adapted = [side.mapped(((side.row - learned.mean) @ matrix).astype(np.float32)) for side in (probe, enrol)]
        classes = len(view.classes)
        if self.mean_template:
            return cosine(adapted[0], template(adapted[1], view.enrol_class, classes))
        return per_identity(cosine(*adapted), view.enrol_class, classes)
