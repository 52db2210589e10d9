"""What is kept of trials, and which trial a point means; rows taken from a store too large for memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysweep.config import RunSettings
from raysweep.engine.ledger import Ledger
from raysweep.engine.point import find_point
from raysweep.engine.record import TrialRecord
from raysweep.engine.references import take_faces
from raysweep.engine.release import _curve_difference
from raysweep.engine.states import MAX_STATE_BYTES, StateStore, state_digest
from raysweep.errors import ConfigError, StoreError
from raysweep.metrics.value import MetricValue
from raysweep.schema import AlignedFaces, FaceTable, Frame
from raysweep.tracking.info import SweepInfo

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor([2, 5]), "none": torch.zeros(0)}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    assert store.write("k1", STATE)
    found = store.read("k1")
    assert found is not None
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        name: tensor.tolist() for name, tensor in STATE.items()
    }
    assert state_digest(found) == state_digest(STATE)
    assert store.folder.stat().st_mode & 0o077 == 0
    assert [path.name for path in store.folder.iterdir()] == ["k1.safetensors"]


def test_the_digest_sees_names_types_shapes_and_bits() -> None:
    others = [
        {**STATE, "steps": torch.tensor([2, 6])},
        {**STATE, "steps": torch.tensor([2, 5], dtype=torch.int32)},
        {**STATE, "a.weight": STATE["a.weight"].reshape(3, 2)},
        {**STATE, "b.weight": STATE["a.weight"]},
    ]
    assert len({state_digest(state) for state in [STATE, *others]}) == 5
    assert state_digest(dict(reversed(STATE.items()))) == state_digest(STATE)


@pytest.mark.parametrize("at", [4, -1, None])
def test_a_damaged_state_is_as_good_as_none(tmp_path: Path, at: int | None) -> None:
    store = StateStore(tmp_path)
    store.write("k1", STATE)
    data = bytearray(store.path("k1").read_bytes())
    if at is None:
        data = data[:-3]
    else:
        data[at] ^= 1
    store.path("k1").write_bytes(bytes(data))
    assert store.read("k1") is None


def test_large_and_empty_states_are_not_kept_and_others_can_be_forgotten(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    assert not store.write("large", {"w": torch.empty(MAX_STATE_BYTES // 4 + 1)})
    assert not store.write("empty", {})
    assert store.read("large") is None
    for key in ("k1", "k2"):
        store.write(key, STATE)
    store.forget({"k1", "k9"})
    assert (store.read("k1"), store.read("k2") is None) == (None, False)
    with pytest.raises(StoreError, match="cannot name a file"):
        store.path("../k1")


def record(number: int, privacy: float, utility: float, **changes: Any) -> TrialRecord:
    metrics = {"privacy": MetricValue(privacy), "utility": MetricValue(utility)}
    made: dict[str, Any] = {
        "key": f"key{number}", "number": number, "anonymizer": "blur", "setting": {"kernel_size": 31 + 2 * number}, "fidelity": {},
        "state": "complete", "metrics": metrics, "seed": 4,
    }  # fmt: skip
    return TrialRecord(**{**made, **changes})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "blur-0123abcd"
    folder.mkdir()
    info = SweepInfo("blur", "0123abcd", "some", True, "blur", folder)
    run = RunSettings(assignment="per_identity").model_dump(mode="json")
    (folder / "sweep.json").write_text(json.dumps({"info": info.to_dict(), "run": run, "basis": {}}))
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.append(record(0, 0.9, 0.1))
        ledger.append(record(1, 0.7, 0.7))
        ledger.append(record(2, 0.1, 0.9))
        ledger.append(record(3, 0, 0, state="failed", metrics={}, reason="no luck"))
        ledger.append(record(-1, 1, 0, control="blackout", key="control-x"))
    return tmp_path


@pytest.mark.parametrize(("name", "number"), [("blur-0123abcd#2", 2), ("0123#0", 0), ("#knee", 1), ("blur#knee", 1)])
def test_a_point_names_a_trial(runs: Path, name: str, number: int) -> None:
    point = find_point(name, [], runs)
    assert point.record is not None
    assert point.record.number == number
    assert point.setting == {"kernel_size": 31 + 2 * number}
    assert (point.seed, point.run.assignment, point.typed) == (4, "per_identity", False)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("blur#9", [], "no trial 9: it has 4, on the front are 0, 1, 2"),
        ("blur#3", [], r"trial 3 of blur-0123abcd failed \(no luck\)"),
        ("blur#best", [], "after # comes the number of a trial, or knee"),
        ("blurr#1", [], "no run"),
        ("blur#1", ["kernel_size=3"], "leave out kernel_size=3"),
        ("blur", ["kernel_sise=3"], "did you mean 'kernel_size'"),
    ],
)
def test_a_wrong_point_is_explained(runs: Path, name: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_point(name, words, runs)


def test_losses_are_compared_by_their_size() -> None:
    curves = {"loss": (4.0, 2.0), "flat": (0.0,)}
    assert _curve_difference(curves, curves) == 0
    assert _curve_difference({"loss": (4.0, 2.004), "flat": (0.0,)}, curves) == pytest.approx(0.001)
    assert _curve_difference({"loss": (4.0,), "flat": (0.0,)}, curves) == np.inf
    assert _curve_difference({}, curves) == np.inf


@pytest.mark.parametrize("masks", [True, False])
def test_many_rows_are_the_same_rows_in_a_file(tmp_path: Path, masks: bool) -> None:
    rng = np.random.default_rng(0)
    crop = np.lib.format.open_memmap(tmp_path / "crop.npy", mode="w+", dtype=np.uint8, shape=(40, 8, 8, 3))
    crop[:] = rng.integers(0, 256, crop.shape)
    table = FaceTable(
        np.array([str(row) for row in range(40)]), np.arange(40), np.zeros(40, np.int64), np.full(40, "G"), np.full(40, ""),
        tuple(map(str, range(40))),
    )  # fmt: skip
    mask = rng.integers(0, 19, (40, 8, 8), dtype=np.uint8) if masks else None
    points = rng.random((40, 5, 2)).astype(np.float32)
    faces = AlignedFaces(table, Frame(64), crop, points, None, mask, True)
    rows = np.array([7, 3, 30, 3])
    small, large = take_faces(faces, rows), take_faces(faces, rows, resident_bytes=0)
    assert not isinstance(small.crop, np.memmap)
    assert isinstance(large.crop, np.memmap)
    assert [path.name for path in tmp_path.iterdir()] == ["crop.npy"]  # the file has no name
    for name in ("crop", "points", "mask"):
        np.testing.assert_array_equal(getattr(large, name), getattr(small, name))
    assert large.table.face_id.tolist() == ["7", "3", "30", "3"]
