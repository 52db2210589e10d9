"""Groups of people, secondary leaks, realism of sets, and evidence: what the referee says beside its two objectives."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from raysweep.attackers.whitening import Whitening
from raysweep.engine.record import TrialRecord
from raysweep.metrics.expression import ExpressionSums
from raysweep.metrics.identification import rank1_at_gallery
from raysweep.metrics.uncertainty import Resampling
from raysweep.objective import Judgement, Protocol, Referee
from raysweep.objective.leaks import _Discriminant
from raysweep.schema import FaceTable, FloatArray, Measurements

PROTOCOL = Protocol(attackers=("A0", "A1"), bootstrap=200, controls=False)
PEOPLE, IMAGES, DIM = 80, 10, 48
ROLES = np.array(["T"] * 24 + ["S"] * 24 + ["E"] * 32)


def _table(groups: np.ndarray | None = None) -> FaceTable:
    role = ROLES.repeat(IMAGES)
    groups = np.where(np.arange(PEOPLE) % 2 == 0, "f", "m") if groups is None else groups
    half = np.tile(np.where(np.arange(IMAGES) % 2 == 0, "enrol", "probe"), PEOPLE)
    return FaceTable(
        face_id=np.array([f"x{i}" for i in range(PEOPLE * IMAGES)]),
        identity=np.arange(PEOPLE).repeat(IMAGES).astype(np.int64),
        expression=np.random.default_rng(1).integers(0, 7, PEOPLE * IMAGES).astype(np.int64),
        role=role,
        side=np.where(role == "T", "", half),
        identity_names=tuple(f"p{i}" for i in range(PEOPLE)),
        attributes={"gender": groups.repeat(IMAGES)},
    )


def _faces(table: FaceTable, seed: int = 0) -> FloatArray:
    """People apart, and the two halves of them a little more."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((PEOPLE, DIM)) + 0.7 * np.where(np.arange(PEOPLE) % 2 == 0, 1, -1)[:, None]
    return np.asarray(centre[table.identity] + 0.4 * rng.standard_normal((len(table), DIM)), dtype=np.float32)


def _clear(table: FaceTable) -> Measurements:
    rng = np.random.default_rng(2)
    shares = 0.9 * np.eye(7)[table.expression] + 0.1 * rng.dirichlet(np.ones(7), len(table))
    features = rng.standard_normal((len(table), 6)).astype(np.float32)
    features[table.role != "E"] = np.nan
    return Measurements(
        {"net": _faces(table)},
        {"fer": shares.astype(np.float32)},
        {"detected": np.ones(len(table), np.float32)},
        {"expression": features},
    )


@pytest.fixture(scope="module")
def table() -> FaceTable:
    return _table()


@pytest.fixture(scope="module")
def clear(table: FaceTable) -> Measurements:
    return _clear(table)


@pytest.fixture(scope="module")
def referee(table: FaceTable, clear: Measurements) -> Referee:
    return Referee(table, clear, PROTOCOL)


def _noise(like: FloatArray, seed: int = 9) -> FloatArray:
    return np.asarray(np.random.default_rng(seed).standard_normal(like.shape), dtype=np.float32)


def test_a_release_that_hides_one_half_only(referee: Referee, table: FaceTable, clear: Measurements) -> None:
    """Half of the people become noise and lose their expression: the other half is protected less, and the slices say so."""
    hidden = table.attributes["gender"] == "f"
    faces, shares = clear.embeddings["net"], clear.probabilities["fer"]
    mixed = replace(
        clear,
        embeddings={"net": np.where(hidden[:, None], _noise(faces), faces)},
        probabilities={"fer": np.where(hidden[:, None], np.roll(shares, 1, axis=1), shares)},
    )
    metrics = referee.judge(mixed).metrics
    f, m = (
        {name: metrics[f"slice/gender/{word}/{name}"] for name in ("privacy", "privacy_gap", "clear_rank1", "utility")}
        for word in "fm"
    )
    assert f["privacy"].value > 0.8
    assert m["privacy"].value < 0.1
    assert f["privacy"].lo <= f["privacy"].value <= f["privacy"].hi
    assert m["privacy_gap"].value > 0.3
    assert m["privacy_gap"].lo > 0 > f["privacy_gap"].hi
    assert f["clear_rank1"].value > 0.95
    assert (f["utility"].value, m["utility"].value) == (0, 1)
    assert {value.n_ids for value in (*f.values(), *m.values())} == {16}
    # The slices are halves of the whole: the gap weighs out.
    assert f["privacy_gap"].value + m["privacy_gap"].value == pytest.approx(0, abs=0.02)


def test_a_slice_equals_the_attack_on_its_people(referee: Referee, table: FaceTable, clear: Measurements) -> None:
    """Oracle: rank-1 at q in the gallery of all, people of one half only, from the scores themselves."""
    faces = clear.embeddings["net"] + 1.2 * _noise(clear.embeddings["net"])
    judged = referee.judge(replace(clear, embeddings={"net": faces}))
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (faces, clear.embeddings["net"])]
    enrol, probe = table.rows("E", "enrol"), table.rows("E", "probe")
    chosen = next(row["attacker"] for row in judged.attackers if row["selected"])

    def rank1(side: FloatArray, enrolled: FloatArray) -> dict[str, float]:
        people = np.unique(table.identity[enrol])
        pairs = side[probe] @ enrolled[enrol].T
        scores = np.stack([pairs[:, table.identity[enrol] == person].max(axis=1) for person in people], axis=1)
        own = np.searchsorted(people, table.identity[probe])
        above = (scores > scores[np.arange(len(own)), own][:, None]).sum(axis=1)
        hits = rank1_at_gallery(above, np.zeros_like(above), len(people), 20)
        each = {person: hits[table.identity[probe] == person].mean() for person in people}
        return {
            word: float(np.mean([value for person, value in each.items() if ("f", "m")[person % 2] == word]))
            for word in "fm"
        }

    attacked = rank1(unit[0], unit[0] if chosen == "A1" else unit[1])
    control = rank1(unit[1], unit[1])
    for word in "fm":
        expected = 1 - (attacked[word] - 0.05) / (control[word] - 0.05)
        assert judged.metrics[f"slice/gender/{word}/privacy"].value == pytest.approx(expected, abs=1e-4)
        assert judged.metrics[f"slice/gender/{word}/clear_rank1"].value == pytest.approx(control[word], abs=1e-6)


def test_a_small_group_is_undefined_and_hostile_words_make_clean_names(clear: Measurements) -> None:
    words = np.array(["</script>\n/../x"] * 75 + ["few"] * 5)
    metrics = Referee(_table(words), clear, PROTOCOL).judge(clear).metrics
    assert metrics["slice/gender/few/privacy"].reason == "5 identities; a slice needs 10"
    assert metrics["slice/gender/few/utility"].status == "undefined"
    assert math.isnan(metrics["slice/gender/few/privacy"].value)
    names = [name for name in metrics if name.startswith("slice/")]
    assert {name.count("/") for name in names} == {3}
    assert not any(set(name) & set("<>\n") for name in names)
    assert "fewer than two groups" in metrics["leak/attribute/gender"].reason


def test_group_leak_sees_what_is_left_of_the_group(referee: Referee, table: FaceTable, clear: Measurements) -> None:
    faces = clear.embeddings["net"]
    same = referee.judge(clear).metrics["leak/attribute/gender"]
    assert same.value == 1
    group = np.where(table.attributes["gender"] == "f", 1.0, -1.0)[:, None]
    only_group = referee.judge(
        replace(clear, embeddings={"net": (group + 0.3 * _noise(faces)).astype(np.float32)})
    ).metrics
    assert only_group["leak/attribute/gender"].value > 0.95
    assert only_group["privacy"].value > 0.8
    nothing = referee.judge(replace(clear, embeddings={"net": _noise(faces)})).metrics["leak/attribute/gender"]
    assert nothing.value < 0.35
    assert nothing.lo == 0
    # A group that only a classifier trained on the release itself can still read.
    flipped = referee.judge(replace(clear, embeddings={"net": -faces})).metrics["leak/attribute/gender"]
    assert flipped.value > 0.9
    assert "trained on anonymized faces" in flipped.reason
    for undetected in (np.zeros_like(faces), np.ones_like(faces)):
        assert referee.judge(replace(clear, embeddings={"net": undetected})).metrics["leak/attribute/gender"].value == 0


def test_the_discriminant_agrees_with_scikit_learn(table: FaceTable) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    faces = _faces(table) + 1.5 * _noise(_faces(table))
    group = np.arange(PEOPLE).repeat(IMAGES) % 2
    train = np.arange(len(table)) < 500
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    oracle.fit(faces[train], group[train])
    ours = _Discriminant.of(Whitening.fit(faces[train].astype(np.float64), group[train])).nearest(faces[~train])
    assert (ours == oracle.predict(faces[~train])).mean() > 0.97


def test_leaks_at_both_ends(referee: Referee, clear: Measurements) -> None:
    same = referee.judge(clear).metrics
    assert same["leak/rank_bits"].value > 4
    assert same["legacy/hifd_privacy"].value == pytest.approx(0, abs=1e-6)
    assert same["leak/linkability"].value > 0.9
    lost = referee.judge(replace(clear, embeddings={"net": np.ones_like(clear.embeddings["net"])})).metrics
    assert lost["leak/rank_bits"].value == 0
    assert lost["leak/linkability"].value == 0
    assert 0.3 < lost["legacy/hifd_privacy"].value < 0.7


def test_realism_of_sets(referee: Referee, table: FaceTable, clear: Measurements) -> None:
    same = referee.judge(clear).metrics
    assert same["realism/detection"].value == 1
    assert same["realism/detection"].lo == pytest.approx(1 - 0.1072, abs=1e-3)  # Wilson, 32 of 32 people
    assert same["privacy/fta"].value == 0
    assert same["realism/kid_expression"].value == pytest.approx(0, abs=1e-9)
    assert same["realism/kid_expression"].n == 320
    assert "needs 2048" in same["realism/fid_expression"].reason
    assert "inception" in same["realism/kid"].reason
    assert same["realism/axis"].reason.startswith("KID: no inception")
    moved = {"expression": clear.features["expression"] + 1}
    half = {"detected": np.where(np.arange(len(table)) % 2 == 0, 1, 0).astype(np.float32)}
    worse = referee.judge(replace(clear, realism=half, features=moved)).metrics
    assert worse["realism/detection"].value == 0.5
    assert worse["privacy/fta"].value == 0.5
    assert worse["realism/kid_expression"].value > 1
    as_inception = replace(clear, features={"inception": clear.features["expression"]})
    metrics = Referee(table, as_inception, PROTOCOL).judge(replace(as_inception, realism=half)).metrics
    assert metrics["realism/axis"].value == pytest.approx(0.5)
    bare = replace(clear, realism={}, features={})
    nothing = Referee(table, bare, PROTOCOL).judge(bare).metrics
    assert nothing["realism/detection"].reason == "no detector of such faces at hand"
    assert {nothing[name].status for name in ("realism/kid", "realism/axis", "privacy/fta")} == {"undefined"}


def test_objectives_can_be_computed_again_from_the_evidence(
    referee: Referee, table: FaceTable, clear: Measurements
) -> None:
    shares = clear.probabilities["fer"]
    half = np.where((np.arange(len(table)) % 2 == 0)[:, None], shares, np.roll(shares, 3, axis=1))
    judged = referee.judge(replace(clear, probabilities={"fer": half}))
    common = referee.common_evidence()
    for role, metric in (("E", "utility"), ("S", "selection/utility")):
        y, z = (judged.evidence[f"expression/{role}/fer/{side}"] for side in ("clear", "anonymized"))
        assert y.dtype == np.int8
        answers = np.vstack([np.eye(7), np.full(7, 1 / 7)])
        again = ExpressionSums.start(7).update(
            answers[y], answers[z], common[f"expression/{role}/identity"].astype(np.int64)
        )
        found = again.compute(PROTOCOL.resampling)["utility"].metric(PROTOCOL.resampling)
        assert found.value == pytest.approx(judged.metrics[metric].value, abs=1e-12)
        assert (found.lo, found.hi) == pytest.approx((judged.metrics[metric].lo, judged.metrics[metric].hi), abs=1e-9)
        assert (common[f"expression/{role}/label"] == table.expression[table.rows(role)]).all()
    assert judged.evidence["draws/utility"].shape == (200,)
    assert judged.evidence["draws/utility"].dtype == np.float32
    fmr, fnmr = judged.evidence["roc/net/fmr"], judged.evidence["roc/net/fnmr"]
    assert len(fmr) == len(fnmr) <= 200
    area = float(np.sum(np.diff(fmr) * (1 - (fnmr[1:] + fnmr[:-1]) / 2)))
    assert area == pytest.approx(judged.metrics["privacy/auc"].value, abs=0.01)
    assert common["rank/E/gallery"].tolist() == [32, 20]
    assert len(common["rank/E/class"]) == 160
    for name, array in (*judged.evidence.items(), *common.items()):
        assert array.ndim == 1, name
        assert array.dtype.kind in "fi", name
        assert array.nbytes < 100_000, name


def _degenerate(kind: str, table: FaceTable, clear: Measurements) -> tuple[FaceTable, Measurements]:
    match kind:
        case "nobody has a name":
            return replace(table, identity=np.full(len(table), -1, dtype=np.int64)), clear
        case "one photograph each":
            return table.take(np.arange(0, len(table), IMAGES)), _take(clear, np.arange(0, len(table), IMAGES))
        case "nine people":
            rows = np.flatnonzero((table.identity < 33) & (table.identity >= 24 - 5) | (table.identity >= PEOPLE - 9))
            return table.take(rows), _take(clear, rows)
        case "nobody in E":
            rows = np.flatnonzero(table.role != "E")
            return table.take(rows), _take(clear, rows)
        case "one expression":
            return table, replace(
                clear, probabilities={"fer": np.tile(np.eye(7, dtype=np.float32)[3], (len(table), 1))}
            )
        case "no models":
            return table, Measurements({}, {}, {})
        case "nothing found":
            return table, Measurements(
                {"net": np.zeros((len(table), DIM), np.float32)}, {"fer": np.zeros((len(table), 7), np.float32)},
                {"detected": np.zeros(len(table), np.float32)},
            )  # fmt: skip
    raise AssertionError(kind)


def _take(measured: Measurements, rows: np.ndarray) -> Measurements:
    return Measurements(
        *(
            {name: values[rows] for name, values in part.items()}
            for part in (measured.embeddings, measured.probabilities, measured.realism, measured.features)
        )
    )


@pytest.mark.parametrize(
    "kind",
    ["nobody has a name", "one photograph each", "nine people", "nobody in E", "one expression", "no models", "nothing found"],
)  # fmt: skip
def test_poor_data_is_undefined_with_reasons_down_to_the_record(
    kind: str, table: FaceTable, clear: Measurements
) -> None:
    """No exception, no 0 in place of a missing number, and every reason survives the ledger's JSON."""
    poor, measured = _degenerate(kind, table, clear)
    judged: Judgement = Referee(poor, measured, PROTOCOL).judge(measured)
    assert set(judged.metrics) >= {
        "privacy",
        "utility",
        "privacy/auc",
        "leak/rank_bits",
        "realism/kid",
        "legacy/privacy",
    }
    for name, value in judged.metrics.items():
        assert (value.status == "undefined") == math.isnan(value.value), name
        assert value.reason or value.ok, name
        assert value.reason or not math.isnan(value.lo), name
    record = TrialRecord("k", 0, "a", {}, {}, "complete", metrics=judged.metrics, attackers=tuple(judged.attackers))
    again = TrialRecord.from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False)))
    assert {name: value.to_dict() for name, value in again.metrics.items()} == {
        name: value.to_dict() for name, value in judged.metrics.items()
    }
    privacy_known = kind in ("one expression", "nine people")
    assert judged.metrics["privacy"].ok == privacy_known
    assert record.rankable == (privacy_known and judged.metrics["utility"].ok)


def test_undefined_and_vacuous_rows_reach_the_record(table: FaceTable, clear: Measurements) -> None:
    blind = replace(clear, embeddings={"net": clear.embeddings["net"], "blind": _noise(clear.embeddings["net"])})
    judged = Referee(table, blind, PROTOCOL).judge(blind)
    status = {(row["attacker"], row["embedder"]): (row["status"], row["reason"]) for row in judged.attackers}
    assert status["A1", "net"] == ("ok", "")
    assert status["A1", "blind"][0] == "vacuous"
    assert "on clear faces" in status["A1", "blind"][1]
    assert judged.metrics["privacy"].value == 0


def test_published_ordering(table: FaceTable, clear: Measurements) -> None:
    """Hao et al. 2020, Gaussian 35: the ignorant attacker is lost, the one who learns on the release recognises most people.

    Strong blur moves and turns all embeddings alike; what tells people apart survives, damped.
    """
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    damped = clear.embeddings["net"] * np.linspace(1.5, 0.1, DIM) @ turn + 6 * rng.standard_normal(DIM)
    blurred = (damped + 0.15 * rng.standard_normal(damped.shape)).astype(np.float32)
    protocol = replace(PROTOCOL, attackers=("A0", "A1", "A2"))
    judged = Referee(table, clear, protocol).judge(replace(clear, embeddings={"net": blurred}))
    rank1 = {row["attacker"]: row["rank1_E"] for row in judged.attackers}
    assert rank1["A0"] < 0.15
    assert rank1["A2"] > 0.8
    assert judged.metrics["privacy/gap"].lo > 0.5


def test_no_intervals_when_the_bootstrap_is_off(table: FaceTable, clear: Measurements) -> None:
    off = Referee(table, clear, replace(PROTOCOL, bootstrap=0)).judge(clear)
    assert off.metrics["slice/gender/f/privacy"].ok
    assert math.isnan(off.metrics["slice/gender/f/privacy"].lo)
    assert off.evidence["draws/utility"].shape == (0,)
    assert Resampling(0).draws == 0
