"""Who plays which part: background G, attacker training T, selection S, evaluation E; and enrol or probe inside S and E.

The rules of the roles, in order (metrics specification, section 1):

1. Identities are sorted by a hash of (study seed, data set, identity); everything follows from that order, nothing from
   the order of the rows. Counts are exact, not expected.
2. Only an identity with at least `MIN_IMAGES` different photographs can be in S or E (two to enrol, one to probe). The
   others are divided between T and G, the rounding in favour of T.
3. Of the n usable identities every role gets its share rounded down; what is left goes to E, S, T, G in turn.
   105 people: G 10, T 50, S 15, E 30.
4. With 15 or more, E has at least 10 and S at least 5, taken from T, then from G. With 8 to 14 a third is S and the
   rest E. With fewer than 8 all are E: `selection_shared` then tells that selection and evaluation share their faces.
5. With 20 or more identities in all, G has at least one.
6. Rows without identity are E/probe: their expression can be measured, privacy cannot.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from raysweep.data.attributes import attribute_columns
from raysweep.errors import ConfigError, DataError, nearest
from raysweep.schema import EXPRESSIONS, ROLES, FaceTable, Role, Side

__all__ = [
    "DEFAULT_SHARES",
    "MIN_IMAGES",
    "assign_roles",
    "assign_sides",
    "face_table",
    "selection_shared",
]

DEFAULT_SHARES: Mapping[str, float] = {"G": 0.10, "T": 0.48, "S": 0.14, "E": 0.28}
MIN_IMAGES = 3
"""Different photographs that an identity needs in S and E."""

MIN_EVALUATION = 10
MIN_SELECTION = 5
SHARED_BELOW = 8
BACKGROUND_FROM = 20
_ROUNDING_ORDER: tuple[Role, ...] = ("E", "S", "T", "G")


def assign_roles(
    identities: Sequence[str],
    *,
    dataset: str,
    seed: int,
    shares: Mapping[str, float] | None = None,
    images: Mapping[str, int] | None = None,
) -> dict[str, Role]:
    """One role per identity, by the rules 1 to 5 on top of this module.

    Args:
        identities: names, in any order; repeats count once.
        dataset: name of the data set; two data sets divide the same names differently.
        seed: of the study.
        shares: per role, not negative, summing to 1; `DEFAULT_SHARES` when None. The minimums of rule 4 and 5 hold for
            roles whose share is above 0.
        images: different photographs per identity; enough for all when None.

    Raises:
        ConfigError: shares that are none.

    >>> roles = assign_roles([f"person {n}" for n in range(105)], dataset="pins", seed=0)
    >>> [list(roles.values()).count(role) for role in "GTSE"]
    [10, 50, 15, 30]
    """
    wanted = _checked(shares)
    ordered = sorted(set(identities), key=lambda identity: (_hash(seed, dataset, identity), identity))
    enough = {name for name in ordered if images is None or images.get(name, 0) >= MIN_IMAGES}
    usable = [name for name in ordered if name in enough]
    sparse = [name for name in ordered if name not in enough]
    counts = _counts(len(usable), wanted)
    both = wanted["G"] + wanted["T"]
    sparse_background = math.floor(len(sparse) * wanted["G"] / both + 1e-9) if both > 0 else 0
    if wanted["G"] > 0 and len(ordered) >= BACKGROUND_FROM and counts["G"] + sparse_background == 0:
        if sparse:
            sparse_background = 1
        elif counts["T"]:
            counts["T"], counts["G"] = counts["T"] - 1, 1
    roles: dict[str, Role] = {}
    for role in _ROUNDING_ORDER:
        start = len(roles)
        roles.update(dict.fromkeys(usable[start : start + counts[role]], role))
    for place, name in enumerate(sparse):
        roles[name] = "G" if place < sparse_background else "T"
    return roles


def assign_sides(
    face_id: Sequence[str],
    identity: Sequence[str | None],
    expression: Sequence[str | None],
    roles: Mapping[str, Role],
    *,
    dataset: str,
    seed: int,
    repeats: Mapping[str, str] | None = None,
) -> list[Side]:
    """Enrol or probe for every row of S and E, half and half (the odd one to probe), at least 2 and 1.

    Within an identity the photographs are dealt out by expression, so that each expression divides evenly, in the order
    of a hash. Rows of the same photograph (`repeats`) stay together.

    Args:
        face_id, identity, expression: N each; identity and expression may be None.
        roles: of the identities.
        dataset, seed: as for `assign_roles`.
        repeats: face_id -> face_id of an earlier row with the same bytes (`ShardSet.repeats`).

    Returns:
        N sides; empty for G and T, probe for rows without identity.
    """
    sides: list[Side] = ["" for _ in face_id]
    photographs: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (name, face) in enumerate(zip(identity, face_id, strict=True)):
        if name is None:
            sides[row] = "probe"
        elif roles[name] in ("S", "E"):
            photographs[name][(repeats or {}).get(face, face)].append(row)
    for name, groups in photographs.items():
        enrolled = _enrolled(name, groups, face_id, expression, dataset, seed)
        for photograph, rows in groups.items():
            for row in rows:
                sides[row] = "enrol" if photograph in enrolled else "probe"
    return sides


def face_table(
    face_id: Sequence[str],
    identity: Sequence[str | None],
    expression: Sequence[str | None],
    *,
    dataset: str,
    seed: int,
    shares: Mapping[str, float] | None = None,
    need_privacy: bool = True,
    repeats: Mapping[str, str] | None = None,
    attributes: Sequence[str | None] | None = None,
) -> FaceTable:
    """Labels of all rows with their roles and sides, in the order given.

    Args:
        face_id: N unique strings.
        identity: N names, None where unknown.
        expression: N of `EXPRESSIONS`, None where unknown.
        dataset, seed, shares: as for `assign_roles`.
        need_privacy: False when only expression and realism are measured. Without two usable identities every row is
            then E/probe.
        repeats: face_id -> face_id of an earlier row with the same bytes (`ShardSet.repeats`); counted as one photograph.
        attributes: N JSON objects of further facts, None where there are none; groups of people are taken from them.

    Raises:
        DataError: no rows, labels of another length, a face_id twice, an unknown expression, facts that are no JSON object; and, when privacy is needed,
            fewer than two identities that can be evaluated.
    """
    _check_rows(face_id, identity, expression)
    photographs = {(name, (repeats or {}).get(face, face)) for name, face in zip(identity, face_id, strict=True)}
    images = Counter(name for name, _ in photographs if name is not None)
    names = tuple(sorted(images))
    usable = sum(count >= MIN_IMAGES for count in images.values())
    if need_privacy:
        _check_identities(dataset, len(names), usable)
    if usable < 2:
        role: list[Role] = ["E" for _ in face_id]
        side: list[Side] = ["probe" for _ in face_id]
    else:
        roles = assign_roles(names, dataset=dataset, seed=seed, shares=shares, images=images)
        role = ["E" if name is None else roles[name] for name in identity]
        side = assign_sides(face_id, identity, expression, roles, dataset=dataset, seed=seed, repeats=repeats)
    index = {name: place for place, name in enumerate(names)}
    label = {name: place for place, name in enumerate(EXPRESSIONS)}
    return FaceTable(
        face_id=np.array(face_id, dtype=np.str_),
        identity=np.array([-1 if name is None else index[name] for name in identity], dtype=np.int64),
        expression=np.array([-1 if word is None else label[word] for word in expression], dtype=np.int64),
        role=np.array(role, dtype=np.str_),
        side=np.array(side, dtype=np.str_),
        identity_names=names,
        attributes={} if attributes is None else attribute_columns(attributes, identity),
    )


def selection_shared(table: FaceTable) -> bool:
    """Whether attackers and thresholds must be chosen on E, since nobody is in S; every record has to say so."""
    known = table.identity >= 0
    return not bool(np.any(known & (table.role == "S"))) and bool(np.any(known & (table.role == "E")))


def _checked(shares: Mapping[str, float] | None) -> dict[Role, float]:
    given = DEFAULT_SHARES if shares is None else shares
    problems = [
        f"share of role {name!r}{nearest(name, ROLES)}: the roles are {', '.join(ROLES)}"
        for name in given
        if name not in ROLES
    ]
    problems += [
        f"share of role {name} is {value!r}: a number from 0 to 1 is expected"
        for name, value in given.items()
        if not 0 <= value <= 1  # also true for NaN
    ]
    if not problems and abs(sum(given.values()) - 1) > 1e-6:
        problems.append(f"shares of the roles sum to {sum(given.values()):.6g}, not to 1")
    if not problems and not given.get("E", 0):
        problems.append("share of role E is 0: nobody would be left to evaluate")
    if problems:
        raise ConfigError(problems)
    return {role: float(given.get(role, 0.0)) for role in ROLES}


def _counts(usable: int, wanted: Mapping[Role, float]) -> dict[Role, int]:
    """How many of the usable identities each role gets: rules 3 and 4."""
    if usable < SHARED_BELOW or (usable < MIN_EVALUATION + MIN_SELECTION and not wanted["S"]):
        return {"G": 0, "T": 0, "S": 0, "E": usable}
    if usable < MIN_EVALUATION + MIN_SELECTION:
        return {"G": 0, "T": 0, "S": usable // 3, "E": usable - usable // 3}
    counts = {role: math.floor(usable * wanted[role] + 1e-9) for role in ROLES}
    turns = [role for role in _ROUNDING_ORDER if wanted[role] > 0]
    for turn in range(usable - sum(counts.values())):
        counts[turns[turn % len(turns)]] += 1
    minimums: dict[Role, int] = {"E": MIN_EVALUATION, "S": MIN_SELECTION if wanted["S"] > 0 else 0}
    for role, minimum in minimums.items():
        givers: tuple[Role, ...] = ("T", "G", "S") if role == "E" else ("T", "G", "E")
        for giver in givers:
            spare = counts[giver] - minimums.get(giver, 0)
            moved = max(0, min(minimum - counts[role], spare))
            counts[role] += moved
            counts[giver] -= moved
    return counts


def _enrolled(
    name: str,
    groups: Mapping[str, list[int]],
    face_id: Sequence[str],
    expression: Sequence[str | None],
    dataset: str,
    seed: int,
) -> set[str]:
    """Photographs of one identity that are enrolled.

    Sorted by (expression, hash) and dealt alternately, each expression divides into halves. The expressions are sorted
    by a hash too: where an identity has one photograph of each, no expression is always enrolled.
    """

    def place(photograph: str) -> tuple[str, str, str]:
        words = sorted({expression[row] or "" for row in groups[photograph]})
        first = min(face_id[row] for row in groups[photograph])
        return _hash(seed, dataset, name, "expression", words[0]), _hash(seed, dataset, name, "face", first), first

    ordered = sorted(groups, key=place)
    # Beginning with probe gives the odd photograph to probe; of three, two must be enrolled.
    start = 0 if len(ordered) == MIN_IMAGES else 1
    return set(ordered[start::2])


def _check_rows(face_id: Sequence[str], identity: Sequence[str | None], expression: Sequence[str | None]) -> None:
    lengths = (len(face_id), len(identity), len(expression))
    if len(set(lengths)) > 1:
        raise DataError(
            f"labels of different lengths: {lengths[0]} face_id, {lengths[1]} identity, {lengths[2]} expression"
        )
    if not face_id:
        raise DataError("no faces: nothing to assign roles to")
    repeated = [face for face, count in Counter(face_id).items() if count > 1]
    if repeated:
        raise DataError(f"{len(repeated)} face_id stand twice, such as {repeated[0]!r}")
    unknown = sorted({word for word in expression if word is not None} - set(EXPRESSIONS))
    if unknown:
        hint = nearest(unknown[0], EXPRESSIONS)
        raise DataError(f"unknown expressions {', '.join(unknown[:5])}{hint}; known: {', '.join(EXPRESSIONS)}, or none")


def _check_identities(dataset: str, known: int, usable: int) -> None:
    if known == 0:
        raise DataError(
            f"{dataset}: no identities, so privacy is undefined. Such a set (as FER-2013) serves to train or test an "
            "expression model and to measure expression and realism; privacy needs one folder per identity or a labels.csv"
        )
    if known == 1:
        raise DataError(f"{dataset}: one identity only: nobody to be confused with; at least 2, better 20, are needed")
    if usable < 2:
        raise DataError(
            f"{dataset}: {known} identities, of whom {usable} have {MIN_IMAGES} or more photographs (two to enrol, one to "
            "probe); at least 2 such identities, better 20, are needed"
        )


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
