from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from raysweep.attackers import Attacker, AttackView, attacker, attackers_of, label, registry
from raysweep.attackers.adapters import principal
from raysweep.attackers.base import lacking
from raysweep.attackers.cross_domain import PairMap
from raysweep.attackers.registry import kinds_of, list_attackers, plugin_of
from raysweep.config import RunSettings
from raysweep.engine.controls import ControlStore
from raysweep.errors import ConfigError
from raysweep.metrics.identification import IdentificationSums
from raysweep.metrics.uncertainty import Resampling
from raysweep.objective import Protocol, Referee
from raysweep.objective.learning import with_less
from raysweep.provenance import _protocol_basis
from raysweep.schema import FloatArray, Measurements
from raysweep.testing.attacker import example_company, example_embeddings, example_table

TABLE = example_table(people={"T": 16, "S": 12, "E": 20})


def _clear() -> dict[str, FloatArray]:
    return {"near": example_embeddings(TABLE), "far": example_embeddings(TABLE, 0.6, 1)}


def _measured(embeddings: dict[str, FloatArray], **extra: dict[str, FloatArray]) -> Measurements:
    return Measurements(embeddings, {}, {}, extra=extra)


def _noisy(rows: FloatArray, noise: float, seed: int) -> FloatArray:
    return np.asarray(rows + noise * np.random.default_rng(seed).standard_normal(rows.shape), dtype=np.float32)


def _rank1(scores: FloatArray, view: AttackView) -> float:
    sums = IdentificationSums.start(len(view.classes), 20).update(scores, view.probe_class)
    return sums.standard(Resampling(0)).value


def _judge(names: tuple[str, ...], anonymized: Measurements, known: tuple[str, ...] = (), **given: object):  # type: ignore[no-untyped-def]
    protocol = Protocol(attackers=names, bootstrap=100, **given)  # type: ignore[arg-type]
    return Referee(TABLE, _measured(_clear()), protocol).judge(anonymized, known)


def test_cross_domain_learns_the_way_back() -> None:
    """A fixed turn of the space fools the ignorant attacker alone; one who has pairs undoes it."""
    clear = _clear()
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((24, 24)))[0].astype(np.float32)
    view = example_company(TABLE, clear, {name: rows @ turn for name, rows in clear.items()})["E", "near"]
    assert _rank1(attacker("A0").scores(view), view) < 0.3
    assert _rank1(attacker("A2c").scores(view), view) > 0.95


def test_pair_map_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    random = np.random.default_rng(0)
    given, noise = random.standard_normal((60, 10)), random.standard_normal((60, 4))
    wanted = given @ random.standard_normal((10, 4)) + noise
    learned = PairMap.fit(given, wanted)
    oracle = Ridge(alpha=learned.penalty).fit(given, wanted)
    fresh = random.standard_normal((5, 10))
    assert learned(fresh) == pytest.approx(oracle.predict(fresh), abs=1e-8)


def test_principal_components_follow_the_rule() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((400, 200))
    assert principal(rows)(rows).shape == (400, 128)
    flat = random.standard_normal((50, 3)) @ random.standard_normal((3, 40))
    assert principal(flat)(flat).shape == (50, 3)
    assert principal(np.ones((9, 4)))(np.ones((9, 4))).shape == (9, 0)


def test_mixed_strength_learns_on_what_it_was_given() -> None:
    clear = _clear()
    random = np.random.default_rng(2)
    swamp = (3 * random.standard_normal((len(TABLE), 4)) @ random.standard_normal((4, 24)) / 5).astype(np.float32)
    hidden = {name: rows + swamp for name, rows in clear.items()}
    views = example_company(TABLE, clear, hidden)
    informed = views["E", "near"]
    ignorant = replace(informed, extra={"mixed": informed.clear}, learned={})
    assert _rank1(attacker("A2m").scores(informed), informed) > _rank1(attacker("A2m").scores(ignorant), ignorant) + 0.2


def test_fusing_beats_its_members_when_they_err_apart() -> None:
    clear = _clear()
    hidden = {name: _noisy(rows, 0.35, number) for number, (name, rows) in enumerate(clear.items())}
    judged = _judge(("A0", "A1", "A6"), _measured(hidden))
    rows = {(row["attacker"], row["embedder"]): row for row in judged.attackers if not row["control"]}
    fused = rows.pop(("A6", "all"))
    assert fused["settings"] == "members=A0+A1"
    assert fused["rank1_E"] > max(row["rank1_E"] for row in rows.values())
    assert fused["selected"]
    assert judged.metrics["privacy/rank1"].value == fused["rank1_E"]


def test_fusing_without_selection_people_has_a_reason() -> None:
    table = example_table(people={"T": 4, "E": 12})
    rows = {"near": example_embeddings(table)}
    judged = Referee(table, _measured(rows), Protocol(attackers=("A1", "A6"), bootstrap=100)).judge(_measured(rows))
    fused = next(row for row in judged.attackers if row["attacker"] == "A6")
    assert fused["status"] == "undefined"
    assert "role S" in fused["reason"]


def test_transfer_leaves_out_the_embedder_that_taught() -> None:
    """The anonymizer fools the embedder it was trained against; the other one sees through."""
    clear = _clear()
    fooled = {"near": _noisy(clear["near"], 9.0, 1), "far": clear["far"]}
    judged = _judge(("A0", "A1", "A2", "A5"), _measured(fooled), known=("near",))
    rows = {(row["attacker"], row["embedder"]): row for row in judged.attackers if not row["control"]}
    for base in ("A0", "A1", "A2"):
        assert rows[f"A5:{base}", "near"]["status"] == "undefined"
        assert "another descent" in rows[f"A5:{base}", "near"]["reason"]
        assert rows[f"A5:{base}", "far"]["rank1_E"] == rows[base, "far"]["rank1_E"]
    assert rows["A1", "near"]["known_to_anonymizer"]
    assert not rows["A1", "far"]["known_to_anonymizer"]
    alone = _judge(("A5:A1",), _measured(fooled), known=("near", "far"))
    assert alone.metrics["privacy"].status == "undefined"


def test_pseudonyms_are_linked_only_where_they_are_released() -> None:
    clear = _clear()
    plain = _judge(("A1", "A7"), _measured(clear))
    kept = _judge(("A1", "A7"), _measured(clear), assignment="per_identity")
    for judged, status in ((plain, "undefined"), (kept, "ok")):
        rows = [row for row in judged.attackers if row["attacker"] == "A7"]
        assert {row["status"] for row in rows} == {status}
    assert {row["assignment"] for row in kept.attackers if not row["control"]} == {"per_identity"}
    lazy, link = (next(row for row in kept.attackers if row["attacker"] == name) for name in ("A1", "A7"))
    assert lazy["rank1_E"] == link["rank1_E"]


def test_restored_probes_meet_clear_enrolment() -> None:
    clear = _clear()
    lost = {name: _noisy(rows, 9.0, 5) for name, rows in clear.items()}
    judged = _judge(("A0", "A4"), Measurements(lost, {}, {}, extra={"restored:ridge": clear}))
    rows = {(row["attacker"], row["embedder"]): row for row in judged.attackers if not row["control"]}
    assert rows["A4", "near"]["name"] == "reversal (ridge)"
    assert rows["A4", "near"]["advantage_E"] == 1
    assert judged.metrics["privacy"].value == 0
    untold = _judge(("A0", "A4"), Measurements(clear, {}, {}, absent={"restored:ridge": "no faces in role T"}))
    assert {row["reason"] for row in untold.attackers if row["attacker"] == "A4"} == {"no faces in role T"}


def test_a_restorer_that_ruins_clear_faces_is_vacuous() -> None:
    clear = _clear()
    ruined = {name: _noisy(rows, 30.0, 6) for name, rows in clear.items()}
    referee = Referee(
        TABLE, Measurements(clear, {}, {}, extra={"restored:ridge": ruined}), Protocol(attackers=("A4",), bootstrap=100)
    )
    judged = referee.judge(Measurements(clear, {}, {}, extra={"restored:ridge": clear}))
    assert {row["status"] for row in judged.attackers if not row["control"]} == {"vacuous"}
    assert judged.metrics["privacy"].status == "undefined"


def test_less_training_is_part_of_more() -> None:
    rows = _clear()
    view = example_company(TABLE, rows, rows)["E", "near"]
    quarter, half = (set(with_less(view, share, "train").train.tolist()) for share in (25, 50))
    assert quarter < half < set(view.train.tolist())
    assert len(half) == len(view.train) // 2
    for share, images in ((25, 1), (50, 2)):
        less = with_less(view, share, "enrol")
        assert np.bincount(less.enrol_class).tolist() == [images] * 20


def test_the_learning_curve_tells_who_would_gain() -> None:
    clear = _clear()
    random = np.random.default_rng(2)
    swamp = (2.5 * random.standard_normal((len(TABLE), 10)) @ random.standard_normal((10, 24)) / 5).astype(np.float32)
    hungry = _judge(("A2",), _measured({name: rows + swamp for name, rows in clear.items()}), learning_curve=True)
    sated = _judge(("A2", "A3"), _measured(clear), learning_curve=True)
    assert sated.metrics["attack/undertrained"].value == 0
    row = next(row for row in hungry.attackers if row["attacker"] == "A2")
    assert row["rank1_E_25"] < row["rank1_E"]
    gain = hungry.metrics["attack/undertrained_gain"]
    assert gain.value == pytest.approx(
        max(row["rank1_E"] - row["rank1_E_50"] for row in hungry.attackers if not row["control"]), abs=1e-12
    )
    flagged = [row["undertrained"] for row in hungry.attackers if not row["control"]]
    assert hungry.metrics["attack/undertrained"].value == float(any(flagged))
    assert "attack/undertrained" not in _judge(("A1",), _measured(clear)).metrics


def test_ranks_are_kept_as_evidence() -> None:
    clear = _clear()
    judged = _judge(("A0", "A6"), _measured({name: _noisy(rows, 0.3, 3) for name, rows in clear.items()}))
    above = judged.evidence["rank/E/A0/near/above"]
    view = example_company(TABLE, clear, clear)["E", "near"]
    assert above.shape == (len(view.probe),)
    top = np.array([(above[view.probe_class == person] == 0).mean() for person in range(20)])
    row = next(row for row in judged.attackers if row["embedder"] == "near")
    assert row["rank1_E"] == pytest.approx(top.mean(), abs=1e-12)
    assert judged.evidence["draws/privacy"].shape == (100,)
    assert "rank/S/A6/all/equal" in judged.evidence


def test_the_clear_side_is_learned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clear, store = _clear(), ControlStore(tmp_path)
    first = Referee(TABLE, _measured(clear), Protocol(bootstrap=100), store.get)
    files = list((tmp_path / "controls").glob("*.npz"))
    assert len(files) == 1
    monkeypatch.setattr(type(attacker("A3")), "scores", lambda *_: pytest.fail("learned again"))
    again = Referee(TABLE, _measured(clear), Protocol(bootstrap=100), store.get)
    for key, outcome in first.privacy.attacks.clear.items():
        assert np.array_equal(outcome.above, again.privacy.attacks.clear[key].above)
    monkeypatch.undo()
    other = {**clear, "near": _noisy(clear["near"], 0.01, 0)}
    Referee(TABLE, _measured(other), Protocol(bootstrap=100), store.get)
    Referee(TABLE, _measured(clear), Protocol(bootstrap=100, attacker_settings={"A3": {"epochs": 3}}), store.get)
    assert len(list((tmp_path / "controls").glob("*.npz"))) == 3
    files[0].write_bytes(files[0].read_bytes()[:100])
    healed = Referee(TABLE, _measured(clear), Protocol(bootstrap=100), store.get)
    assert np.array_equal(
        healed.privacy.attacks.clear["E", "A3", "near"].above, first.privacy.attacks.clear["E", "A3", "near"].above
    )


def test_names_kinds_and_settings() -> None:
    made = attackers_of(("A0", "A2", "A2:mlp", "A4:unet", "A5", "A6"), {"A2": {"epochs": 7}, "A4": {"epochs": 2}})
    assert [label(each) for each in made] == ["A0", "A2", "A2:mlp", "A4:unet", "A5:A0", "A5:A1", "A5:A2", "A6"]
    assert made[2].epochs == 7  # type: ignore[attr-defined]
    assert [label(member) for member in made[-1].members] == ["A0", "A2", "A2:mlp", "A4:unet"]  # type: ignore[attr-defined]
    assert kinds_of(attacker("A2")) == "whitening, lda, mlp, backbone"
    with pytest.raises(ConfigError) as caught:
        attackers_of(("A9", "A1:best", "A3"), {"A3": {"epoch": 3}})
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="A3 is not among"):
        attackers_of(("A1",), {"A3": {"epochs": 3}})
    with pytest.raises(ConfigError, match="template='worst'; allowed: best, mean"):
        attacker("A1", template="worst")
    with pytest.raises(ConfigError, match="adapter='pca'"):
        attacker("A2:pca")
    with pytest.raises(ConfigError, match="also set to"):
        attacker("A4:unet", restorer="ridge")


@dataclass(frozen=True)
class Coin:
    id: ClassVar[str] = "acme.coin"
    name: ClassVar[str] = "coin"
    knowledge: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = "none"

    def problem(self, view: AttackView) -> str:
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        return np.zeros((len(view.probe), len(view.classes)), dtype=np.float32)


def test_plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("acme_attackers")
    module.Coin, module.thing = Coin, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "acme_attackers", module)
    points = [
        EntryPoint("acme.coin", "acme_attackers:Coin", registry.GROUP),
        EntryPoint("acme.broken", "acme_attackers:missing", registry.GROUP),
        EntryPoint("acme.other", "acme_attackers:Coin", registry.GROUP),
        EntryPoint("plain", "acme_attackers:Coin", registry.GROUP),
        EntryPoint("acme.thing", "acme_attackers:thing", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    made = attacker("acme.coin")
    assert isinstance(made, Attacker)
    assert plugin_of(made) == Coin.__module__
    assert plugin_of(attacker("A1")) == ""
    errors = {name: error for name, _, _, error in list_attackers()}
    assert errors["acme.coin"] == errors["A1"] == ""
    assert "cannot be loaded" in errors["acme.broken"]
    assert "calls itself 'acme.coin'" in errors["acme.other"]
    assert "vendor.name" in errors["plain"]
    assert "not a class" in errors["acme.thing"]
    judged = _judge(("A1", "acme.coin"), _measured(_clear()))
    assert {row["status"] for row in judged.attackers if row["attacker"] == "acme.coin"} == {"vacuous"}


def test_a_budget_is_part_of_what_a_sweep_asks() -> None:
    """Another number of epochs or images of an attacker is another sweep: its numbers are never served for this one."""
    asked = [
        {},
        {"attacker": {"A3": {"epochs": 5}}},
        {"attacker": {"A3": {"epochs": 6}}},
        {"attackers": ("A0", "A4:unet"), "attacker": {"A4": {"images": 50}}},
        {"attackers": ("A0", "A4:unet"), "attacker": {"A4": {"images": 60}}},
    ]
    bases = [json.dumps(_protocol_basis(RunSettings.model_validate(given)), sort_keys=True) for given in asked]
    assert len(set(bases)) == len(asked)
    again = _protocol_basis(RunSettings.model_validate(asked[1]))
    assert json.dumps(again, sort_keys=True) == bases[1]
