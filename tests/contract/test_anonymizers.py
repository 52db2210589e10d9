"""Every built-in anonymizer keeps the contract that plug-ins are held to."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from raysweep.anonymizers.base import Anonymizer
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.search.parameters import Value
from raysweep.testing.anonymizer import AnonymizerContract


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
