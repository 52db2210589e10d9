"""Every rung of the ladder keeps the contract that plug-ins are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from raysweep.attackers import ATTACKERS, Attacker, AttackView, attacker, label
from raysweep.attackers.base import lacking
from raysweep.schema import FloatArray
from raysweep.testing.attacker import AttackerContract

LADDER = [
    *(attacker(name) for name in ATTACKERS),
    attacker("A0", template="mean"),
    attacker("A2:lda"),
    attacker("A2:mlp", epochs=8),
    attacker("A2:backbone"),
    attacker("A3", early_stopping=True),
    attacker("A4:unet"),
    attacker("A5:A0"),
]


class TestLadder(AttackerContract):
    @pytest.fixture(params=LADDER, ids=[f"{label(each)}-{number}" for number, each in enumerate(LADDER)])
    def attacker(self, request: pytest.FixtureRequest) -> Attacker:
        made: Attacker = request.param
        return made


@dataclass(frozen=True)
class Euclid:
    """What a third party writes: this class and the test below it."""

    id: ClassVar[str] = "acme.euclid"
    name: ClassVar[str] = "euclid"
    knowledge: ClassVar[str] = "enrolment and probes anonymized; Euclidean distance to the mean"
    needs: ClassVar[frozenset[str]] = frozenset()
    reference: ClassVar[str] = "none"

    def problem(self, view: AttackView) -> str:
        return lacking(self.needs, view)

    def scores(self, view: AttackView) -> FloatArray:
        probe, enrol = view.anonymized.take(view.probe), view.anonymized.take(view.enrol)
        centre = np.stack(
            [enrol.images[view.enrol_class == number].mean(axis=0) for number in range(len(view.classes))]
        )
        distance = ((probe.row[:, None] - centre[None]) ** 2).sum(axis=2)
        return np.asarray(-np.round(distance, 5)[probe.index], dtype=np.float32)


class TestEuclid(AttackerContract):
    @pytest.fixture
    def attacker(self) -> Attacker:
        return Euclid()
