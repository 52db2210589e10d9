"""F9: the disk is full while faces are prepared, while the ledger grows, while scores are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fault_drivers import BASE, FACES, Driver, Drivers, content_of

pytestmark = pytest.mark.slow

SMALL = 200_000
"""Bytes of a file at most: less than the pictures take, more than what is written beside them."""


def test_no_half_written_cache_is_left_or_read(drivers: Drivers, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def prepare(**options: Any) -> Driver:
        words = ("prepare", "--engine", "local", "--data", FACES)
        driver = drivers.start(*words, runs=None, env={"RAYSWEEP_CACHE": str(cache)}, **options)
        driver.wait()
        return driver

    def refused(part: str) -> None:
        full = prepare(file_bytes=SMALL)
        assert full.wait() == 1, full.output
        last = full.output.splitlines()[-1]
        assert last.startswith(f"raysweep prepare: {cache / part}"), full.output
        assert "File too large" in last
        assert "Traceback" not in full.output
        assert [path for path in (cache / part).iterdir() if path.is_dir()] == []

    refused("shards")
    assert prepare().wait() == 0
    shutil.rmtree(cache / "references")
    refused("references")
    freed = prepare()
    assert freed.wait() == 0, freed.output
    assert "84" in freed.output


def test_a_sweep_ends_with_the_reason_and_goes_on_when_there_is_room(drivers: Drivers, tmp_path: Path) -> None:
    def tune(runs: Path, **options: Any) -> Driver:
        driver = drivers.start("tune", "baseline", *BASE, "repeats=4", runs=runs, **options)
        driver.wait()
        return driver

    undisturbed = tune(tmp_path / "undisturbed")
    assert undisturbed.wait() == 0, undisturbed.output
    full = tune(tmp_path / "full", file_bytes=30_000)
    assert full.wait() == 1, full.output
    assert "cannot write the ledger" in full.output.splitlines()[-1], full.output
    assert "the same command then goes on" in full.output
    assert 5 < len(content_of(tmp_path / "full")) < 50
    freed = tune(tmp_path / "full")
    assert freed.wait() == 0, freed.output
    assert content_of(tmp_path / "full") == content_of(tmp_path / "undisturbed")
