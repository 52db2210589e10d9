"""Releases: with Ray as without, killed in the middle, and with rows that kill their worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import prepare_fakes as fakes
import pytest
import ray
import torch

from raysweep.engine.apply import Method, Output, Shared
from raysweep.engine.parts import Part, PartsFolder
from raysweep.engine.references import ReferenceStore
from raysweep.engine.session import start_ray
from raysweep.models.zoo import open_zoo
from raysweep.pipeline import prepare, release, release_local
from raysweep.preprocess.rows import Recipe
from raysweep.schema import FloatArray, Frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FRAME = Frame(112, 0)
ABOUT = {"name": "fakes", "kind": "folder", "licence": "MIT", "synthetic": True, "source_digest": "0" * 64}
ANONYMIZER = """
import os, signal, time
import torch
from raysweep.anonymizers.base import Anonymizer

class Moody(Anonymizer):
    name = "test/moody"

    def anonymize(self, faces):
        if os.environ.get("SLOW"):
            time.sleep(0.3)
        if any(face.endswith("poison") for face in faces.face_id):
            os.kill(os.getpid(), signal.SIGKILL)
        return 255 - faces.image
"""


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    ray.cloudpickle.register_pickle_by_value(fakes)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with start_ray(cpus=2):
        yield
    ray.cloudpickle.unregister_pickle_by_value(fakes)
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def moody(tmp_path: Path) -> Method:
    """An anonymizer in a file, which kills its process for faces called poison."""
    path = tmp_path / "moody.py"
    path.write_text(ANONYMIZER)
    return Method(f"file:{path}:Moody", {}, seed=0, per_person=False, synthetic=True, allow_file=True)


def cut(paths: list[str], rows: int) -> list[Part]:
    import pyarrow.parquet as pq

    parts: list[Part] = []
    for path in paths:
        size = pq.read_metadata(path).num_rows
        parts += [
            Part(len(parts) + index, path, start, min(rows, size - start))
            for index, start in enumerate(range(0, size, rows))
        ]
    return parts


def written(folder: Path, parts: list[Part], tables: Any) -> dict[str, Any]:
    target = PartsFolder(folder, "shards", {}, parts, {})
    with target.writing() as todo:
        assert todo == parts
        for table in tables:
            target.add(table)
        counts = target.finish({}, ABOUT)
    assert counts.rows_in == counts.released + counts.kept + counts.quarantined
    found: dict[str, Any] = json.loads((folder / "release.json").read_text())
    return found


@pytest.mark.usefixtures("_ray")
def test_ray_writes_what_one_process_writes_and_sets_aside_who_kills(tmp_path: Path, moody: Method) -> None:
    rows = fakes.mixed_rows(60)
    clean = fakes.write(rows, tmp_path / "clean", shards=3)
    zoo = open_zoo(missing_ok=True).for_data(synthetic=True, needs=())
    recipe = Recipe(FRAME)
    arguments = (zoo, recipe, moody, Output(), Shared())
    parts = cut(clean.paths, 8)
    alone = written(tmp_path / "alone", parts, release_local(parts, *arguments))
    with_ray = written(tmp_path / "ray", parts, release(parts, *arguments, workers=2))
    assert with_ray == alone
    assert alone["counts"] == {
        "rows_in": 64, "released": 61, "kept": 0, "quarantined": 3,
        "reasons": {"not_an_image": 1, "bad_points": 1, "truncated": 1},
    }  # fmt: skip

    rows[20]["face_id"] += "poison"
    poisoned = fakes.write(rows, tmp_path / "poisoned", shards=3)
    parts = cut(poisoned.paths, 2)
    found = written(tmp_path / "out", parts, release(parts, *arguments, workers=2))
    assert found["counts"]["reasons"]["killed_worker"] == 1
    assert found["counts"]["released"] == 60
    (record,) = [
        row
        for row in map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
        if row["reason"] == "killed_worker"
    ]
    assert record["face_id"] == rows[20]["face_id"]


class KillingEmbedder(fakes.FakeEmbedder):
    """Ends its process at the sight of a black crop."""

    def embed(self, images: torch.Tensor, frame: Frame) -> FloatArray:
        if len(images) and bool((images.amax(dim=(1, 2, 3)) == 0).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(images, frame)


class KillingZoo(fakes.FakeZoo):
    """Its embedder kills."""

    def embedders(self, device: Any = "cpu", threads: int | None = 1) -> list[Any]:
        return [KillingEmbedder()]


@pytest.mark.usefixtures("_ray")
def test_a_row_that_kills_its_actor_is_set_aside_in_preparation(tmp_path: Path) -> None:
    rows = fakes.mixed_rows(40)
    black = np.zeros((160, 160, 3), np.uint8).tobytes()
    rows[17] = fakes.row(999, face_id="black", image=black)
    shards = fakes.write(rows, tmp_path / "shards")
    store = ReferenceStore.at(shards, FRAME, KillingZoo(), tmp_path / "store")  # type: ignore[arg-type]
    summary = prepare(shards, KillingZoo(), FRAME, store, workers=2)  # type: ignore[arg-type]
    assert summary.rows_in == len(rows) == summary.faces + summary.quarantined
    assert summary.reasons["killed_worker"] == 1
    (record,) = [row for row in store.load(dataset="f", seed=0).quarantine if row["reason"] == "killed_worker"]
    assert record["face_id"] == "black"


def test_kill_minus_nine_in_the_middle_and_the_same_command_again(tmp_path: Path, moody: Method) -> None:
    environment = {**os.environ, "RAYSWEEP_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "SLOW": "1"}
    data = "synthetic:identities=40,images_per_identity=13"

    def words(out: str) -> list[str]:
        options = ["--engine", "local", "--data", data, "--out", str(tmp_path / out), "--format", "images"]
        return [sys.executable, "-m", "raysweep", "anonymize", moody.anonymizer, *options]

    def receipts() -> list[Path]:
        return sorted((tmp_path / "killed" / ".release").glob("part-*.json"))

    quick = {**environment, "SLOW": ""}
    subprocess.run(words("whole"), env=quick, check=True, capture_output=True)
    with subprocess.Popen(
        words("killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 300
        while not receipts() and time.monotonic() < deadline:
            time.sleep(0.02)
            assert process.poll() is None
        process.kill()
    done = {path.name: path.stat().st_mtime_ns for path in receipts()}
    assert done
    assert not (tmp_path / "killed" / "release.json").exists()
    again = subprocess.run(words("killed"), env=quick, check=True, capture_output=True, text=True)
    assert f"{len(done)} parts are there already" in again.stdout
    assert {name: (tmp_path / "killed" / ".release" / name).stat().st_mtime_ns for name in done} == done

    def contents(out: str) -> dict[str, bytes]:
        files = (path for path in (tmp_path / out).rglob("*") if path.is_file() and path.name != "lock")
        return {str(path.relative_to(tmp_path / out)): path.read_bytes() for path in files}

    assert contents("killed") == contents("whole")
