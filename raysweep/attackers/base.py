"""What an attacker is given, what it returns, and how equal faces are kept exactly equal."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from raysweep.errors import ConfigError, DataError
from raysweep.schema import FaceTable, FloatArray, IntArray

__all__ = [
    "BACKBONE",
    "CLEAR_EXTRA",
    "MIXED",
    "RESTORED",
    "AttackView",
    "Attacker",
    "Embeddings",
    "Template",
    "checked_template",
    "compare",
    "cosine",
    "lacking",
    "per_identity",
    "template",
]

T = TypeVar("T")

SAME_FACE = 1e-4
"""Embeddings (unit length) closer than this are the same image: batching and threads change the last bits, not more."""
MISSING = -1.0
"""Similarity with a face that could not be embedded: the lowest, and equal for everybody."""
WITHOUT_REPEATS = "identities without repeats"
MIXED = "mixed"
"""Name of the embeddings of T anonymized at random strengths, see `AttackView.extra`."""
BACKBONE = "backbone"
"""Name of the embeddings of recognisers that were themselves trained on anonymized T."""
RESTORED = "restored:"
"""Prefix of the names of the embeddings of restored probes; the restorer follows."""
CLEAR_EXTRA: frozenset[str] = frozenset({MIXED, RESTORED + "operator"})
"""Extra embeddings whose clear side is the clear face itself: nothing was changed, so nothing is to be undone."""

Template = Literal["best", "mean"]
"""How a person's enrolled images become one score: the best of them, or their mean embedding."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings in which equal images have exactly equal rows.

    The arithmetic library gives the same image slightly different embeddings and scores depending on where it stands in a batch or matrix;
    compared with `>` that noise would read as skill. So rows closer than `SAME_FACE` share one stored row, scores are computed between stored
    rows only, and then looked up: equal images get bit-identical scores.

    Attributes:
        row: (U, D) float32 distinct embeddings of unit length; a face that could not be embedded is all zero.
        index: (N,) which row each image has.
    """

    row: FloatArray
    index: IntArray

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of(cls, embeddings: npt.NDArray[np.floating], name: str = "embeddings") -> Embeddings:
        """Take (N, D) embeddings, of any length; they are normalised.

        Raises:
            DataError: a value is NaN or infinite (a face that cannot be embedded must be all zero).
        """
        table = np.asarray(embeddings, dtype=np.float32)
        if table.ndim != 2:
            raise DataError(f"{name}: embeddings have shape {table.shape}; wanted (faces, dimensions)")
        bad = np.flatnonzero(~np.asarray(np.isfinite(table)).all(axis=1))
        if len(bad):
            raise DataError(
                f"{name}: {len(bad)} embeddings are not finite (rows {', '.join(map(str, bad[:5].tolist()))}"
                f"{', ...' if len(bad) > 5 else ''}); a face that cannot be embedded must be all zero"
            )
        length = np.linalg.norm(table, axis=1, keepdims=True)
        unit = np.where(length > 0, table / np.where(length > 0, length, 1.0), 0.0).astype(np.float32)
        group = _same_rows(unit)
        _, first, index = np.unique(group, return_index=True, return_inverse=True)
        return cls(unit[first], index.astype(np.int64))

    def take(self, rows: IntArray) -> Embeddings:
        """The same for some images."""
        used, index = np.unique(self.index[rows], return_inverse=True)
        return Embeddings(self.row[used], index.astype(np.int64))

    @cached_property
    def found(self) -> npt.NDArray[np.bool_]:
        """(N,) whether the face could be embedded."""
        return np.asarray((self.row != 0).any(axis=1))[self.index]

    @property
    def images(self) -> FloatArray:
        """(N, D) one row per image."""
        return self.row[self.index]

    def mapped(self, row: FloatArray) -> Embeddings:
        """The same images with other stored rows (U, D'): what a transform of the rows gives, missing faces staying missing."""
        length = np.linalg.norm(row, axis=1, keepdims=True)
        keep = self.row.any(axis=1, keepdims=True) & (length > 1e-9)
        return Embeddings(np.where(keep, row / np.where(keep, length, 1.0), 0.0).astype(np.float32), self.index)


def _same_rows(unit: FloatArray) -> IntArray:
    """(N,) a label per row, equal for rows closer than `SAME_FACE`.

    Rows are projected on a few fixed directions; equal rows lie side by side in all of them. What is grouped is checked against the first of
    its group, so two faces that only happen to project alike stay apart.
    """
    n, dim = unit.shape
    label = np.zeros(n, dtype=np.int64)
    directions = np.random.default_rng(20).standard_normal((dim, 8)) / np.sqrt(dim)
    projected = unit.astype(np.float64) @ directions
    for column in projected.T:
        order = np.lexsort((column, label))
        step = (np.diff(label[order]) != 0) | (np.diff(column[order]) > SAME_FACE / 10)
        label[order] = np.concatenate([[0], np.cumsum(step)]) if n else label
    if not n:
        return label
    _, first, index = np.unique(label, return_index=True, return_inverse=True)
    far = np.linalg.norm(unit - unit[first][index], axis=1) > SAME_FACE
    label[far] = n + np.flatnonzero(far)
    return label


def cosine(probe: Embeddings, enrol: Embeddings) -> FloatArray:
    """(P, E) cosine similarities; `MISSING` wherever one of the two faces could not be embedded."""
    small = probe.row @ enrol.row.T
    small[~probe.row.any(axis=1)] = MISSING
    small[:, ~enrol.row.any(axis=1)] = MISSING
    return np.asarray(small[probe.index][:, enrol.index], dtype=np.float32)


def per_identity(scores: FloatArray, enrol_class: IntArray, classes: int) -> FloatArray:
    """Best score over each identity's enrolled images: (P, E) and (E,) -> (P, C). Every class has at least one image."""
    order = np.argsort(enrol_class, kind="stable")
    starts = np.searchsorted(enrol_class[order], np.arange(classes))
    return np.asarray(np.maximum.reduceat(scores[:, order], starts, axis=1))


def template(enrol: Embeddings, enrol_class: IntArray, classes: int) -> Embeddings:
    """(C,) the mean of each identity's enrolled embeddings, normalised; a person of whom no face was found is missing."""
    total = np.zeros((classes, enrol.row.shape[1]))
    np.add.at(total, enrol_class, enrol.images)
    return Embeddings.of(total.astype(np.float32), "templates")


def checked_template(name: str, kind: str) -> None:
    """Refuse a template that is none.

    Raises:
        ConfigError: names the attacker, the value and what is allowed.
    """
    if kind not in get_args(Template):
        raise ConfigError(f"{name}: template={kind!r}; allowed: {', '.join(get_args(Template))}")


def compare(probe: Embeddings, enrol: Embeddings, enrol_class: IntArray, classes: int, kind: Template) -> FloatArray:
    """(P, C) cosine with each person: with the best of the enrolled images, or with their mean."""
    if kind == "mean":
        return cosine(probe, template(enrol, enrol_class, classes))
    return per_identity(cosine(probe, enrol), enrol_class, classes)


@dataclass(frozen=True)
class AttackView:
    """What an attacker sees of one role (S or E) through one embedder.

    Attributes:
        clear, anonymized: embeddings of all N faces of the table, both sides.
        identity: (N,) labels; an attacker may look at those of `train` and `enrol` only.
        train: rows of role T.
        enrol, probe: rows of this role; every probed identity is enrolled.
        classes: (C,) enrolled identities, ascending: the columns of the scores.
        seed: for attackers that draw.
        role: which role is attacked.
        extra: further embeddings of the N faces that cost pixels: `mixed` (T at random strengths), `restored:NAME` (probes restored by a
            restorer), `backbone` (faces of S and E through recognisers retrained on T). A face that was not measured is all zero.
        absent: why an extra is not there.
        known: the anonymizer's training used this embedder or a relative of it.
        assignment: `per_image`, or `per_identity` (each person keeps one pseudonym).
        company: the other views of the same release by (role, embedder), this one included, for attackers that join several. Of role S an
            attacker may look at all labels.
        learned: what attackers learned on T, by attacker; the two roles of a release share it.
    """

    clear: Embeddings
    anonymized: Embeddings
    identity: IntArray
    train: IntArray
    enrol: IntArray
    probe: IntArray
    classes: IntArray
    seed: int = 0
    role: str = "E"
    extra: Mapping[str, Embeddings] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    known: bool = False
    assignment: str = "per_image"
    company: Mapping[tuple[str, str], AttackView] = field(default_factory=dict, repr=False, compare=False)
    learned: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    _scores: dict[Any, FloatArray] = field(init=False, default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, table: FaceTable, role: str, clear: Embeddings, anonymized: Embeddings, seed: int = 0) -> AttackView:
        """The view of one role. Faces without identity, and probes of people who are not enrolled, are left out."""
        known = table.identity >= 0
        enrol = table.rows(role, "enrol")
        enrol = enrol[known[enrol]]
        classes = np.unique(table.identity[enrol])
        probe = table.rows(role, "probe")
        probe = probe[np.isin(table.identity[probe], classes)]
        train = table.rows("T")
        return cls(clear, anonymized, table.identity, train[known[train]], enrol, probe, classes, seed, role)

    def with_anonymized(
        self,
        anonymized: Embeddings,
        extra: Mapping[str, Embeddings] | None = None,
        absent: Mapping[str, str] | None = None,
    ) -> AttackView:
        """The same people, other anonymized embeddings, seen alone: without company."""
        return replace(self, anonymized=anonymized, extra=extra or {}, absent=absent or {}, company={}, learned={})

    def once(self, key: Hashable, learn: Callable[[], T]) -> T:
        """What an attacker learns on T: the first asker learns it, for both roles."""
        if key not in self.learned:
            self.learned[key] = learn()
        found: T = self.learned[key]
        return found

    def scores_of(self, each: Attacker) -> FloatArray:
        """What an attacker scores here, computed once however many ask."""
        if each not in self._scores:
            self._scores[each] = each.scores(self)
        return self._scores[each]

    def without(self, name: str) -> str:
        """Why an extra is not there, or empty when it is."""
        return "" if name in self.extra else self.absent.get(name, f"{name}: not measured")

    @cached_property
    def enrol_class(self) -> IntArray:
        """(E,) column of each enrolled image."""
        return np.searchsorted(self.classes, self.identity[self.enrol]).astype(np.int64)

    @cached_property
    def probe_class(self) -> IntArray:
        """(P,) true column of each probe: for the referee only."""
        return np.searchsorted(self.classes, self.identity[self.probe]).astype(np.int64)

    def problem(self) -> str:
        """Why nobody can be identified here, or empty."""
        if not (self.identity >= 0).any():
            return "no identities"
        if len(self.probe) == 0:
            return WITHOUT_REPEATS
        return "fewer than two identities" if len(self.classes) < 2 else ""


@runtime_checkable
class Attacker(Protocol):
    """Somebody who tries to tell who a face is. Frozen and stateless: whatever is learned, is learned in `scores`.

    Class attributes:
        id: short name in tables (`A0`).
        name: long name.
        knowledge: one line: trained on, enrolment, probes.
        needs: of `train` (faces of role T), `repeats` (at least two enrolled images of each person), `company` (joins several
            embedders: it runs once, not once per embedder).
        reference: where the attack comes from.

    An attacker of several kinds (`A2:mlp`) has the class attribute `variant`, the name of the parameter that tells them apart. One that
    needs faces to be measured for it has a property `extra`, the name of those embeddings in `AttackView.extra`.
    """

    id: ClassVar[str]
    name: ClassVar[str]
    knowledge: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    reference: ClassVar[str]

    def problem(self, view: AttackView) -> str:
        """Why this attacker cannot work on this view, or empty."""
        ...

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C), higher means more likely this person; equal embeddings must give equal rows."""
        ...


def lacking(needs: frozenset[str], view: AttackView) -> str:
    """Why the needs of an attacker are not met, or empty."""
    reason = view.problem()
    if reason:
        return reason
    if "repeats" in needs and np.bincount(view.enrol_class, minlength=len(view.classes)).min() < 2:
        return WITHOUT_REPEATS
    if "train" in needs:
        _, count = np.unique(view.identity[view.train], return_counts=True)
        if (count >= 2).sum() < 2:
            return "fewer than two people with repeats in role T to learn from"
    if "company" in needs and not view.company:
        return "no other view of the same release"
    return ""
