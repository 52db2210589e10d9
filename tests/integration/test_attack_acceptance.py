"""The attacker ladder on faces: what each rung must be able to do; prints the numbers (`pytest -s`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raysweep.api import evaluate
from raysweep.engine.record import TrialRecord

SMALL = "synthetic:identities=40,images_per_identity=8"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("ladder")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAYSWEEP_CACHE", str(place / "cache"))
    yield place
    patch.undo()


def rank1(record: TrialRecord, attacker: str) -> float:
    return max(row["rank1_E"] for row in record.attackers if row["attacker"] == attacker and not row["control"])


def scored(folder: Path, *words: str, data: str = SMALL, models: str | None = None) -> TrialRecord:
    result = evaluate(*words, data=data, models=models, runs=folder / "runs")
    record = next(record for record in result.records if not record.control)
    assert record.state == "complete", record.reason
    for row in record.attackers:
        if not row["control"]:
            print(f"{' '.join(words[:2])}: {row['attacker']} {row['name']} {row['embedder']}: {row['rank1_E']}")
    return record


def test_reversal_lifts_a_strong_blur(folder: Path) -> None:
    """The ignorant attacker is fooled; restored by ridge or through the known operator, the same faces are recognised again."""
    record = scored(
        folder, "blur", "kernel_size=71", "attackers=[A0,A1,A2,A4,A4:operator]", "attacker.A4.iterations=40"
    )
    assert rank1(record, "A4") > rank1(record, "A0") + 0.1
    assert rank1(record, "A4:operator") > rank1(record, "A0") + 0.1
    assert record.metrics["privacy"].value < record.metrics["privacy/naive"].value


@pytest.mark.real
@pytest.mark.parametrize(("name", "setting"), [("blur", "kernel_size=61"), ("pixelate", "block_size=16")])
def test_real_faces_naive_against_aware(real_root: Path, folder: Path, name: str, setting: str) -> None:
    """Twenty people of LFW, one embedder; the faces are prepared once for both settings."""
    data, models = folder / "lfw", folder / "models"
    if not data.exists():
        for person in sorted((real_root / "faces_id" / "lfw").iterdir())[:20]:
            (data / person.name).mkdir(parents=True)
            for image in sorted(person.iterdir())[:12]:
                shutil.copy(image, data / person.name)
        models.mkdir()
        wanted = ("det_yunet_2023mar", "rec_mobilefacenet_liguiyuan", "fer_mini_xception_fer2013")
        for model in wanted:
            shutil.copy(real_root / "models" / f"{model}.onnx", models)
    record = scored(folder, name, setting, "attackers=[A0,A1,A2]", data=str(data), models=str(models))
    aware = max(rank1(record, attacker) for attacker in ("A1", "A2"))
    print(f"{name} {setting}: A0 {rank1(record, 'A0'):.3f}, best aware {aware:.3f}")
    assert aware - rank1(record, "A0") >= 0.3
