from __future__ import annotations

from dataclasses import replace

import numpy as np

from raysweep.anonymizers.batch import drawn_for, face_seeds
from raysweep.testing.attacker import example_table


def test_pseudonyms_are_drawn_once_per_person() -> None:
    table = example_table(people={"E": 4})
    identity = table.identity.copy()
    identity[[3, 9]] = -1
    table = replace(table, identity=identity)
    seeds = {}
    for assignment in ("per_image", "per_identity"):
        seeds[assignment] = face_seeds(0, drawn_for(table, per_person=assignment == "per_identity"))
    assert len(np.unique(seeds["per_image"])) == len(table)
    for person in range(4):
        assert len(np.unique(seeds["per_identity"][identity == person])) == 1
    # A face of nobody known is a person of its own.
    assert len(np.unique(seeds["per_identity"])) == 4 + 2
