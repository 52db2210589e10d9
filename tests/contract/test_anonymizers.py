"""Every built-in anonymizer keeps the contract that plug-ins are held to."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from raysweep.anonymizers.base import Anonymizer
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.schema import FaceBatch
from raysweep.search.parameters import Int, Value
from raysweep.testing import AnonymizerContract


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
