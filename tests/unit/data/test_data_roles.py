"""Roles and sides: exact counts, minimums, and nothing from the order of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.data.roles import DEFAULT_SHARES, assign_roles, face_table, selection_shared
from raysweep.errors import ConfigError, DataError
from raysweep.schema import EXPRESSIONS, ROLES, FaceTable


def people(count: int) -> list[str]:
    return [f"person {number}" for number in range(count)]


def counts_of(roles: dict[str, str]) -> dict[str, int]:
    return {role: list(roles.values()).count(role) for role in ROLES}


def table_of(photographs: dict[str, int], *, seed: int = 0, **options: object) -> FaceTable:
    face_id = [f"{name}/{number}" for name, count in photographs.items() for number in range(count)]
    identity = [face.rsplit("/", 1)[0] for face in face_id]
    expression = [EXPRESSIONS[int(face.rsplit("/", 1)[1]) % 7] for face in face_id]
    return face_table(face_id, identity, expression, dataset="set", seed=seed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (105, {"G": 10, "T": 50, "S": 15, "E": 30}),
        (100, {"G": 10, "T": 48, "S": 14, "E": 28}),
        (31, {"G": 3, "T": 13, "S": 5, "E": 10}),
        (20, {"G": 2, "T": 3, "S": 5, "E": 10}),
        (15, {"G": 0, "T": 0, "S": 5, "E": 10}),
        (10, {"G": 0, "T": 0, "S": 3, "E": 7}),
        (8, {"G": 0, "T": 0, "S": 2, "E": 6}),
        (7, {"G": 0, "T": 0, "S": 0, "E": 7}),
        (2, {"G": 0, "T": 0, "S": 0, "E": 2}),
    ],
)
def test_counts_are_exact(number: int, expected: dict[str, int]) -> None:
    for seed in range(3):
        assert counts_of(assign_roles(people(number), dataset="pins", seed=seed)) == expected


@settings(max_examples=150, deadline=None)
@given(
    images=st.lists(st.integers(1, 6), min_size=2, max_size=80),
    seed=st.integers(0, 2**40),
    shuffle=st.randoms(use_true_random=False),
)
def test_roles_keep_their_promises(images: list[int], seed: int, shuffle: object) -> None:
    names = people(len(images))
    of = dict(zip(names, images, strict=True))
    roles = assign_roles(names, dataset="set", seed=seed, images=of)
    assert set(roles) == set(names)

    other_order = list(names)
    shuffle.shuffle(other_order)  # type: ignore[attr-defined]
    assert assign_roles(other_order * 2, dataset="set", seed=seed, images=of) == roles

    counts = counts_of(roles)
    usable = sum(count >= 3 for count in images)
    assert all(of[name] >= 3 for name, role in roles.items() if role in "SE")
    assert counts["E"] >= min(usable, 10) - (usable // 3 if 8 <= usable < 15 else 0)
    assert counts["S"] >= (5 if usable >= 15 else usable // 3 if usable >= 8 else 0)
    assert (counts["S"] == 0) == (usable < 8)
    if len(names) >= 20:
        assert counts["G"] >= 1


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.integers(1, 9), min_size=2, max_size=30).filter(lambda n: sum(i >= 3 for i in n) >= 2),
    seed=st.integers(0, 1000),
    permutation=st.randoms(use_true_random=False),
)
def test_a_table_is_disjoint_deterministic_and_order_independent(
    images: list[int], seed: int, permutation: object
) -> None:
    table = table_of(dict(zip(people(len(images)), images, strict=True)), seed=seed)
    for identity in range(len(table.identity_names)):
        rows = table.identity == identity
        (role,) = np.unique(table.role[rows])
        sides = table.side[rows]
        if role in "SE":
            enrol, probe = (sides == "enrol").sum(), (sides == "probe").sum()
            assert enrol >= 2
            assert probe >= 1
            assert enrol + probe == rows.sum()
            assert abs(enrol - probe) <= 1
        else:
            assert (sides == "").all()

    order = list(range(len(table)))
    permutation.shuffle(order)  # type: ignore[attr-defined]
    again = face_table(
        [str(table.face_id[row]) for row in order],
        [table.identity_names[table.identity[row]] for row in order],
        [EXPRESSIONS[table.expression[row]] for row in order],
        dataset="set",
        seed=seed,
    )
    expected = table.take(np.array(order))
    for column in ("face_id", "identity", "expression", "role", "side"):
        np.testing.assert_array_equal(getattr(again, column), getattr(expected, column))


def test_another_seed_or_data_set_divides_otherwise() -> None:
    names = people(60)
    first = assign_roles(names, dataset="a", seed=0)
    assert assign_roles(names, dataset="a", seed=1) != first
    assert assign_roles(names, dataset="b", seed=0) != first


def test_people_with_few_photographs_train_the_attacker_and_are_never_judged() -> None:
    sparse = {f"single {number}": 1 for number in range(200)}
    table = table_of({**dict.fromkeys(people(40), 4), **sparse})
    role_of = {table.identity_names[i]: str(r) for i, r in zip(table.identity, table.role, strict=True)}
    singles = [role_of[name] for name in sparse]
    assert set(singles) == {"G", "T"}
    assert singles.count("T") > 3 * singles.count("G")
    assert counts_of({name: role_of[name] for name in people(40)}) == counts_of(
        assign_roles(people(40), dataset="set", seed=0)
    )


def test_expressions_divide_evenly_between_enrol_and_probe() -> None:
    table = table_of(dict.fromkeys(people(30), 28))
    for identity in np.unique(table.identity[table.role == "E"]):
        for side in ("enrol", "probe"):
            rows = (table.identity == identity) & (table.side == side)
            assert np.bincount(table.expression[rows], minlength=7).tolist() == [2] * 7


def test_one_photograph_of_each_expression_does_not_always_enrol_the_same_one() -> None:
    table = table_of(dict.fromkeys(people(200), 7))
    share = [
        np.mean(table.side[(table.role == "E") & (table.expression == expression)] == "enrol")
        for expression in range(7)
    ]
    assert min(share) > 0.2
    assert max(share) < 0.7


def test_copies_of_one_photograph_stay_on_one_side_and_count_once() -> None:
    face_id = [f"{name}/{number}" for name in people(4) for number in range(6)]
    identity = [face.split("/")[0] for face in face_id]
    nothing = [None] * len(face_id)
    repeats = {f"{name}/{number}": f"{name}/{number - 3}" for name in people(3) for number in (3, 4, 5)}
    for seed in range(20):
        table = face_table(face_id, identity, nothing, dataset="set", seed=seed, repeats=repeats)
        side = dict(zip(table.face_id.tolist(), table.side.tolist(), strict=True))
        assert all(side[copy] == side[first] for copy, first in repeats.items())
    repeats = {f"{name}/{number}": f"{name}/0" for name in people(3) for number in range(1, 6)}
    with pytest.raises(DataError, match="4 identities, of whom 1 have 3 or more photographs"):
        face_table(face_id, identity, nothing, dataset="set", seed=0, repeats=repeats)


def test_rows_without_identity_are_probes_of_evaluation() -> None:
    table = face_table(
        [f"{n}" for n in range(14)],
        ["a"] * 4 + ["b"] * 4 + [None] * 6,
        [None] * 8 + ["happy"] * 6,
        dataset="set",
        seed=0,
    )
    assert table.identity[8:].tolist() == [-1] * 6
    assert set(table.role[8:]) == {"E"}
    assert set(table.side[8:]) == {"probe"}
    assert table.expression.tolist() == [-1] * 8 + [3] * 6


def test_selection_is_shared_below_eight_people() -> None:
    assert selection_shared(table_of(dict.fromkeys(people(7), 4)))
    assert not selection_shared(table_of(dict.fromkeys(people(8), 4)))


def test_one_identity_or_none_is_refused_unless_privacy_is_not_needed() -> None:
    with pytest.raises(DataError, match="one identity only: nobody to be confused with"):
        table_of({"a": 10})
    with pytest.raises(DataError, match=r"no identities.*FER-2013"):
        face_table(["x", "y"], [None, None], ["sad", "happy"], dataset="set", seed=0)
    with pytest.raises(DataError, match="of whom 0 have 3 or more"):
        table_of({"a": 2, "b": 1})
    for table in (
        table_of({"a": 10}, need_privacy=False),
        table_of({"a": 2, "b": 1}, need_privacy=False),
        face_table(["x", "y"], [None, None], ["sad", None], dataset="set", seed=0, need_privacy=False),
    ):
        assert set(table.role) == {"E"}
        assert set(table.side) == {"probe"}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"G": 0.1, "T": 0.5, "S": 0.1, "E": 0.1}, "sum to 0.8"),
        ({"G": 0.1, "X": 0.9}, "share of role 'X'"),
        ({"G": -0.5, "E": 1.5}, "share of role G is -0.5"),
        ({"E": float("nan")}, "share of role E is nan"),
        ({"T": 1.0}, "nobody would be left to evaluate"),
    ],
)
def test_wrong_shares_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign_roles(people(30), dataset="set", seed=0, shares=shares)


def test_own_shares_are_followed() -> None:
    roles = assign_roles(people(100), dataset="set", seed=0, shares={"E": 0.5, "T": 0.5})
    assert counts_of(roles) == {"G": 0, "T": 50, "S": 0, "E": 50}
    assert sum(DEFAULT_SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("face_id", "identity", "expression", "message"),
    [
        ([], [], [], "no faces"),
        (["x", "x"], ["a", "b"], [None, None], "1 face_id stand twice, such as 'x'"),
        (["x", "y"], ["a"], [None, None], "2 face_id, 1 identity, 2 expression"),
        (["x", "y"], ["a", "b"], ["hapy", None], "unknown expressions hapy.*did you mean 'happy'"),
    ],
)
def test_wrong_labels_are_refused(
    face_id: list[str], identity: list[str | None], expression: list[str | None], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        face_table(face_id, identity, expression, dataset="set", seed=0)
