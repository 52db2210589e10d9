from __future__ import annotations

import math

import numpy as np

from raysweep.metrics.catalogue import METRICS, describe
from raysweep.objective import Protocol, Referee
from raysweep.schema import FaceTable, Measurements


def test_catalogue_names_exactly_what_the_referee_says() -> None:
    rng = np.random.default_rng(0)
    people, images = 60, 20
    n = people * images
    table = FaceTable(
        face_id=np.array([f"f{i}" for i in range(n)]),
        identity=np.arange(people).repeat(images).astype(np.int64),
        expression=rng.integers(0, 7, n).astype(np.int64),
        role=np.array(["S", "E", "T"])[np.arange(people).repeat(images) // 20],
        side=np.where(
            np.arange(n) >= 40 * images, "", np.tile(np.where(np.arange(images) % 2 == 0, "enrol", "probe"), people)
        ),
        identity_names=tuple(map(str, range(people))),
        attributes={"gender": np.where(np.arange(people).repeat(images) % 2 == 0, "f", "m")},
    )
    centre = rng.standard_normal((people, 32)) + np.where(np.arange(people) % 2 == 0, 0.5, -0.5)[:, None]
    faces = centre[table.identity] + rng.standard_normal((n, 32))
    shares = np.eye(7)[table.expression] * 0.9 + 0.1 / 7
    clear = Measurements({"net": faces.astype(np.float32)}, {"fer": shares.astype(np.float32)}, {})
    anonymized = Measurements(clear.embeddings, clear.probabilities, {"psnr": rng.random(n), "ssim": rng.random(n)})
    metrics = Referee(table, clear, Protocol(bootstrap=50, learning_curve=True)).judge(anonymized).metrics
    described = {name: describe(name) for name in metrics}
    assert {info.name for info in described.values() if info is not None} == {item.name for item in METRICS}
    for name, value in metrics.items():
        info = described[name]
        assert info is not None, name
        assert "<" in info.name or info.name == name or name.startswith("utility/fer"), name
        if value.ok and not math.isnan(value.value):
            assert info.low - 1e-9 <= value.value <= info.high + 1e-9, name


def test_unknown_names() -> None:
    assert describe("perf/wall") is None
    assert describe("utility/fer/nothing") is None
