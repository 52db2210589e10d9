"""With a GPU in the cluster crops and measurements come from two pools (the GPU may be one in name only)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import prepare_fakes as fakes
import pytest
import ray

from raysweep.engine.references import ReferenceStore
from raysweep.engine.session import start_ray
from raysweep.pipeline import prepare, prepare_local
from raysweep.schema import Frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_pools_give_what_one_process_gives(tmp_path: Path) -> None:
    frame, zoo = Frame(128, 8), fakes.FakeZoo()
    shards = fakes.write(fakes.mixed_rows(80), tmp_path / "shards")
    two, one = (ReferenceStore.at(shards, frame, zoo, tmp_path / name) for name in ("two", "one"))  # type: ignore[arg-type]
    ray.cloudpickle.register_pickle_by_value(fakes)
    try:
        with start_ray(cpus=2, gpus=1):
            got = prepare(shards, zoo, frame, two)  # type: ignore[arg-type]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(fakes)
    prepare_local(shards, zoo, frame, one)  # type: ignore[arg-type]
    assert (got.rows_in, got.faces, got.quarantined) == (84, 80, 4)
    a, b = (store.load(dataset="fakes", seed=0) for store in (two, one))
    np.testing.assert_array_equal(a.faces.crop, b.faces.crop)
    np.testing.assert_allclose(a.clear.embeddings["fields/a"], b.clear.embeddings["fields/a"], atol=1e-5)
    assert a.quarantine == b.quarantine
