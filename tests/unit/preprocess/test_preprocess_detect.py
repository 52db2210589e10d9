from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysweep.errors import ModelError
from raysweep.preprocess.detect import Detections, Detector, choose_face, open_detector
from raysweep.schema import ByteArray, FloatArray


def found(*boxes: tuple[float, float, float, float], scores: tuple[float, ...]) -> Detections:
    return Detections(
        np.array(boxes, np.float32), np.array(scores, np.float32), np.zeros((len(boxes), 5, 2), np.float32)
    )


class BrightSpot(Detector):
    """Finds a white square, unless it fills more than half of what it sees."""

    name, threshold, side = "spot", 0.5, None

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def _find(self, image: ByteArray) -> Detections:
        self.seen.append(image.shape)
        y, x = np.nonzero((image == 255).all(axis=2))
        if len(x) == 0 or (x.max() - x.min()) > image.shape[1] / 2:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        points = np.full((1, 5, 2), [x.mean(), y.mean()], dtype=np.float32)
        return Detections(np.array([box], np.float32), np.ones(1, np.float32), points)


def test_a_face_that_fills_the_image_is_found_with_a_border() -> None:
    image = np.zeros((48, 40, 3), dtype=np.uint8)
    image[5:45, 4:36] = 255
    detector = BrightSpot()
    got = detector.detect(image)
    assert detector.seen == [(48, 40, 3), (96, 88, 3)]
    assert got.padded
    np.testing.assert_array_equal(got.boxes, [[4, 5, 36, 45]])
    np.testing.assert_allclose(got.points[0, 0], [19.5, 24.5])


def test_no_face_is_an_empty_answer() -> None:
    got = BrightSpot().detect(np.zeros((64, 64, 3), dtype=np.uint8))
    assert len(got) == 0
    assert not got.padded
    with pytest.raises(ValueError, match="no face"):
        choose_face(got, 64, 64)


def test_input_side_follows_the_image() -> None:
    detector = BrightSpot()
    assert [detector.input_side(48, 48), detector.input_side(400, 321), detector.input_side(3000, 4000)] == [
        320,
        416,
        640,
    ]
    detector.side = 640
    assert detector.input_side(48, 48) == 640


def test_the_chosen_face_is_large_sure_and_central() -> None:
    central = (40.0, 40.0, 60.0, 60.0)
    corner = (0.0, 0.0, 20.0, 20.0)
    assert choose_face(found(corner, central, scores=(0.9, 0.9)), 100, 100) == 1
    assert choose_face(found((0, 0, 60, 60), central, scores=(0.9, 0.9)), 100, 100) == 0
    assert choose_face(found(central, (41, 41, 61, 61), scores=(0.5, 0.9)), 100, 100) == 1


def test_missing_and_broken_files_have_a_message(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model file"):
        open_detector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("<html>")
    with pytest.raises(ModelError, match="not a usable ONNX file"):
        open_detector(tmp_path / "text.onnx")


@pytest.mark.real
def test_another_network_is_refused(real_root: Path) -> None:
    with pytest.raises(ModelError, match="neither SCRFD, RetinaFace"):
        open_detector(real_root / "models" / "lmk68_pfld.onnx")


def read(path: Path) -> ByteArray:
    return np.asarray(Image.open(path).convert("RGB"))


def points_of(detector: Detector, image: ByteArray) -> FloatArray:
    got = detector.detect(image)
    return got.points[choose_face(got, *image.shape[:2])]


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "step"),
    [("faces_id/celeba_ciagan/clr", 15), ("faces_id/lfw", 60), ("faces_expr/yale", 11), ("faces_expr/fer2013", 30)],
)
def test_scrfd_finds_real_faces(real_root: Path, folder: str, step: int) -> None:
    detector = open_detector(real_root / "models" / "det_scrfd_500m_bnkps.onnx")
    files = sorted(path for path in (real_root / folder).rglob("*") if path.is_file())[::step]
    assert len(files) >= 9
    assert [path.name for path in files if len(detector.detect(read(path))) == 0] == []


@pytest.mark.real
@pytest.mark.parametrize("folder", ["faces_id/celeba_ciagan/clr", "faces_id/lfw"])
def test_scrfd_and_yunet_agree(real_root: Path, folder: str) -> None:
    """Median distance of their points 4.5 to 6 % of the eye distance on whole sets; some room for a subset."""
    scrfd = open_detector(real_root / "models" / "det_scrfd_500m_bnkps.onnx")
    yunet = open_detector(real_root / "models" / "det_yunet_2023mar.onnx")
    files = sorted(path for path in (real_root / folder).rglob("*") if path.is_file())[::15][:20]
    distances = []
    for path in files:
        a, b = points_of(scrfd, read(path)), points_of(yunet, read(path))
        distances.append(np.linalg.norm(a - b, axis=1).mean() / np.linalg.norm(a[0] - a[1]))
    assert 0.03 < float(np.median(distances)) < 0.07


@pytest.mark.real
def test_scrfd_equals_insightface(real_root: Path) -> None:
    """Same boxes and points as insightface's own loading of a dynamic file, for an image that is not shrunk."""
    from insightface.model_zoo.scrfd import SCRFD

    path = real_root / "models" / "det_scrfd_2.5g_bnkps.onnx"
    image = read(sorted((real_root / "faces_id/lfw").rglob("*.jpg"))[0])
    oracle = SCRFD(model_file=str(path))
    oracle.prepare(-1, det_thresh=0.4)
    boxes, points = oracle.detect(image[:, :, ::-1], input_size=(320, 320))
    got = open_detector(path).detect(image)
    order = np.argsort(-boxes[:, 4], kind="stable")
    np.testing.assert_allclose(got.boxes, boxes[order, :4], atol=0.05)
    np.testing.assert_allclose(got.points, points[order], atol=0.05)


@pytest.mark.real
def test_large_photographs_are_shrunk(real_root: Path) -> None:
    """The same face four times as large gives the same points, four times as far."""
    detector = open_detector(real_root / "models" / "det_scrfd_500m_bnkps.onnx")
    path = sorted((real_root / "faces_id/lfw").rglob("*.jpg"))[0]
    image = read(path)
    large = np.asarray(Image.fromarray(image).resize((1000, 1000), Image.Resampling.BICUBIC))
    want = points_of(detector, image)
    off = np.abs(points_of(detector, large) / 4 - want).max() / np.linalg.norm(want[0] - want[1])
    assert off < 0.06
