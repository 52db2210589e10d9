"""F14: more data than Ray's object store holds, and no room on disk for what it puts aside: nothing lost, memory bounded, one message."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fault_drivers import content_of

from raysweep.bench.memory import shared_bytes
from raysweep.data.shards import open_shards, write_shards
from raysweep.data.source import open_source
from raysweep.engine.session import RAY_LEAST, STORE_LIMIT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PEOPLE, IMAGES = 240, 10
BROKEN = 7
"""Rows without a picture, spread over the data."""
HERE = Path(__file__).parent
SPARE = 16 * 2**20
"""Of shared memory, for what the processes of Ray share beside the store."""


class SomeBroken:
    """Drawn faces, of which some have lost their pixels."""

    def __init__(self) -> None:
        self._drawn = open_source(f"synthetic:identities={PEOPLE},images_per_identity={IMAGES},seed=5")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._drawn, name)

    def __len__(self) -> int:
        return len(self._drawn)

    def rows(self) -> Iterator[dict[str, Any]]:
        every = len(self) // BROKEN
        for number, row in enumerate(self._drawn.rows()):
            yield (
                {**row, "image": b"lost %d" % number} if number % every == 3 and number < BROKEN * every else dict(row)
            )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(SomeBroken(), tmp_path_factory.mktemp("shards") / "faces").folder  # type: ignore[arg-type]


class Run:
    """A command with a small object store, and the most shared memory that its processes had at a time."""

    def __init__(self, words: list[str], cache: Path, **more: str) -> None:
        environment = {
            **os.environ,
            "RAYSWEEP_CACHE": str(cache),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "300",
            STORE_LIMIT: str(RAY_LEAST),
            **more,
        }
        process = subprocess.Popen(
            [sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.most_shared = 0
        watch = threading.Thread(target=self._watch, args=(process,), daemon=True)
        watch.start()
        self.output = process.communicate(timeout=600)[0]
        self.code = process.returncode
        watch.join()

    def _watch(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            self.most_shared = max(self.most_shared, shared_bytes(process.pid))
            time.sleep(0.1)


def raysweep(cache: Path, *words: str, engine: str) -> Run:
    workers = ["--workers", "2"] if engine == "ray" and words[0] == "anonymize" else []
    run = Run(["-m", "raysweep", *words, "--engine", engine, *workers], cache)
    assert run.code == 0, run.output
    return run


def test_preparing_more_than_fits(shards: Path, tmp_path: Path) -> None:
    stores = []
    for engine in ("local", "ray"):
        run = raysweep(tmp_path / engine, "prepare", "--data", str(shards), engine=engine)
        (store,) = (path for path in (tmp_path / engine / "references").iterdir() if path.is_dir())
        stores.append(store)
        assert len(list(pq.read_table(store / "rows.parquet")["face_id"])) == PEOPLE * IMAGES - BROKEN
        assert len((store / "quarantine.jsonl").read_text().splitlines()) == BROKEN
        if engine == "ray":
            assert sum(path.stat().st_size for path in store.glob("*.npy")) > RAY_LEAST, "it would have fitted"
            assert 0 < run.most_shared < RAY_LEAST + SPARE
    for path in stores[0].glob("*.npy"):
        whole, streamed = (np.load(store / path.name, mmap_mode="r") for store in stores)
        if np.issubdtype(whole.dtype, np.integer):
            assert np.array_equal(whole, streamed), path.name
        else:
            assert np.allclose(whole, streamed, atol=1e-5), path.name


def test_releasing_more_than_fits(shards: Path, tmp_path: Path) -> None:
    pictures = []
    for engine in ("local", "ray"):
        out = tmp_path / f"out-{engine}"
        words = ("anonymize", "blur", "kernel_size=31", "--data", str(shards), "--out", str(out))
        run = raysweep(tmp_path / "cache", *words, "--runs", str(tmp_path / "runs"), engine=engine)
        pictures.append({row["face_id"]: row["image"] for row in open_shards(out, verify=True).rows()})
        assert len((out / "quarantine.jsonl").read_text().splitlines()) == BROKEN
        if engine == "ray":
            assert sum(map(len, pictures[-1].values())) > RAY_LEAST, "it would have fitted"
            assert 0 < run.most_shared < RAY_LEAST + SPARE
    assert len(pictures[0]) == PEOPLE * IMAGES - BROKEN
    assert pictures[0] == pictures[1]


def sweep(runs: Path, cache: Path, engine: str, more: Mapping[str, str] = {}) -> Run:
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    return Run([str(HERE / "large_parts.py"), str(runs), engine, "4"], cache, PYTHONPATH=paths, **more)


def test_trials_that_hand_on_more_than_fits(tmp_path: Path) -> None:
    """First without room on disk: the sweep stops, no trial is recorded as failed, the same command goes on."""
    undisturbed = sweep(tmp_path / "local", tmp_path / "cache", "local")
    assert undisturbed.code == 0, undisturbed.output
    runs = tmp_path / "ray"
    full = sweep(runs, tmp_path / "cache", "ray", {"RAY_local_fs_capacity_threshold": "0.0001"})
    assert full.code == 1, full.output
    said = full.output.splitlines()[-1]
    for words in ("object store is full", "GB there", "RAY_object_spilling_directory", "the same command goes on"):
        assert words in said, full.output
    assert "Traceback" not in full.output
    recorded = content_of(runs)
    assert {record["state"] for record in recorded} <= {"complete"}
    freed = sweep(runs, tmp_path / "cache", "ray")
    assert freed.code == 0, freed.output
    assert freed.most_shared < RAY_LEAST + SPARE
    expected, found = (
        {record["key"]: record for record in content_of(folder)} for folder in (tmp_path / "local", runs)
    )
    assert len(found) == 6  # two controls
    assert found == expected
