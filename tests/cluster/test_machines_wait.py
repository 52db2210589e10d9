"""Waiting for machines, and looking at them, on two nodes of this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raysweep.engine.machines import check_machines, wait_for
from raysweep.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()


def test_machines_are_waited_for_and_looked_at(cluster: Any, tmp_path: Path) -> None:
    told: list[str] = []
    wait_for(None, 1, told.append)
    wait_for(None, None, told.append)
    assert told == []
    with pytest.raises(ConfigError, match="2 CPUs were asked for and 1 came"):
        wait_for(None, 2, told.append, wait_s=1.0)
    with pytest.raises(ConfigError, match="1 GPUs were asked for and 0 came"):
        wait_for(1, None, told.append, wait_s=1.0)
    assert told[0] == "waiting for 2 CPUs, 1 are there: machines may have to be started"
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            wait_for(None, 2, told.append, wait_s=60.0)
        except BaseException as error:
            failed.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    cluster.add_node(num_cpus=1)
    waiting.join(timeout=90)
    assert not waiting.is_alive()
    assert failed == []
    check_machines([tmp_path / "cache"], [Path(__file__)])
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(ConfigError) as caught:
        check_machines([tmp_path / "cache"], [tmp_path / "no-such-weights"])
    assert sum("does not see" in line for line in caught.value.problems) == 2
