"""The size of a local object store, and what is said when it is full and cannot spill."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raysweep.engine.session import (
    FULLEST_DISK,
    RAY_LEAST,
    SPILL_FOLDER,
    STORE_LIMIT,
    SessionError,
    object_store_bytes,
    our_error,
    short_of_room,
)
from raysweep.errors import TrialError


def test_rays_own_limit_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORE_LIMIT, raising=False)
    usual = object_store_bytes()
    monkeypatch.setenv(STORE_LIMIT, str(RAY_LEAST))
    assert object_store_bytes() == RAY_LEAST < usual


@pytest.mark.parametrize("text", ["lots", "-1", str(RAY_LEAST - 1)])
def test_a_limit_that_ray_does_not_take_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(STORE_LIMIT, text)
    with pytest.raises(SessionError, match=rf"{STORE_LIMIT}={text}: must be a number of bytes, at least {RAY_LEAST}"):
        object_store_bytes()


def test_no_room_to_spill_names_path_and_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError

    monkeypatch.setenv(SPILL_FOLDER, str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100e9, 97e9, 3e9))  # type: ignore[attr-defined]
    monkeypatch.delenv(FULLEST_DISK, raising=False)
    for error in (OutOfDiskError(), ObjectStoreFullError()):
        said = str(short_of_room(error))
        assert f"{tmp_path}: that disk is 97 % full, and Ray stops at 95 %. Free 2.0 GB there" in said
        assert "the same command goes on" in said
    outer = RuntimeError("a task failed")
    outer.__cause__ = OutOfDiskError()
    assert isinstance(our_error(outer), SessionError)
    monkeypatch.setenv(SPILL_FOLDER, str(tmp_path / "elsewhere"))
    assert "on one of the machines. Make room there" in str(short_of_room(OutOfDiskError()))


def test_another_error_is_no_want_of_room() -> None:
    assert short_of_room(TrialError("no such thing")) is None
