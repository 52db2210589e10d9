"""How much of a trial is run before it is decided whether the rest is worth it: nested subsets of the people, smallest first.

A rung is a share of the identities of each role. The subsets are nested, so what was measured on a small rung counts on the next
one: climbing all rungs costs little more than one full evaluation. Attackers that train take the same share of their epochs. Fewer
people, images and epochs make attackers weaker, so privacy at a small rung is an upper estimate: it may discard a setting, it is never
reported (metrics specification, section 10).

An anonymizer that trains in the trial, and can stop and go on (`Anonymizer.resumable_steps`), has done the same share of its steps on a
rung. No step is done twice, but each rung's generator draws other faces, which are all measured anew. With shares s, a trial that climbs to
rung r has cost

    s_r x training + (r + 1) x (what its fit costs whatever the steps) + (s_0 + ... + s_r) x (anonymize + measure + attack)

of a full trial, where one that is trained before the first rung has cost training + s_r x (anonymize + measure) + (s_0 + ... + s_r) x attack.
With eta = 3 and three rungs a trial that is stopped on the first one costs a ninth of its training in place of all of it, and one
that climbs all of them measures 1.44 times as many faces.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raysweep.errors import ConfigError

if TYPE_CHECKING:
    from raysweep.schema import FaceTable, IntArray

__all__ = ["LEAST_PEOPLE", "Ladder"]

LEAST_PEOPLE = 10
"""Identities of E that the smallest rung needs: with fewer there is no interval to decide by."""


@dataclass(frozen=True)
class Ladder:
    """Rungs with shares eta^-(rungs-1), ..., 1/eta, 1.

    Attributes:
        rungs: how many; 1 runs every trial in full.
        eta: one in `eta` trials climbs from rung to rung.
    """

    rungs: int = 1
    eta: int = 3

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.rungs <= 8:
            problems.append(f"rungs = {self.rungs}; allowed: 1 to 8")
        if not 2 <= self.eta <= 10:
            problems.append(f"eta = {self.eta}; allowed: 2 to 10")
        if problems:
            raise ConfigError(problems)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the people, of attackers' epochs and of a training that can stop and go on; smallest first.

        >>> Ladder(3, 3).shares == (1 / 9, 1 / 3, 1.0)
        True
        """
        return tuple(float(self.eta) ** (rung + 1 - self.rungs) for rung in range(self.rungs))

    def check(self, people: int) -> None:
        """Refuse a ladder whose smallest rung has too few people to decide anything.

        Args:
            people: identities of role E.

        Raises:
            ConfigError: says how many rungs there may be.
        """
        if self.rungs == 1 or people * self.shares[0] >= LEAST_PEOPLE:
            return
        most = 1 + int(math.log(people / LEAST_PEOPLE, self.eta) + 1e-9) if people > LEAST_PEOPLE else 1
        raise ConfigError(
            f"rungs = {self.rungs} with eta = {self.eta}: the smallest rung has {people * self.shares[0]:.1f} of {people} evaluated "
            f"people and needs {LEAST_PEOPLE}; allowed here: rungs = {most} at most (or a larger data set)"
        )

    def rows(self, table: FaceTable, seed: int) -> tuple[IntArray, ...]:
        """Row numbers of each rung, ascending, each containing those of the one before; the last is the whole table.

        People are taken in the order of a hash of (seed, name), per role; rows without identity by a hash of their own. Role G is
        whole on every rung: an anonymizer may learn from it for a shorter time there, never something else.
        """
        names = np.array(table.identity_names, dtype=np.str_)
        unit = [
            str(names[person]) if person >= 0 else f"\0{face}"
            for person, face in zip(table.identity, table.face_id, strict=True)
        ]
        place = np.empty(len(table))
        for role in np.unique(table.role):
            rows = np.flatnonzero(table.role == role)
            people = sorted({unit[row] for row in rows}, key=lambda name: (_hash(seed, name), name))
            position = {name: (number + 1) / len(people) for number, name in enumerate(people)}
            place[rows] = 0.0 if role == "G" else [position[unit[row]] for row in rows]
        return tuple(np.flatnonzero(place <= share + 1e-9).astype(np.int64) for share in self.shares)


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
