"""Every built-in anonymizer keeps the contract that plug-ins are held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from raysweep.anonymizers.base import Anonymizer, FitContext
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.data.synthetic import SyntheticFaces
from raysweep.preprocess.align import similarity, transform_points
from raysweep.schema import AlignedFaces, FaceBatch
from raysweep.search.parameters import Int, Value
from raysweep.testing import AnonymizerContract
from raysweep.testing.anonymizer import example_context


class Posterize(Anonymizer):
    """What a third party writes: this class and the test below it."""

    name = "acme/posterize"
    parameters = {"bits": Int(1, 8, 2, unit="bits per channel")}  # noqa: RUF012

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        step = 2 ** (8 - int(self.setting["bits"]))
        return faces.image // step * step


class TestPosterize(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return Posterize


class TestBlackout(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return get_anonymizer("blackout")


class TestBlur(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return get_anonymizer("blur")


class TestPixelate(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return get_anonymizer("pixelate")


@pytest.mark.filterwarnings("ignore::raysweep.anonymizers.ksame.GuaranteeWarning")
class TestKSame(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return get_anonymizer("k-same")

    @pytest.fixture
    def setting(self) -> Mapping[str, Value]:
        return {"k": 3, "unit": "subjects", "space": "pixel"}


class TestKSameOverImages(TestKSame):
    @pytest.fixture
    def setting(self) -> Mapping[str, Value]:
        return {"k": 3, "unit": "images", "space": "eigen"}


class TestGANonymization(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return get_anonymizer("ganonymization")

    @pytest.fixture
    def setting(self) -> Mapping[str, Value]:
        return {
            "init": "scratch",
            "steps": 2,
            "shape_mix": 0.5,
            "landmark_noise": 0.01,
            "conditioning": "landmarks+mask",
        }


class TestGANonymizationFromLandmarks(TestGANonymization):
    @pytest.fixture
    def setting(self) -> Mapping[str, Value]:
        return {"init": "scratch", "steps": 0, "size": 32, "depth": 3, "width": 8}


def with_68_points(faces: AlignedFaces) -> AlignedFaces:
    """The contract's pictures with landmarks in the order of iBUG, which CIAGAN reads jaw, nose and mouth from."""
    drawn = SyntheticFaces(identities=1, images_per_identity=1, seed=5).draw(
        np.zeros(1, np.int64), np.zeros(1, np.int64)
    )
    points = transform_points(drawn.landmarks, similarity(drawn.points, faces.frame.points))
    noise = np.random.default_rng(len(faces)).normal(0, 1.5, (len(faces), 68, 2))
    return replace(faces, landmarks=(points + noise).astype(np.float32))


class TestCIAGAN(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return get_anonymizer("ciagan")

    @pytest.fixture
    def context(self, device: torch.device) -> FitContext:
        plain = example_context(device, self.size)
        releases = {name: with_68_points(faces) for name, faces in plain.releases.items()}
        return replace(plain, background=with_68_points(plain.background), releases=releases)

    @pytest.fixture
    def setting(self) -> Mapping[str, Value]:
        return {"init": "scratch", "steps": 1, "size": 64, "width": 4, "classes": 6, "batch_size": 4}


class TestCIAGANNextPerson(TestCIAGAN):
    @pytest.fixture
    def setting(self) -> Mapping[str, Value]:
        return {"init": "scratch", "steps": 0, "size": 128, "width": 4, "classes": 6, "target": "own_plus_one"}


class TestDeepPrivacy2(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        return get_anonymizer("deepprivacy2")


class TestDeepPrivacy2OwnStyles(TestDeepPrivacy2):
    @pytest.fixture
    def setting(self) -> Mapping[str, Value]:
        return {"truncation": 0.7, "truncate_to": "modes", "box_scale": 0.7}
