"""Unit tests may not start Ray, sleep, or open a socket: this makes it impossible."""

from __future__ import annotations

import socket
import time

import pytest


@pytest.fixture(autouse=True)
def _no_ray_no_sleep_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a unit test may not start Ray, sleep, or open a socket")

    monkeypatch.setattr(time, "sleep", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("ray.init", refuse)
