"""What must come out on synthetic faces whatever else changes; prints the numbers (`pytest -s`)."""

from __future__ import annotations

import pytest

from raysweep.api import evaluate
from raysweep.engine.record import TrialRecord

# Some ten trials of the default size.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FACES = "synthetic:identities=100,images_per_identity=14"


@pytest.fixture(scope="module")
def score(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Scores one setting; the faces are prepared once."""
    folder = tmp_path_factory.mktemp("sanity")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAYSWEEP_CACHE", str(folder / "cache"))

    def run(anonymizer: str, *settings: str) -> TrialRecord:
        result = evaluate(anonymizer, *settings, data=FACES, runs=folder / "runs")
        record = next(record for record in result.records if not record.control)
        assert record.state == "complete", record.reason
        return record

    yield run
    patch.undo()


def rank1(record: TrialRecord, attacker: str, gallery: str = "rank1_E") -> float:
    """Rank-1 at the standard gallery size of the embedder with which this attacker does best."""
    return max(row[gallery] for row in record.attackers if row["attacker"] == attacker and row[gallery] is not None)


def test_identity_and_blackout_are_the_ends_of_the_scale(score) -> None:
    for name, expected in (("identity", (0.0, 1.0)), ("blackout", (1.0, 0.0))):
        metrics = score(name).metrics
        found = (metrics["privacy"].value, metrics["utility"].value)
        print(f"{name}: P {found[0]:.3f}, U {found[1]:.3f}")
        assert found == expected


@pytest.mark.parametrize(("name", "setting"), [("pixelate", "block_size=28"), ("blur", "kernel_size=101")])
def test_the_ignorant_attacker_is_far_behind_the_best_aware_one(score, name: str, setting: str) -> None:
    record = score(name, setting)
    naive = rank1(record, "A0")
    aware = max(rank1(record, attacker) for attacker in ("A1", "A2", "A3"))
    print(f"{name} {setting}: A0 {naive:.3f}, best aware {aware:.3f}, gap {aware - naive:.3f}")
    assert aware - naive >= 0.3


@pytest.mark.parametrize("k", [2, 5, 10])
def test_subject_k_same_leaves_one_in_k(score, k: int) -> None:
    record = score("k-same", f"k={k}", "unit=subjects", "attackers=[A0,A1]")
    value = record.metrics["privacy/rank1_full"]
    people = value.n_ids
    # The people who are left over join the last group, so the exact value is groups / people: 1/k when k divides their number.
    expected = (people // k) / people
    print(
        f"k-same over subjects, k={k}, {people} people: strongest attacker's rank-1 {value.value:.4f}, exact {expected:.4f}, 1/k {1 / k:.4f}"
    )
    assert value.value == pytest.approx(expected, abs=1e-9)
    assert value.value <= 1 / k + 1e-9
    assert record.notes["holds"] is True


def test_image_k_same_with_repeats_breaks_the_promise_and_says_so(score) -> None:
    record = score("k-same", "k=5", "unit=images", "attackers=[A0,A1]")
    value = record.metrics["privacy/rank1_full"]
    print(f"k-same over images, k=5: strongest attacker's rank-1 {value.value:.3f}, 1/k 0.200")
    assert value.value > 0.2
    assert record.notes["holds"] is False
