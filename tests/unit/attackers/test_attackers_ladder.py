from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf

from raysweep.attackers import Attacker, AttackView, Embeddings, attacker
from raysweep.attackers.base import MISSING, cosine, per_identity, template
from raysweep.attackers.controls import clear_control, null_control, random_control, vacuity
from raysweep.attackers.whitening import shrunk_covariance
from raysweep.errors import ConfigError, DataError
from raysweep.metrics.identification import IdentificationSums
from raysweep.metrics.uncertainty import Resampling
from raysweep.schema import FaceTable

PLAN = Resampling(draws=0)
PEOPLE = {"G": 2, "T": 30, "S": 10, "E": 30}
EVERY = ("A0", "A1", "A2", "A2c", "A3")
"""Those that work on one embedder and nothing but released faces."""


def _table(images: int = 8, people: dict[str, int] | None = None) -> FaceTable:
    people = people or PEOPLE
    role = np.repeat(list(people), [count * images for count in people.values()])
    identity = np.arange(sum(people.values())).repeat(images)
    half = np.tile(np.where(np.arange(images) % 2 == 0, "enrol", "probe"), sum(people.values()))
    return FaceTable(
        face_id=np.array([f"f{i}" for i in range(len(role))]),
        identity=identity.astype(np.int64),
        expression=np.full(len(role), -1, dtype=np.int64),
        role=role,
        side=np.where(np.isin(role, ["S", "E"]), half, ""),
        identity_names=tuple(f"p{i}" for i in range(sum(people.values()))),
    )


def _faces(table: FaceTable, dim: int = 64, noise: float = 0.4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((len(table.identity_names), dim))
    faces = centre[table.identity] + noise * rng.standard_normal((len(table), dim))
    return (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)


def _view(table: FaceTable, clear: np.ndarray, anonymized: np.ndarray, role: str = "E") -> AttackView:
    return AttackView.of(table, role, Embeddings.of(clear), Embeddings.of(anonymized))


def _rank1(name: str | Attacker, view: AttackView, gallery: int = 20) -> float:
    each = attacker(name) if isinstance(name, str) else name
    assert each.problem(view) == ""
    scores = each.scores(view)
    assert scores.shape == (len(view.probe), len(view.classes))
    assert np.isfinite(scores).all()
    sums = IdentificationSums.start(len(view.classes), gallery).update(scores, view.probe_class)
    return sums.standard(PLAN).value


@pytest.mark.parametrize("name", EVERY)
def test_contract_and_clear_faces(name: str) -> None:
    table = _table()
    faces = _faces(table)
    each = attacker(name)
    assert isinstance(each, Attacker)
    assert each.id == name
    assert attacker(each.name) == each
    view = _view(table, faces, faces)
    assert _rank1(name, clear_control(view)) > 0.95
    assert np.array_equal(each.scores(view), each.scores(view))


@pytest.mark.parametrize("name", EVERY)
def test_blackout_with_arithmetic_noise_is_exactly_chance(name: str) -> None:
    table = _table()
    faces = _faces(table)
    rng = np.random.default_rng(1)
    black = faces[:1] + 1e-7 * rng.standard_normal(faces.shape).astype(np.float32)
    assert _rank1(name, _view(table, faces, black)) == pytest.approx(1 / 20, abs=1e-14)
    if name not in ("A0", "A2c"):
        scores = attacker(name).scores(_view(table, faces, black))
        assert (scores == scores[:, :1]).all()


@pytest.mark.parametrize("name", EVERY)
def test_nothing_detected_is_exactly_chance(name: str) -> None:
    table = _table()
    faces = _faces(table)
    assert _rank1(name, _view(table, faces, np.zeros_like(faces))) == pytest.approx(1 / 20, abs=1e-14)


@pytest.mark.parametrize("name", EVERY)
def test_an_undetected_probe_has_tied_scores(name: str) -> None:
    table = _table()
    faces = _faces(table)
    view = _view(table, faces, faces)
    hidden = faces.copy()
    hidden[view.probe[3]] = 0
    scores = attacker(name).scores(_view(table, faces, hidden))
    assert (scores[3] == scores[3, 0]).all()
    assert not (scores[4] == scores[4, 0]).all()


@pytest.mark.parametrize("name", EVERY)
def test_controls_without_information_are_at_chance(name: str) -> None:
    table = _table()
    faces = _faces(table)
    view = _view(table, faces, faces)
    assert _rank1(name, random_control(view)) == pytest.approx(0.05, abs=0.04)
    mean = np.mean(
        [_rank1(name, null_control(AttackView.of(table, "E", view.clear, view.clear, seed))) for seed in range(8)]
    )
    assert mean == pytest.approx(0.05, abs=0.04)


def test_sign_flip_fools_only_the_ignorant() -> None:
    table = _table()
    faces = _faces(table)
    view = _view(table, faces, -faces)
    assert _rank1("A0", view) < 0.01
    assert _rank1("A1", view) == _rank1("A1", clear_control(view))
    for name in ("A2", "A3"):
        assert _rank1(name, view) > 0.95


def test_training_beats_nuisance_that_hides_the_identity() -> None:
    """A few strong random directions swamp the cosine; who learns them takes them out."""
    table = _table()
    faces = _faces(table)
    rng = np.random.default_rng(2)
    hidden = faces + 3 * (rng.standard_normal((len(faces), 6)) @ rng.standard_normal((6, 64)) / 8).astype(np.float32)
    view = _view(table, faces, hidden)
    assert max(_rank1("A0", view), _rank1("A1", view)) < 0.4
    assert _rank1("A2", view) > 0.9
    assert _rank1("A3", view) > 0.9


def test_one_picture_per_person_released_many_times() -> None:
    """A pseudonym (the same anonymized face for all photographs of a person) is no privacy."""
    table = _table()
    faces = _faces(table)
    pseudonyms = _faces(table, noise=0, seed=9)
    view = _view(table, faces, pseudonyms)
    assert _rank1("A0", view) < 0.2
    for name in ("A1", "A2", "A3"):
        assert _rank1(name, view) > 0.99


@pytest.mark.parametrize("k", [2, 5, 10])
@pytest.mark.parametrize("name", ["A1", "A3"])
def test_subject_k_same_gives_one_in_k(k: int, name: str) -> None:
    table = _table()
    faces = _faces(table)
    people = len(table.identity_names)
    group = np.random.default_rng(3).permutation(people)
    start = 0
    for count in PEOPLE.values():
        group[start : start + count] = start + (np.arange(count) // k)
        start += count
    shared = _faces(table, noise=0, seed=4)[:: len(table) // people][group][table.identity]
    view = _view(table, faces, shared)
    assert _rank1(name, view, gallery=30) == pytest.approx(1 / k, abs=1e-9)


def test_untrained_head_knows_nothing() -> None:
    table = _table()
    faces = _faces(table)
    scores = attacker("A3", epochs=0).scores(_view(table, faces, faces))
    assert (scores == 0).all()


def test_reasons() -> None:
    single = _table(images=1)
    faces = _faces(single)
    for name in EVERY:
        assert attacker(name).problem(_view(single, faces, faces)) == "identities without repeats"
    pair = _table(images=2)
    faces = _faces(pair)
    assert attacker("A1").problem(_view(pair, faces, faces)) == ""
    assert attacker("A3").problem(_view(pair, faces, faces)) == "identities without repeats"
    alone = _table(people={"G": 1, "T": 1, "S": 1, "E": 1})
    faces = _faces(alone)
    assert attacker("A0").problem(_view(alone, faces, faces)) == "fewer than two identities"
    few = _table(people={"G": 1, "T": 1, "S": 5, "E": 5})
    faces = _faces(few)
    assert "role T" in attacker("A2").problem(_view(few, faces, faces))


def test_vacuity_gate() -> None:
    assert vacuity(0.9, 0.8, 0.05, 0.95) == ""
    assert "not above chance" in vacuity(0.06, 0.04, 0.05, 0.95)
    assert "below half" in vacuity(0.4, 0.3, 0.05, 0.95)


def test_bad_names_and_parameters() -> None:
    with pytest.raises(ConfigError, match="did you mean 'lazy'"):
        attacker("lazzy")
    with pytest.raises(ConfigError, match="epoch"):
        attacker("A3", epoch=3)
    with pytest.raises(ConfigError, match="allowed: both 0 or more"):
        attacker("A3", epochs=-1)


def test_embeddings_must_be_finite() -> None:
    faces = np.ones((4, 3), dtype=np.float32)
    faces[2, 1] = np.nan
    with pytest.raises(DataError, match=r"buffalo: 1 embeddings are not finite \(rows 2\)"):
        Embeddings.of(faces, "buffalo")
    with pytest.raises(DataError, match="shape"):
        Embeddings.of(np.ones(4))
    assert len(Embeddings.of(np.empty((0, 5)))) == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(1, 10), st.integers(8, 128), st.integers(0, 1000))
def test_equal_faces_share_a_row_and_others_do_not(n: int, groups: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((groups, dim))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    which = rng.integers(0, groups, n)
    found = Embeddings.of(base[which] + 1e-7 * rng.standard_normal((n, dim)))
    assert np.array_equal(found.index[:, None] == found.index[None, :], which[:, None] == which[None, :])
    assert len(found.row) == len(np.unique(which))
    assert np.array_equal(found.take(np.arange(n)[::-1]).images, found.images[::-1])


def test_scores_of_equal_faces_are_bit_identical() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((7, 128)).astype(np.float32)
    probe, enrol = Embeddings.of(rows[rng.integers(0, 7, 333)]), Embeddings.of(rows[rng.integers(0, 7, 517)])
    assert len(np.unique(cosine(probe, enrol))) <= 49


def test_best_score_per_person_and_templates() -> None:
    scores = np.array([[0.1, 0.9, 0.4], [0.3, 0.2, 0.8]], dtype=np.float32)
    assert per_identity(scores, np.array([1, 0, 1]), 2) == pytest.approx(np.array([[0.9, 0.4], [0.2, 0.8]]))
    faces = Embeddings.of(np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32))
    means = template(faces, np.array([0, 0, 1]), 2)
    assert means.images[0] == pytest.approx([2**-0.5, 2**-0.5])
    assert means.found.tolist() == [True, False]
    assert cosine(faces, means)[:, 1].tolist() == [MISSING] * 3


def test_shrunk_covariance_agrees_with_scikit_learn() -> None:
    for shape in ((50, 8), (10, 40)):
        rows = np.random.default_rng(0).standard_normal(shape)
        rows -= rows.mean(axis=0)
        assert shrunk_covariance(rows) == pytest.approx(ledoit_wolf(rows, assume_centered=True)[0], abs=1e-10)
    assert (shrunk_covariance(np.zeros((5, 3))) == 0).all()
