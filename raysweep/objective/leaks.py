"""What else a release gives away: bits of the rank, the group people belong to, how far the embedding is from the clear one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.attackers import Embeddings
from raysweep.metrics.leaks import AttributeSums, hifd_privacy
from raysweep.metrics.uncertainty import Estimate, MeanSums, clusters, mean_of
from raysweep.metrics.value import MetricValue
from raysweep.objective.ground import Ground
from raysweep.objective.privacy import Attacked
from raysweep.objective.protocol import Part
from raysweep.schema import IntArray, StringArray

__all__ = ["MIN_PEOPLE", "Leaks", "metric_word"]

MIN_PEOPLE = 3
"""Fewest people of a group, in T to learn it from and in E to test it on, for the group to be guessed at."""
Classifier = Any
"""scikit-learn's, or None where there was nothing to learn."""


def metric_word(text: str) -> str:
    """A name or word of other people, fit for one part of a metric's name.

    >>> metric_word("18-29"), metric_word("a/<b>")
    ('18-29', 'a__b_')
    """
    return re.sub(r"[^\w.+ -]", "_", text)[:60].strip(" .") or "_"


@dataclass(frozen=True)
class _Groups:
    """One attribute that can be guessed: its words, and the class of every face, -1 where it has none of them."""

    words: tuple[str, ...]
    label: IntArray
    reason: str = ""

    @classmethod
    def of(cls, ground: Ground, column: StringArray) -> _Groups:
        people = clusters(ground.table.identity)
        words = []
        for word in np.unique(column[column != ""]).tolist():
            having = column == word
            counts = [len(np.unique(people[having & (ground.table.role == role)])) for role in ("T", "E")]
            if min(counts) >= MIN_PEOPLE:
                words.append(word)
        label = np.full(len(column), -1, dtype=np.int64)
        for number, word in enumerate(words):
            label[column == word] = number
        reason = f"fewer than two groups with at least {MIN_PEOPLE} people in roles T and E" if len(words) < 2 else ""
        return cls(tuple(words), label, reason)

    def rows(self, ground: Ground, role: str) -> IntArray:
        """Faces of a role that belong to one of the groups."""
        rows = ground.rows(role)
        return rows[self.label[rows] >= 0]


class Leaks:
    """Secondary leaks of a release; classifiers of the clear side are learned once.

    Args:
        ground: the clear side.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._groups = {name: _Groups.of(ground, column) for name, column in ground.table.attributes.items()}
        self._on_clear = {
            (name, embedder): self._learn(groups, rows)
            for name, groups in self._groups.items()
            if not groups.reason
            for embedder, rows in ground.clear.items()
        }

    def judge(self, faces: Mapping[str, Embeddings], attacked: Attacked) -> Part:
        """Rank bits of the deciding attacker, group leaks of the best classifier, and HiFD's embedding distance."""
        plan = self.ground.plan
        metrics = {"legacy/hifd_privacy": self._distance(faces).metric(plan)}
        if attacked.worst is None:
            metrics["leak/rank_bits"] = MetricValue.undefined(attacked.metrics["privacy"].reason)
        else:
            metrics["leak/rank_bits"] = attacked.worst[0].bits().metric(plan)
        for name, groups in self._groups.items():
            metrics[f"leak/attribute/{metric_word(name)}"] = self._leak(name, groups, faces)
        return Part(metrics)

    def _distance(self, faces: Mapping[str, Embeddings]) -> Estimate:
        rows = self.ground.rows("E")
        cluster = clusters(self.ground.table.identity[rows], rows)
        return mean_of(
            {
                name: MeanSums.start()
                .update(hifd_privacy(clear.take(rows).images, faces[name].take(rows).images), cluster)
                .compute(self.ground.plan)["mean"]
                for name, clear in self.ground.clear.items()
            }
        )

    def _learn(self, groups: _Groups, faces: Embeddings) -> Classifier:
        """Linear discriminant with shrunk covariance on faces of T, groups weighing the same."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # type: ignore[import-untyped]

        rows = groups.rows(self.ground, "T")
        known = faces.take(rows)
        rows, features = rows[known.found], known.images[known.found]
        label = groups.label[rows]
        if len(np.unique(label)) < len(groups.words) or np.ptp(features, axis=0).max(initial=0) < 1e-5:
            return None
        priors = np.full(len(groups.words), 1 / len(groups.words))
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)
        return model.fit(features.astype(np.float64), label)

    def _answers(self, model: Classifier, groups: _Groups, faces: Embeddings) -> npt.NDArray[np.float64]:
        """(n, K) one-hot answers; even where the face was not found or nothing could be learned."""
        count = len(groups.words)
        answers = np.full((len(faces), count), 1 / count)
        if model is not None and faces.found.any():
            answers[faces.found] = np.eye(count)[model.predict(faces.images[faces.found].astype(np.float64))]
        return answers

    def _leak(self, name: str, groups: _Groups, faces: Mapping[str, Embeddings]) -> MetricValue:
        """Of the classifiers trained on clear and on anonymized faces of T, through each embedder: the best on S, reported on E."""
        if groups.reason:
            return MetricValue.undefined(groups.reason)
        if not faces:
            return MetricValue.undefined("no embedder")
        models = {
            (embedder, kind): model
            for embedder, rows in faces.items()
            for kind, model in (("clear", self._on_clear[name, embedder]), ("anonymized", self._learn(groups, rows)))
        }
        quick = replace(self.ground.plan, draws=0)
        selected_on = "S" if len(np.unique(groups.label[groups.rows(self.ground, "S")])) > 1 else "E"
        scored = {
            key: self._sums(selected_on, name, groups, model, faces[key[0]], key[0]).compute(quick)["leak"].value
            for key, model in models.items()
        }
        usable = {key: round(value, 9) for key, value in scored.items() if np.isfinite(value)}
        if not usable:
            return MetricValue.undefined("no classifier is above chance on clear faces")
        embedder, kind = best = max(usable, key=lambda key: usable[key])
        found = self._sums("E", name, groups, models[best], faces[embedder], embedder).compute(self.ground.plan)["leak"]
        remark = f"{embedder}, trained on {kind} faces" + ("" if selected_on == "S" else ", chosen on E")
        return replace(found, reason=found.reason or remark).metric(self.ground.plan)

    def _sums(
        self, role: str, name: str, groups: _Groups, model: Classifier, faces: Embeddings, embedder: str
    ) -> AttributeSums:
        rows = groups.rows(self.ground, role)
        return AttributeSums.start(len(groups.words)).update(
            groups.label[rows],
            self._answers(model, groups, faces.take(rows)),
            self._answers(self._on_clear[name, embedder], groups, self.ground.clear[embedder].take(rows)),
            clusters(self.ground.table.identity[rows], rows),
        )
