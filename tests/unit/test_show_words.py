from __future__ import annotations

import doctest

from raysweep.commands import show


def test_settings_read_as_they_are_typed() -> None:
    found = doctest.testmod(show)
    assert (found.failed, found.attempted) == (0, 2)
