"""The contract of an attacker as a test class: inherit it, name your attacker in one fixture, run pytest.

from raysweep.testing.attacker import AttackerContract

class TestMyAttacker(AttackerContract):
    @pytest.fixture
    def attacker(self):
        return MyAttacker()
"""

# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from raysweep.attackers.base import Attacker, AttackView, Embeddings
from raysweep.errors import DataError
from raysweep.metrics.identification import IdentificationSums
from raysweep.metrics.uncertainty import Resampling
from raysweep.schema import FaceTable, FloatArray

__all__ = ["AttackerContract", "example_company", "example_embeddings", "example_table"]

PEOPLE: Mapping[str, int] = {"T": 14, "S": 8, "E": 20}
EMBEDDERS = ("near", "far")
Company = dict[tuple[str, str], AttackView]


def example_table(images: int = 6, people: Mapping[str, int] = PEOPLE) -> FaceTable:
    """Labels of so many people per role, with so many images each; in S and E every other image is enrolled."""
    role = np.repeat(list(people), [count * images for count in people.values()])
    total = sum(people.values())
    half = np.tile(np.where(np.arange(images) % 2 == 0, "enrol", "probe"), total)
    return FaceTable(
        face_id=np.array([f"face {number}" for number in range(len(role))]),
        identity=np.arange(total).repeat(images).astype(np.int64),
        expression=np.full(len(role), -1, dtype=np.int64),
        role=role,
        side=np.where(np.isin(role, ["S", "E"]), half, ""),
        identity_names=tuple(f"person {number}" for number in range(total)),
    )


def example_embeddings(table: FaceTable, noise: float = 0.4, seed: int = 0, dim: int = 24) -> FloatArray:
    """A centre per person and Gaussian noise, of unit length: (N, dim)."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((len(table.identity_names), dim))[table.identity]
    rows = rows + noise * random.standard_normal(rows.shape)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def example_company(
    table: FaceTable,
    clear: Mapping[str, npt.NDArray[np.floating]],
    anonymized: Mapping[str, npt.NDArray[np.floating]],
    seed: int = 0,
) -> Company:
    """Views of a release by (role, embedder), as the referee makes them; whatever extra is asked for is what was released."""
    views: Company = {}
    for name in clear:
        before, after = Embeddings.of(clear[name], name), Embeddings.of(anonymized[name], name)
        extra = dict.fromkeys(
            ("mixed", "backbone", *(f"restored:{kind}" for kind in ("ridge", "autoencoder", "unet", "operator"))), after
        )
        learned: dict[object, object] = {}
        for role in ("S", "E"):
            view = AttackView.of(table, role, before, after, seed)
            views[role, name] = replace(view, extra=extra, assignment="per_identity", company=views, learned=learned)
    return views


class AttackerContract:
    """What every attacker promises. Override `attacker`."""

    @pytest.fixture
    def attacker(self) -> Attacker:
        """The attacker under test."""
        raise NotImplementedError("override the fixture attacker")

    @pytest.fixture
    def table(self) -> FaceTable:
        """Labels of the faces."""
        return example_table()

    @pytest.fixture
    def clear(self, table: FaceTable) -> dict[str, FloatArray]:
        """Two embedders."""
        return {name: example_embeddings(table, seed=number) for number, name in enumerate(EMBEDDERS)}

    @pytest.fixture
    def anonymized(self, clear: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """The clear faces, turned and shaken."""
        found = {}
        for number, (name, rows) in enumerate(clear.items()):
            random = np.random.default_rng([9, number])
            turn = np.linalg.qr(random.standard_normal((rows.shape[1], rows.shape[1])))[0]
            found[name] = (rows @ turn + 0.1 * random.standard_normal(rows.shape)).astype(np.float32)
        return found

    @pytest.fixture
    def view(
        self, table: FaceTable, clear: Mapping[str, FloatArray], anonymized: Mapping[str, FloatArray]
    ) -> AttackView:
        """Role E through the first embedder."""
        return example_company(table, clear, anonymized)["E", EMBEDDERS[0]]

    def test_it_declares_what_it_is(self, attacker: Attacker) -> None:
        """Names, needs and a source; hashable and equal to itself made again, so that its scores can be shared."""
        assert isinstance(attacker, Attacker)
        assert attacker.id
        assert "/" not in attacker.id
        assert attacker.name
        assert attacker.knowledge
        assert attacker.reference
        assert attacker.needs <= {"train", "repeats", "company"}
        assert hash(attacker) == hash(replace(attacker))  # type: ignore[type-var]
        assert attacker == replace(attacker)  # type: ignore[type-var]

    def test_scores_are_a_finite_table(self, attacker: Attacker, view: AttackView) -> None:
        """(P, C), finite, floating."""
        assert attacker.problem(view) == ""
        scores = attacker.scores(view)
        assert scores.shape == (len(view.probe), len(view.classes))
        assert np.issubdtype(scores.dtype, np.floating)
        assert np.isfinite(scores).all()

    def test_it_recognises_clear_faces(
        self, attacker: Attacker, table: FaceTable, clear: Mapping[str, FloatArray]
    ) -> None:
        """With nothing hidden it is far above chance: an attacker that cannot do that says nothing about privacy."""
        view = example_company(table, clear, clear)["E", EMBEDDERS[0]]
        assert _rank1(attacker.scores(view), view) > 0.5

    def test_it_is_deterministic(
        self,
        attacker: Attacker,
        table: FaceTable,
        clear: Mapping[str, FloatArray],
        anonymized: Mapping[str, FloatArray],
    ) -> None:
        """Learned again from the same data, bit for bit the same; the global random state is left alone."""
        # NumPy's global state, to see that nobody uses it.
        state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
        first, again = (attacker.scores(example_company(table, clear, anonymized)["E", EMBEDDERS[0]]) for _ in range(2))
        assert np.array_equal(first, again)
        after = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
        assert state["pos"] == after["pos"]
        assert np.array_equal(state["key"], after["key"])

    def test_labels_of_probes_are_not_read(
        self,
        attacker: Attacker,
        table: FaceTable,
        clear: Mapping[str, FloatArray],
        anonymized: Mapping[str, FloatArray],
    ) -> None:
        """Other true people behind the probes of E, and behind role G: the same scores."""
        probes = table.rows("E", "probe")
        identity = table.identity.copy()
        identity[probes] = np.random.default_rng(3).permutation(identity[probes])
        blind = replace(table, identity=identity)
        views = [example_company(labels, clear, anonymized)["E", EMBEDDERS[0]] for labels in (table, blind)]
        assert not np.array_equal(views[0].probe_class, views[1].probe_class)
        assert np.array_equal(attacker.scores(views[0]), attacker.scores(views[1]))

    def test_equal_faces_get_equal_scores(
        self,
        attacker: Attacker,
        table: FaceTable,
        clear: Mapping[str, FloatArray],
        anonymized: Mapping[str, FloatArray],
    ) -> None:
        """The same image, though with arithmetic noise, as two probes: equal rows."""
        changed = {name: rows.copy() for name, rows in anonymized.items()}
        probes = table.rows("E", "probe")
        random = np.random.default_rng(4)
        for rows in changed.values():
            rows[probes[5]] = rows[probes[0]] + 1e-7 * random.standard_normal(rows.shape[1])
        scores = attacker.scores(example_company(table, clear, changed)["E", EMBEDDERS[0]])
        assert np.array_equal(scores[0], scores[5])

    def test_one_image_for_all_is_exactly_chance(
        self, attacker: Attacker, table: FaceTable, clear: Mapping[str, FloatArray]
    ) -> None:
        """What blackout releases."""
        random = np.random.default_rng(5)
        black = {
            name: (rows[:1] + 1e-7 * random.standard_normal(rows.shape)).astype(np.float32)
            for name, rows in clear.items()
        }
        view = example_company(table, clear, black)["E", EMBEDDERS[0]]
        assert _rank1(attacker.scores(view), view) == pytest.approx(1 / len(view.classes), abs=1e-12)

    def test_nothing_detected_is_exactly_chance(
        self, attacker: Attacker, table: FaceTable, clear: Mapping[str, FloatArray]
    ) -> None:
        """No anonymized face could be embedded: all people are tied."""
        nothing = {name: np.zeros_like(rows) for name, rows in clear.items()}
        view = example_company(table, clear, nothing)["E", EMBEDDERS[0]]
        if not attacker.problem(view):
            assert _rank1(attacker.scores(view), view) == pytest.approx(1 / len(view.classes), abs=1e-12)

    def test_permuted_labels_are_at_chance(
        self, attacker: Attacker, table: FaceTable, clear: Mapping[str, FloatArray]
    ) -> None:
        """Enrolled under wrong names, nobody is found more often than by guessing."""
        found = []
        for seed in range(4):
            identity = table.identity.copy()
            for role in ("S", "E"):
                rows = table.rows(role, "enrol")
                identity[rows] = np.random.default_rng([6, seed]).permutation(identity[rows])
            view = example_company(replace(table, identity=identity), clear, clear, seed)["E", EMBEDDERS[0]]
            if not attacker.problem(view):
                found.append(_rank1(attacker.scores(view), view))
        assert not found or np.mean(found) == pytest.approx(1 / len(view.classes), abs=0.08)

    def test_the_identity_transform_is_the_clear_control(
        self, attacker: Attacker, table: FaceTable, clear: Mapping[str, FloatArray]
    ) -> None:
        """Clear faces that pass for anonymized ones score bit for bit as clear faces."""
        control = example_company(table, clear, clear)["E", EMBEDDERS[0]]
        copied = {name: rows.copy() for name, rows in clear.items()}
        release = example_company(table, clear, copied)["E", EMBEDDERS[0]]
        assert np.array_equal(attacker.scores(control), attacker.scores(release))

    def test_one_photograph_per_person_has_a_reason(self, attacker: Attacker) -> None:
        """Nobody can be recognised who is seen once; it says so and is not asked."""
        single = example_table(images=1)
        rows = {name: example_embeddings(single) for name in EMBEDDERS}
        assert "repeats" in attacker.problem(example_company(single, rows, rows)["E", EMBEDDERS[0]])

    def test_two_people(self, attacker: Attacker) -> None:
        """The smallest gallery there is."""
        pair = example_table(people={"T": 2, "S": 2, "E": 2})
        rows = {name: example_embeddings(pair) for name in EMBEDDERS}
        view = example_company(pair, rows, rows)["E", EMBEDDERS[0]]
        if not attacker.problem(view):
            scores = attacker.scores(view)
            assert scores.shape == (len(view.probe), 2)
            assert np.isfinite(scores).all()

    def test_what_is_not_finite_is_refused(self, table: FaceTable, clear: Mapping[str, FloatArray]) -> None:
        """NaN never reaches an attacker."""
        broken = {name: rows.copy() for name, rows in clear.items()}
        broken[EMBEDDERS[0]][7, 2] = np.nan
        with pytest.raises(DataError, match="not finite"):
            example_company(table, clear, broken)


def _rank1(scores: FloatArray, view: AttackView) -> float:
    sums = IdentificationSums.start(len(view.classes), len(view.classes)).update(scores, view.probe_class)
    return sums.standard(Resampling(0)).value
