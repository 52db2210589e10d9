"""What `prepare` prints of the people and of what is left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from raysweep.commands.tables import faces_table
from raysweep.faces import Faces


def faces(people: int, **more: Any) -> Faces:
    """Three images of each, all evaluated; one image that is none."""
    identity = np.repeat(np.arange(people), 3)

    class Table(SimpleNamespace):
        def __len__(self) -> int:
            return len(identity)

    table = Table(identity=identity, rows=lambda role: np.arange(len(identity) if role == "E" else 0))
    references = SimpleNamespace(faces=SimpleNamespace(table=table), quarantine=[{"reason": "no_face"}])
    source: Any = SimpleNamespace(name="album")
    return Faces(source, more.pop("store", None), references, more.pop("zoo", None), **more)  # type: ignore[arg-type]


def printed(found: Faces) -> list[str]:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(faces_table(found))
    return [" ".join(line.split()) for line in captured.get().splitlines()]


@pytest.mark.parametrize(
    ("people", "words"),
    [
        (3, "evaluation, 3 identities: no intervals below 10"),
        (12, "evaluation, 12 identities: wide intervals; a front to act on takes 20"),
        (20, "evaluation, 20 identities"),
        (0, "evaluation, 0 identities: privacy is undefined"),
    ],
)
def test_few_people_are_told_before_a_sweep(people: int, words: str) -> None:
    assert f"role E {3 * people} {words}" in printed(faces(people))


def test_every_image_that_is_left_out_has_its_reason() -> None:
    assert faces(3, conflicting=2).left_out() == {"no_face": 1, "the same image under two identities": 2}
    lines = printed(faces(3, conflicting=2))
    assert "quarantined 1 no_face" in lines
    assert "quarantined 2 the same image under two identities" in lines
