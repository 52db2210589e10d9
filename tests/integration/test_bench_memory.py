"""Peak memory of a command with its children; what a forked child shares with its parent counts once."""

from __future__ import annotations

import os
import sys

import pytest

from raysweep.bench.memory import peak_bytes
from raysweep.errors import StoreError

WORDS = """
import os, time
block = bytearray(60_000_000)
block[::4096] = b"x" * len(block[::4096])
child = os.fork()
time.sleep(0.5)
if child:
    os.waitpid(child, 0)
"""


def test_shared_pages_count_once() -> None:
    most = peak_bytes([sys.executable, "-c", WORDS], os.environ)
    assert 60e6 < most < 100e6


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(StoreError, match="ended with 3: no such thing"):
        peak_bytes([sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"], os.environ)
