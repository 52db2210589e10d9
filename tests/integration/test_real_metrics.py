"""On real faces: k-Same over subjects keeps its promise; a detector finds the released faces, and nothing in black ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raysweep.api import evaluate
from raysweep.engine.record import TrialRecord

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("real-metrics")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAYSWEEP_CACHE", str(place / "cache"))
    yield place
    patch.undo()


def _score(real_root: Path, folder: Path, *setting: str) -> dict[str, TrialRecord]:
    result = evaluate(
        "k-same", *setting, "attackers=[A0,A1]", "engine=local",
        data=str(real_root / "faces_id" / "lfw"), models=str(real_root / "models"), runs=folder / "runs",
    )  # fmt: skip
    return {record.control or "scored": record for record in result.records}


def test_k_same_on_real_faces(real_root: Path, folder: Path) -> None:
    subjects = _score(real_root, folder, "k=5", "unit=subjects")
    rank1 = subjects["scored"].metrics["privacy/rank1_full"]
    print(f"k-same over subjects, k=5, {rank1.n_ids} people: rank-1 {rank1.value:.4f}, 1/k 0.2")
    assert rank1.value == pytest.approx((rank1.n_ids // 5) / rank1.n_ids, abs=1e-9)
    assert rank1.value <= 0.2 + 1e-9
    assert subjects["scored"].notes["holds"] is True
    detection = {name: record.metrics["realism/detection"] for name, record in subjects.items()}
    for name, value in detection.items():
        print(f"{name}: faces that the detector still finds {value.value:.3f} of {value.n}")
    assert (detection["identity"].value, detection["blackout"].value) == (1, 0)
    assert subjects["identity"].metrics["privacy/fta"].value < 0.02
    assert subjects["blackout"].metrics["privacy/fta"].value == 1
    assert subjects["scored"].metrics["realism/kid"].status == "undefined"
