"""Files are replaced whole, in one order of steps, and what fails leaves the old one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raysweep.storage.files import Moments, replacing, write_whole


def test_the_steps_come_in_order_and_each_finds_what_it_may(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("old")
    seen: list[tuple[str, str, int]] = []

    def look(step: str) -> None:
        seen.append((step, path.read_text(), len(list(tmp_path.iterdir()))))

    write_whole(
        path,
        "new",
        moments=Moments(lambda: look("written"), lambda: look("synced"), lambda: look("replaced")),
    )
    assert seen == [("written", "old", 2), ("synced", "old", 2), ("replaced", "new", 1)]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "settings"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["settings"]


def test_a_private_file_is_its_owners(tmp_path: Path) -> None:
    write_whole(tmp_path / "weights", b"w", private=True)
    assert (tmp_path / "weights").stat().st_mode & 0o077 == 0
