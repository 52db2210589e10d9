"""Tries whether an object store keeps what the ledger builds on; the same for folders is `raysweep.engine.lease.store_problems`."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from raysweep.errors import StoreError
from raysweep.storage.objects import Objects

__all__ = ["object_problems", "refuse_bad_store"]

FOLDER = ".raysweep-check"
WRITERS = 8
CLOCK_S = 60.0
"""The store's clock and this machine's may differ by so much; requests are refused from a quarter of an hour on."""


def object_problems(objects: Objects) -> tuple[list[str], list[str]]:
    """Make, replace, list and remove a few objects.

    Args:
        objects: the place of runs.

    Returns:
        What is wrong (runs must not be kept there), and what is worth knowing.
    """
    wrong: list[str] = []
    notes: list[str] = []
    place = objects.at(f"{FOLDER}/{secrets.token_hex(6)}")
    steps = (partial(_try_all, place, wrong, notes), partial(_clear, place))
    for step in steps:
        try:
            step()
        except StoreError as error:
            if not wrong:
                wrong.append(str(error))
    return wrong, notes


def _clear(place: Objects) -> None:
    for item in place.find():
        place.delete(item.key)


def refuse_bad_store(objects: Objects) -> None:
    """Before a sweep begins.

    Raises:
        StoreError: names what the store does not keep, and what to do.
    """
    wrong, _ = object_problems(objects)
    if wrong:
        raise StoreError(
            f"runs cannot be kept in {objects.url}: {'; '.join(wrong)}. Name another place with --runs; `python -m raysweep doctor` tries a place"
        )


def _try_all(place: Objects, wrong: list[str], notes: list[str]) -> None:
    if not place.create("one", b"first"):
        wrong.append("an object that is not there cannot be made")
        return
    if place.create("one", b"second") or place.read("one") != b"first":
        wrong.append(
            "conditional writes are ignored (If-None-Match: *), so that two machines could run one sweep and overwrite each other's results"
        )
    with ThreadPoolExecutor(WRITERS) as pool:
        won = sum(pool.map(lambda number: place.create("race", b"%d" % number), range(WRITERS)))
    if won > 1:
        wrong.append(f"{won} of {WRITERS} writers at once could make the same object")
    if "one" not in [item.key for item in place.find()]:
        wrong.append("a new object is not listed at once")
    place.write("one", b"third")
    if place.read("one") != b"third":
        wrong.append("an object that was replaced is read as it was before")
    found = place.look("one")
    place.delete("one")
    if place.look("one") is not None or "one" in [item.key for item in place.find()]:
        wrong.append("an object that was removed is still seen")
    if found is not None and abs(found.modified_at - time.time()) > CLOCK_S:
        ahead = found.modified_at - time.time()
        notes.append(
            f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's: set the clock, requests are refused from 15 minutes on"
        )
