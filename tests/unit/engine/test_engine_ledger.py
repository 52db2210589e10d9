"""The ledger: torn tails are cut, inner damage is refused, one writer, one record per key."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from raysweep.engine.ledger import Ledger, read_ledger
from raysweep.engine.record import TrialRecord
from raysweep.errors import StoreError
from raysweep.metrics.value import MetricValue


def record(number: int) -> TrialRecord:
    return TrialRecord(
        key=f"key{number}",
        number=number,
        anonymizer="blur",
        setting={"kernel_size": 11 + 2 * number},
        fidelity={"images": 10},
        state="complete",
        metrics={"privacy": MetricValue(0.5, 0.4, 0.6, 10, 5), "utility": MetricValue.undefined("no model")},
        attackers=({"attacker": "A0", "advantage": 0.5},),
        curves={"loss": (1.0, 0.5)},
        seconds={"wall": 1.5},
        notes={"holds": True},
        ended_at=1.0,
    )


def fill(path: Path, count: int) -> bytes:
    with Ledger(path) as ledger:
        for number in range(count):
            assert ledger.append(record(number))
    return path.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    fill(tmp_path / "ledger", 3)
    read = read_ledger(tmp_path / "ledger")
    assert [item.key for item in read] == ["key0", "key1", "key2"]
    assert read[0].metrics["privacy"] == MetricValue(0.5, 0.4, 0.6, 10, 5)
    assert math.isnan(read[0].metrics["utility"].value)
    assert read[0].notes == {"holds": True}


def test_a_key_has_one_record(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger") as ledger:
        assert ledger.append(record(1))
        assert not ledger.append(record(1))
    assert len(read_ledger(tmp_path / "ledger")) == 1


def test_every_torn_tail_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    whole = fill(path, 3)
    third = whole.rindex(b"\n", 0, -1) + 1
    for end in range(third, len(whole)):
        path.write_bytes(whole[:end])
        with Ledger(path) as ledger:
            assert list(ledger.records) == ["key0", "key1"], end
            assert path.read_bytes() == whole[:third]
            ledger.append(record(2))
        assert [item.key for item in read_ledger(path)] == ["key0", "key1", "key2"]


def test_a_changed_byte_is_never_accepted(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    whole = fill(path, 2)
    last = whole.rindex(b"\n", 0, -1) + 1
    for place in range(last - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 0x15
        path.write_bytes(bytes(damaged))
        with pytest.raises(StoreError, match="damaged"), Ledger(path):
            pass


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger"), pytest.raises(StoreError, match="another process"), Ledger(tmp_path / "ledger"):
        pass


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write the ledger"), Ledger(tmp_path / "none" / "ledger"):
        pass
