from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from raysweep.errors import ModelError
from raysweep.preprocess.detect import choose_face, open_detector
from raysweep.preprocess.landmarks import MediaPipeLandmarks, OnnxLandmarks, box_of_points, open_landmarks
from raysweep.schema import ARCFACE_POINTS


def constant_network(
    path: Path, numbers: np.ndarray, side: int, batch: int | str = "batch", named: bool = False
) -> Path:
    """An ONNX file that answers `numbers` plus the mean of its input, whatever it sees."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], name="_minus0" if named else "a", axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "axis"], ["u"], name="_mul0" if named else "b"),
        helper.make_node("Mul", ["u", "zero"], ["z"], name="c"),
        helper.make_node("Add", ["z", "numbers"], ["y"], name="d"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, numbers.size])],
        [
            helper.make_tensor("numbers", TensorProto.FLOAT, [1, numbers.size], numbers.ravel()),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_box_of_points_undoes_the_template() -> None:
    box = box_of_points(ARCFACE_POINTS * 3 + 10)
    np.testing.assert_allclose(
        box, [(58.6 - 40.5) * 3 + 10, (63.7 - 56) * 3 + 10, (58.6 + 40.5) * 3 + 10, (63.7 + 56) * 3 + 10], atol=1e-3
    )


def test_pfld_answers_in_pixels_of_the_photograph(tmp_path: Path) -> None:
    model = open_landmarks(constant_network(tmp_path / "p.onnx", np.tile([0.25, 0.5], 68), 112))
    assert (model.name, model.count) == ("pfld68", 68)
    image = np.zeros((300, 200, 3), dtype=np.uint8)
    got = model.locate([image, image], [[50, 100, 90, 180], [0, 0, 100, 100]])
    assert got.shape == (2, 68, 2)
    # centre (70, 140), square of 88: a quarter from its left edge, half way down
    np.testing.assert_allclose(got[0], np.tile([[70 - 22, 140]], (68, 1)), atol=1e-3)
    np.testing.assert_allclose(got[1], np.tile([[50 - 27.5, 50]], (68, 1)), atol=1e-3)


def test_106_points_run_one_by_one_when_the_batch_is_fixed(tmp_path: Path) -> None:
    model = OnnxLandmarks(constant_network(tmp_path / "q.onnx", np.tile([-1.0, 1.0], 106), 192, batch=1))
    assert (model.name, model.count) == ("2d106det", 106)
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    got = model.locate([image] * 3, [[40, 40, 60, 60]] * 3)
    np.testing.assert_allclose(got, np.tile([[50 - 15, 50 + 15]], (3, 106, 1)), atol=1e-3)


def test_106_normalisation_follows_the_node_names(tmp_path: Path) -> None:
    numbers = np.zeros(212)
    outside = OnnxLandmarks(constant_network(tmp_path / "a.onnx", numbers, 192))
    inside = OnnxLandmarks(constant_network(tmp_path / "b.onnx", numbers, 192, named=True))
    assert (outside._mean, outside._std) == (127.5, 128.0)
    assert (inside._mean, inside._std) == (0.0, 1.0)


def test_no_faces_no_points(tmp_path: Path) -> None:
    model = OnnxLandmarks(constant_network(tmp_path / "p.onnx", np.zeros(136), 112))
    assert model.locate([], np.zeros((0, 4))).shape == (0, 68, 2)


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a landmark network known here"):
        open_landmarks(constant_network(tmp_path / "p.onnx", np.zeros(10), 112))


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is not None, reason="MediaPipe is installed")
def test_missing_mediapipe_names_the_versions() -> None:
    with pytest.raises(ModelError, match=r"uv sync --extra mediapipe.*0\.10\.21 beside protobuf 6"):
        MediaPipeLandmarks()
    with pytest.raises(ModelError, match="478 landmarks"):
        open_landmarks("mediapipe")


@pytest.mark.real
def test_pfld_agrees_with_the_detector(real_root: Path) -> None:
    """Eye centres, nose tip and mouth corners: median 5.5 % of the eye distance on CelebA; also from the box guessed from points."""
    detector = open_detector(real_root / "models" / "det_scrfd_500m_bnkps.onnx")
    model = open_landmarks(real_root / "models" / "lmk68_pfld.onnx")
    distances = {"box": [], "guess": []}
    for path in sorted((real_root / "faces_id/celeba_ciagan/clr").rglob("*.jpg"))[::10]:
        image = np.asarray(Image.open(path).convert("RGB"))
        found = detector.detect(image)
        best = choose_face(found, *image.shape[:2])
        want = found.points[best]
        for name, box in (("box", found.boxes[best]), ("guess", box_of_points(want))):
            marks = model.locate([image], [box])[0]
            got = np.stack([marks[36:42].mean(0), marks[42:48].mean(0), marks[30], marks[48], marks[54]])
            distances[name].append(np.linalg.norm(got - want, axis=1).mean() / np.linalg.norm(want[0] - want[1]))
    assert float(np.median(distances["box"])) < 0.075
    assert float(np.median(distances["guess"])) < 0.085
