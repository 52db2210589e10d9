"""What else a release gives away: bits of the rank, the group people belong to, how far the embedding is from the clear one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from raysweep.attackers import Embeddings
from raysweep.attackers.whitening import Whitening
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


@dataclass(frozen=True)
class _Discriminant:
    """Linear discriminant analysis with a shrunk covariance, all groups weighing the same: the nearest mean in the whitened space."""

    mean: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]
    centres: npt.NDArray[np.float64]

    @classmethod
    def of(cls, learned: Whitening) -> _Discriminant:
        centres = solve_triangular(learned.factor, learned.centres.T, lower=True, check_finite=False).T
        return cls(learned.mean, learned.matrix(), centres)

    def nearest(self, rows: npt.NDArray[np.floating]) -> IntArray:
        """(n, D) embeddings -> (n,) number of the group."""
        white = (np.asarray(rows, dtype=np.float64) - self.mean) @ self.matrix
        score = white @ self.centres.T - (self.centres**2).sum(axis=1) / 2
        return np.asarray(score.argmax(axis=1), dtype=np.int64)


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

    def _learn(self, groups: _Groups, faces: Embeddings) -> _Discriminant | None:
        """From the faces of T that were found; None where they teach nothing."""
        rows = groups.rows(self.ground, "T")
        known = faces.take(rows)
        label = groups.label[rows][known.found]
        if len(np.unique(label)) < len(groups.words):
            return None
        learned = Whitening.fit(known.images[known.found].astype(np.float64), label)
        return _Discriminant.of(learned) if learned.informative else None

    def _answers(self, model: _Discriminant | None, groups: _Groups, faces: Embeddings) -> npt.NDArray[np.float64]:
        """(n, K) one-hot answers; even where the face was not found or nothing could be learned."""
        count = len(groups.words)
        if model is None:
            return np.full((len(faces), count), 1 / count)
        # Answered per distinct embedding, so that equal faces get equal answers.
        found = np.asarray(faces.row != 0).any(axis=1, keepdims=True)
        answers = np.where(found, np.eye(count)[model.nearest(faces.row)], 1 / count)
        return np.asarray(answers[faces.index])

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
        self, role: str, name: str, groups: _Groups, model: _Discriminant | None, faces: Embeddings, embedder: str
    ) -> AttributeSums:
        rows = groups.rows(self.ground, role)
        return AttributeSums.start(len(groups.words)).update(
            groups.label[rows],
            self._answers(model, groups, faces.take(rows)),
            self._answers(self._on_clear[name, embedder], groups, self.ground.clear[embedder].take(rows)),
            clusters(self.ground.table.identity[rows], rows),
        )
