"""A judgement does not depend on who measured which faces: 1, 2 or 7 workers, any batch size, parts in any order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
from raysweep.engine.controls import ControlStore
from raysweep.engine.record import Outcome, TrialTask
from raysweep.engine.worker import TrialWorker, WorkerPlan
from raysweep.models.embedders import LEAST_COSINE
from raysweep.schema import IntArray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LADDER = ("A0", "A1", "A2", "A2c", "A2m", "A3", "A4", "A6")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkerPlan, IntArray]]:
    with own_cache(tmp_path_factory.mktemp("workers")):
        plan, (chunks,) = worker_plan(drawn_faces(36, 6))
        yield replace(plan, protocol=replace(plan.protocol, attackers=LADDER)), np.concatenate(chunks)


def judged(plan: WorkerPlan, rows: IntArray, task: TrialTask, workers: int, batch: int) -> Outcome:
    """Deal the rows out to so many workers, in a drawn order, and let the last one judge."""
    random = np.random.default_rng(workers)
    team = [TrialWorker(replace(plan, batch_size=batch)) for _ in range(workers)]
    fitted = team[0].fit(task)
    dealt = np.array_split(random.permutation(rows), 3 * workers - 2)
    parts = [team[number % workers].measure(task, fitted, np.sort(part)) for number, part in enumerate(dealt)]
    extras = [team[number % workers].develop(task, fitted, name) for number, name in enumerate(plan.protocol.extras)]
    return team[-1].judge(task, fitted, [parts[place] for place in random.permutation(len(parts))], extras)


@pytest.mark.parametrize(
    ("anonymizer", "setting"),
    [("blur", {"kernel_size": 81}), ("ganonymization", {"steps": 0, "landmark_noise": 0.01})],
    ids=["blur", "ganonymization"],
)
def test_the_same_numbers(
    prepared: tuple[WorkerPlan, IntArray], anonymizer: str, setting: dict[str, int | float]
) -> None:
    plan, rows = prepared
    task = TrialTask("key", 0, anonymizer, setting, 0, extras=plan.protocol.extras)
    alone = judged(plan, rows, task, 1, 128)
    for name in ("privacy/auc", "utility/js", "leak/linkability"):
        assert 0 < alone.metrics[name].value < 1, f"{name}: nothing that could differ"
    for workers, batch in ((2, 33), (7, 5)):
        other = judged(plan, rows, task, workers, batch)
        assert other.metrics.keys() == alone.metrics.keys()
        worst = 0.0
        for name, value in alone.metrics.items():
            again = other.metrics[name]
            assert again.status == value.status, name
            for end in ("value", "lo", "hi"):
                left, right = getattr(value, end), getattr(again, end)
                assert left == pytest.approx(right, abs=1e-6, nan_ok=True), f"{name}: {end}"
                worst = max(worst, 0.0 if math.isnan(left) else abs(left - right))
        rank1 = [[row["rank1_E"] for row in side.attackers] for side in (alone, other)]
        assert rank1[0] == pytest.approx(rank1[1], abs=1e-6, nan_ok=True)
        print(
            f"{anonymizer}, {workers} workers, batches of {batch}: {len(alone.metrics)} metrics, largest difference {worst:.1e}"
        )


def test_how_recognisers_are_run_is_found_once_for_all_workers(prepared: tuple[WorkerPlan, IntArray]) -> None:
    """What a worker does on a GPU, here on the processor."""
    plan, rows = prepared
    first, second = (TrialWorker(replace(plan, batch_size=32, precision="float16")) for _ in range(2))
    assert first.tuned() == {}, "on a processor nothing is measured"
    before = {
        model.name: model.embed(first._crops(rows[:8]), first.references.faces.frame) for model in first._embedders
    }
    store = ControlStore(Path(plan.references))
    found = first._tune(store)
    assert found.keys() == before.keys()
    assert second._tune(ControlStore(Path(plan.references))) == found
    assert [model.chunk for model in first._embedders] == [model.chunk for model in second._embedders]  # type: ignore[attr-defined]
    for name, how in found.items():
        assert "faces at a time" in how
        assert "half precision" in how or "single precision (" in how, name
    for model in first._embedders:
        after = model.embed(first._crops(rows[:8]), first.references.faces.frame)
        assert (after * before[model.name]).sum(axis=1).min() >= LEAST_COSINE


def test_trials_that_share_batches_find_what_each_finds_alone(prepared: tuple[WorkerPlan, IntArray]) -> None:
    plan, rows = prepared
    worker = TrialWorker(plan)
    tasks = [
        TrialTask("strong", 0, "blur", {"kernel_size": 81}, 0),
        TrialTask("drawn", 1, "ganonymization", {"steps": 0, "landmark_noise": 0.02}, 7),
        TrialTask("weak", 2, "blur", {"kernel_size": 11}, 0),
    ]
    fitted = [worker.fit(task) for task in tasks]
    # Overlapping rows, of all roles: what belongs to whom must not be mixed up.
    own = [rows[::7], rows[5::9], rows[::5]]
    together = worker.measure_together(tasks, fitted, own)
    for task, state, some, shared in zip(tasks, fitted, own, together, strict=True):
        alone = worker.measure(task, state, some)
        assert np.array_equal(shared.rows, some)
        assert shared.notes == alone.notes
        assert shared.seconds.keys() == alone.seconds.keys()
        for kind in ("embeddings", "probabilities", "realism", "features"):
            expected, found = getattr(alone.measurements, kind), getattr(shared.measurements, kind)
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, atol=1e-6, equal_nan=True, err_msg=f"{task.key} {name}")
    first, last = (part.measurements.embeddings for part in (together[0], together[2]))
    assert all(np.abs(first[name][:5] - last[name][:5]).max() > 0.01 for name in first)
