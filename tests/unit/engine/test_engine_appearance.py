"""What is looked at on released faces: a sample that names decide, and networks whose answers do not depend on the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import inception_v3

from raysweep.engine import appearance
from raysweep.engine.appearance import Appearance, sample
from raysweep.errors import ModelError
from raysweep.models.entry import Entry
from raysweep.models.zoo import Found, Zoo, open_zoo
from raysweep.preprocess.detect import Detections
from raysweep.schema import AlignedFaces, ByteArray
from raysweep.testing.anonymizer import example_faces

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return open_zoo().for_data(True)


def _images(faces: AlignedFaces) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(faces.crop.transpose(0, 3, 1, 2)))


def test_the_sample_is_decided_by_names() -> None:
    names = np.array([f"face {n}" for n in range(100)])
    rows = np.arange(100)
    chosen = sample(names, rows, 20)
    assert len(chosen) == 20
    assert (np.diff(chosen) > 0).all()
    order = np.random.default_rng(0).permutation(100)
    again = sample(names[order], np.arange(100), 20)
    assert sorted(names[order][again]) == sorted(names[chosen])
    assert set(sample(names, rows, 10)) < set(chosen)
    assert len(sample(names, rows[:7], 20)) == 7


def test_features_of_the_sample_whatever_the_batch(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = example_faces(12, "E", "probe")
    monkeypatch.setattr(appearance, "FEATURE_FACES", 9)
    looking = Appearance(zoo, zoo.expression_models(CPU), faces, CPU, 1)
    rows = np.arange(12)
    features, detected = looking.look(_images(faces), rows)
    assert detected == {}  # no detector for drawn faces
    assert list(features) == ["expression"]
    looked_at = np.isfinite(features["expression"]).all(axis=1)
    assert looked_at.sum() == 9
    assert np.isnan(features["expression"][~looked_at]).all()
    assert np.unique(features["expression"][looked_at], axis=0).shape[0] == 9
    load = lambda wanted: _images(faces)[torch.from_numpy(wanted)]  # noqa: E731
    for size in (1, 5):
        apart, _ = looking.look_at_all(rows[::-1].copy(), load, size)
        np.testing.assert_allclose(apart["expression"][::-1], features["expression"], atol=1e-5)


def test_faces_of_other_roles_are_not_looked_at(zoo: Zoo) -> None:
    faces = example_faces(6, "T")
    looking = Appearance(zoo, zoo.expression_models(CPU), faces, CPU, 1)
    features, _ = looking.look(_images(faces), np.arange(6))
    assert np.isnan(features["expression"]).all()
    assert looking.look_at_all(np.arange(6), lambda rows: _images(faces.take(rows)), 4) == ({}, {})
    nothing = Appearance(zoo, [], faces, CPU, 1)
    assert nothing.look(_images(faces), np.arange(6)) == ({}, {})


def test_a_detector_is_asked_about_photographs(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that finds bright pictures: it gets one upright RGB picture at a time, as uint8."""

    class Bright:
        def detect(self, image: ByteArray) -> Detections:
            assert image.shape == (112, 112, 3)
            assert image.dtype == np.uint8
            count = int(image.mean() > 127)
            return Detections(np.zeros((count, 4)), np.ones(count), np.zeros((count, 5, 2)))

    faces = example_faces(8, "E", "probe")
    looking = Appearance(zoo, [], faces, CPU, 1)
    monkeypatch.setattr(looking, "_detector", Bright())
    monkeypatch.setattr(looking, "_searched", np.arange(6))
    images = torch.full((8, 3, 112, 112), 255, dtype=torch.uint8)
    images[1] = 0
    _, detected = looking.look(images, np.arange(8))
    np.testing.assert_array_equal(detected["detected"], [1, 0, 1, 1, 1, 1, np.nan, np.nan])


@pytest.mark.slow
def test_inception_features(zoo: Zoo, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = inception_v3(weights=None, aux_logits=True, init_weights=False, transform_input=False)
    path = tmp_path / "inception.pth"
    torch.save(network.state_dict(), path)
    entry = Entry(
        name="inception-random", task="perceptual", family="inception", file=path.name, licence="none",
        format="torch-state-dict", architecture="inception_v3",
    )  # fmt: skip
    faces = example_faces(4, "E", "probe")
    found = Zoo(tmp_path, (entry,), {entry.name: Found(entry, path, "0" * 64)})
    looking = Appearance(found, [], faces, CPU, 1)
    features = looking.look(_images(faces), np.arange(4))[0]["inception"]
    assert features.shape == (4, 2048)
    assert np.isfinite(features).all()
    assert features.std(axis=0).max() > 0
    alone = looking.look(_images(faces)[2:3], np.array([2]))[0]["inception"]
    np.testing.assert_allclose(alone[0], features[2], atol=1e-4)
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match="not torchvision's inception_v3"):
        Appearance(found, [], faces, CPU, 1)
