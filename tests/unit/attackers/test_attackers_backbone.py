"""A recogniser whose own weights learn on released faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raysweep.anonymizers.identity import Identity
from raysweep.attackers import AttackView, attacker
from raysweep.attackers.backbone import retrained
from raysweep.attackers.base import BACKBONE, Embeddings
from raysweep.attackers.pixels import Darkroom
from raysweep.errors import ConfigError
from raysweep.metrics.identification import IdentificationSums
from raysweep.metrics.uncertainty import Resampling
from raysweep.models.base import InputSpec
from raysweep.models.embedders import TorchEmbedder
from raysweep.models.small import SmallEmbedder
from raysweep.schema import FaceTable, FloatArray, Frame
from raysweep.testing.attacker import example_embeddings, example_table

SIDE = 16
FRAME = Frame(size=SIDE)


def _network(name: str = "small") -> TorchEmbedder:
    """A tiny untrained recogniser, without a file behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallEmbedder(dim=16, width=8, side=SIDE).eval().requires_grad_(False)
    made = TorchEmbedder.__new__(TorchEmbedder)
    made.name, made.dim, made.lineage = name, 16, frozenset({name})
    made.input = InputSpec(size=SIDE)
    made.device, made.chunk, made.provider, made.network = torch.device("cpu"), 64, "torch cpu", network
    return made


def _faces(table: FaceTable) -> torch.Tensor:
    """A faint pattern per person under a strong one per image."""
    random = np.random.default_rng(0)
    waves = random.standard_normal((6, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    person = random.standard_normal((len(table.identity_names), 3))[table.identity]
    image = 2 * random.standard_normal((len(table), 3))
    pixels = np.tensordot(np.concatenate([person, image], axis=1), waves, axes=1) * 9 + 128
    return torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8))


def _rank1(rows: FloatArray, table: FaceTable) -> float:
    faces = Embeddings.of(rows)
    view = AttackView.of(table, "E", faces, faces)
    sums = IdentificationSums.start(len(view.classes), 10).update(attacker("A1").scores(view), view.probe_class)
    return sums.standard(Resampling(0)).value


def test_it_learns_what_varies_between_people_it_has_never_seen() -> None:
    table = example_table(images=10, people={"T": 40, "E": 12})
    images, embedder = _faces(table), _network()
    before = {name: value.clone() for name, value in embedder.network.state_dict().items()}
    rows = table.rows("T")
    taught = images[torch.from_numpy(rows)]
    first, again = (retrained(embedder, taught, FRAME, table.identity[rows], 8, 3) for _ in range(2))
    plain = embedder.embed(images, FRAME)
    assert _rank1(first.embed(images, FRAME), table) > _rank1(plain, table) + 0.1
    assert np.array_equal(first.embed(images, FRAME), again.embed(images, FRAME)), "the same data, the same attacker"
    assert all(torch.equal(value, before[name]) for name, value in embedder.network.state_dict().items())
    untrained = retrained(embedder, taught, FRAME, table.identity[rows], 0, 3)
    assert np.array_equal(untrained.embed(images, FRAME), plain)


def _darkroom(table: FaceTable, *embedders: TorchEmbedder) -> Darkroom:
    images = _faces(table)

    def crops(rows: np.ndarray) -> torch.Tensor:
        return images[torch.from_numpy(rows)]

    return Darkroom(
        table, crops, lambda _, rows: crops(rows), lambda _: {}, lambda _: Identity(), 0, embedders, FRAME
    )  # fmt: skip


def test_faces_of_s_and_e_are_seen_through_it() -> None:
    table = example_table(people={"T": 4, "S": 2, "E": 3})
    asker = attacker("A2:backbone", backbone_epochs=1)
    found = _darkroom(table, _network()).develop(asker, Identity())
    assert (found.name, found.absent) == (BACKBONE, "")
    assert sorted(found.rows.tolist()) == sorted([*table.rows("S").tolist(), *table.rows("E").tolist()])
    assert found.embeddings["small"].shape == (len(found.rows), 16)
    assert "ONNX holds no gradients" in _darkroom(table).develop(asker, Identity()).absent
    alone = example_table(people={"T": 1, "E": 3})
    assert "role T" in _darkroom(alone, _network()).develop(asker, Identity()).absent


def test_a_recogniser_that_cannot_be_trained_has_a_reason() -> None:
    table = example_table()
    faces = Embeddings.of(example_embeddings(table))
    view = AttackView.of(table, "E", faces, faces)
    asker = attacker("A2:backbone")
    assert asker.problem(view) == "this recogniser is no torch network: its weights cannot be trained"
    assert asker.problem(replace(view, absent={BACKBONE: "not tried below full fidelity"})).startswith("not tried")
    assert attacker("A2").problem(view) == ""
    with pytest.raises(ConfigError, match="backbone_epochs=-1"):
        attacker("A2:backbone", backbone_epochs=-1)
    with pytest.raises(ConfigError, match="adapter='backbone' epochs=60; allowed: whitening, lda, mlp;"):
        attacker("A2m:backbone")
