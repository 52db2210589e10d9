"""Preparation with Ray Data: the same faces as without, every row accounted for, errors as themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import prepare_fakes as fakes
import pytest
import ray

from raysweep.engine.references import ReferenceStore
from raysweep.engine.session import SessionError, start_ray
from raysweep.errors import ModelError
from raysweep.pipeline import prepare, prepare_local
from raysweep.schema import Frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FRAME = Frame(128, 8)


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    # The workers have no access to the folder of the tests.
    ray.cloudpickle.register_pickle_by_value(fakes)
    with start_ray(cpus=2):
        yield
    ray.cloudpickle.unregister_pickle_by_value(fakes)


@pytest.mark.usefixtures("_ray")
def test_ray_gives_what_one_process_gives(tmp_path: Path) -> None:
    shards = fakes.write(fakes.mixed_rows(300), tmp_path / "shards", shards=3)
    zoo = fakes.FakeZoo()
    with_ray = ReferenceStore.at(shards, FRAME, zoo, tmp_path / "ray")  # type: ignore[arg-type]
    without = ReferenceStore.at(shards, FRAME, zoo, tmp_path / "local")  # type: ignore[arg-type]
    seen: list[tuple[int, int]] = []
    got = prepare(shards, zoo, FRAME, with_ray, workers=2, progress=lambda *counts: seen.append(counts))  # type: ignore[arg-type]
    want = prepare_local(shards, zoo, FRAME, without)  # type: ignore[arg-type]
    assert (got.rows_in, got.faces, got.quarantined) == (304, 300, 4)
    assert (want.rows_in, want.faces, want.quarantined) == (304, 300, 4)
    assert dict(got.reasons) == dict(want.reasons)
    assert seen[-1] == (304, 304)
    assert len(seen) > 3  # progress comes slice by slice

    a = with_ray.load(dataset="fakes", seed=0)
    b = without.load(dataset="fakes", seed=0)
    assert a.faces.table.face_id.tolist() == b.faces.table.face_id.tolist()
    for name in ("crop", "points", "landmarks", "mask"):
        np.testing.assert_array_equal(getattr(a.faces, name), getattr(b.faces, name))
    np.testing.assert_allclose(a.clear.embeddings["fields/a"], b.clear.embeddings["fields/a"], atol=1e-6)
    np.testing.assert_allclose(a.clear.probabilities["stripes"], b.clear.probabilities["stripes"], atol=1e-6)
    assert a.quarantine == b.quarantine
    assert {record["face_id"] for record in a.quarantine} == set(fakes.BAD)

    again = prepare(shards, zoo, FRAME, with_ray)  # type: ignore[arg-type]
    assert again.reused
    assert again.seconds < 1


@pytest.mark.usefixtures("_ray")
def test_an_error_of_an_actor_keeps_its_type_and_message(tmp_path: Path) -> None:
    shards = fakes.write(fakes.mixed_rows(), tmp_path / "shards")
    store = ReferenceStore.at(shards, FRAME, fakes.FakeZoo(), tmp_path / "store")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"^fields/a: its weights are damaged; fetch them again$"):
        prepare(shards, fakes.FailingZoo(), FRAME, store)  # type: ignore[arg-type]
    assert not store.exists()


@pytest.mark.usefixtures("_ray")
def test_a_running_ray_is_used_and_left_alone() -> None:
    node = ray.get_runtime_context().get_node_id()
    with start_ray(cpus=1):
        assert ray.get_runtime_context().get_node_id() == node
    assert ray.is_initialized()
    token = Path.home() / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0


def test_an_unreachable_cluster_has_a_message() -> None:
    code = "from raysweep.engine.session import start_ray\nwith start_ray(address='127.0.0.1:1'):\n    pass\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert SessionError.__name__ in done.stderr
    assert "no Ray cluster can be joined at '127.0.0.1:1'" in done.stderr
