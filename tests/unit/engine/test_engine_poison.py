"""Rows that kill, in a world in which a killed process is an exception that nobody else may catch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.engine.poison import PATIENCE, Begun, Counts, careful


class Killed(BaseException):
    """What SIGKILL is to a process."""


def live(rows: int, poison: set[int], tally: Counts, most: int = 500) -> tuple[list[str], int]:
    """Give the item to one process after the other until one comes back; returns a word per row and the number of deaths."""

    def work(what: Begun) -> list[str]:
        _, start, count = what
        for row in range(start, start + count):
            if row in poison:
                raise Killed
        return ["good"] * count

    def give_up(what: Begun) -> list[str]:
        assert what[2] == 1
        return ["set aside"]

    for deaths in range(most):
        try:
            parts = careful(("shard", 0, rows), work, give_up, tally)
            return [word for part in parts for word in part], deaths
        except Killed:
            continue
    raise AssertionError("it never ends")


@given(st.integers(1, 200), st.sets(st.integers(0, 199), max_size=4))
def test_exactly_the_rows_that_kill_are_set_aside(rows: int, poison: set[int]) -> None:
    found, deaths = live(rows, poison, Counts())
    inside = {row for row in poison if row < rows}
    assert {row for row, word in enumerate(found) if word != "good"} == inside
    assert deaths <= (PATIENCE + len(inside) * (rows.bit_length() + 1) if inside else 0)


def test_bad_luck_costs_nobody_a_row() -> None:
    tally = Counts()
    for _ in range(PATIENCE):
        tally.begin(("shard", 0, 8))  # killed by somebody else
    assert live(8, set(), tally) == (["good"] * 8, 0)


def test_deaths_are_counted_and_not_forgotten() -> None:
    tally = Counts()
    assert [tally.begin(("a", 0, 1)) for _ in range(3)] == [0, 1, 2]
    tally.end(("a", 0, 1))
    assert tally.begin(("a", 0, 1)) == 2
    assert tally.begin(("a", 0, 2)) == 0


def test_an_error_is_no_death() -> None:
    def work(what: Begun) -> None:
        raise ValueError("a finding, told as it is")

    with pytest.raises(ValueError, match="as it is"):
        careful(("a", 0, 4), work, work, Counts())
