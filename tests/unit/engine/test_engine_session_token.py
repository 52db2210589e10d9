from __future__ import annotations

import stat
from pathlib import Path

import pytest

from raysweep.engine.session import MAX_OBJECT_STORE, MIN_OBJECT_STORE, SessionError, object_store_bytes, secure_token


@pytest.fixture(autouse=True)
def _no_ray_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


def test_a_new_token_is_private(tmp_path: Path) -> None:
    assert secure_token(create=True, home=tmp_path)
    path = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = path.read_text()
    assert len(token) == 64
    assert secure_token(create=True, home=tmp_path)
    assert path.read_text() == token  # other clusters of the user depend on it


def test_an_open_token_is_tightened(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("secret")
    path.chmod(0o644)
    assert secure_token(create=False, home=tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "secret"


def test_no_token_is_made_to_join_or_when_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not secure_token(create=False, home=tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert not secure_token(create=True, home=tmp_path)
    assert not (tmp_path / ".ray").exists()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    assert secure_token(create=False, home=tmp_path)


def test_a_home_that_cannot_be_written_has_a_message(tmp_path: Path) -> None:
    (tmp_path / ".ray").write_text("a file where a folder is needed")
    with pytest.raises(SessionError, match="cannot be kept there"):
        secure_token(create=True, home=tmp_path)


def test_the_object_store_is_bounded() -> None:
    assert MIN_OBJECT_STORE <= object_store_bytes() <= MAX_OBJECT_STORE
