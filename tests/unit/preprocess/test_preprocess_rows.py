from __future__ import annotations

import numpy as np
import prepare_fakes as fakes
import pytest

from raysweep.errors import ModelError
from raysweep.preprocess.landmarks import LandmarkModel
from raysweep.preprocess.measure import measure, measure_columns
from raysweep.preprocess.parse import HEAD_FRAME, Parser
from raysweep.preprocess.rows import Recipe, RowProblem, Tools, crop_row, crop_rows, recipe_for
from raysweep.schema import ByteArray, FloatArray, Frame

FRAME = Frame(128, 8)
KNOWN = Recipe(FRAME, landmarks="known", landmark_count=10, mask="known")


class Corners(LandmarkModel):
    """Two landmarks: corners of the box it was given."""

    name, count = "corners", 2

    def locate(self, images: object, boxes: object) -> FloatArray:
        return np.asarray(boxes, dtype=np.float32).reshape(-1, 2, 2)


class Lost(Corners):
    def locate(self, images: object, boxes: object) -> FloatArray:
        return np.full((1, 2, 2), np.nan, dtype=np.float32)


class LeftHalf(Parser):
    """Skin left of the middle of the head frame."""

    name = "left"

    def parse(self, heads: ByteArray) -> ByteArray:
        labels = np.zeros(heads.shape[:3], dtype=np.uint8)
        labels[:, :, : HEAD_FRAME.size // 2] = 1
        return labels


def test_known_points_landmarks_and_mask_go_through_one_matrix() -> None:
    face = crop_row(fakes.row(1), KNOWN, Tools())
    assert face.crop.shape == (128, 128, 3)
    np.testing.assert_allclose(face.points, FRAME.points, atol=0.01)
    assert face.landmarks is not None
    np.testing.assert_allclose(face.landmarks, np.repeat(FRAME.points, 2, axis=0), atol=0.01)
    assert face.mask is not None
    assert set(np.unique(face.mask)) == {0, 1}
    # dark spots sit at the five points
    for x, y in face.points.round().astype(int):
        assert face.crop[y, x].max() < 60


def test_every_bad_row_has_its_reason() -> None:
    columns = crop_rows(fakes.mixed_rows(12), KNOWN, Tools())
    reasons = dict(zip(columns["face_id"].tolist(), columns["reason"].tolist(), strict=True))
    bad = {face: reason for face, reason in reasons.items() if reason}
    assert bad == {
        "bad/html": "not_an_image",
        "bad/points": "bad_points",
        "bad/truncated": "truncated",
        "bad/unmasked": "no_mask",
    }
    assert all(detail for detail, reason in zip(columns["detail"], columns["reason"], strict=True) if reason)
    assert columns["source"].tolist()[3] == "row 101"
    assert columns["crop"][columns["reason"] != ""].max() == 0
    assert (columns["crop"][columns["reason"] == ""].reshape(12, -1).max(axis=1) > 100).all()


def test_known_points_need_no_detector() -> None:
    class Forbidden(fakes.DarkSpots):
        def _find(self, image: ByteArray) -> object:  # type: ignore[override]
            raise AssertionError("asked although the points are known")

    assert crop_row(fakes.row(1), KNOWN, Tools(detector=Forbidden())).note == ""


def test_detected_points_and_no_face() -> None:
    tools = Tools(detector=fakes.DarkSpots())
    recipe = Recipe(FRAME)
    face = crop_row(fakes.row(2, points=None), recipe, tools)
    known = crop_row(fakes.row(2), recipe, tools)
    assert np.abs(face.crop.astype(int) - known.crop).mean() < 20
    empty = np.zeros((64, 64, 3), dtype=np.uint8)
    with pytest.raises(RowProblem, match="no_face: none in 64 x 64") as raised:
        crop_row(fakes.row(3, points=None, image=empty.tobytes(), height=64, width=64), recipe, tools)
    assert raised.value.reason == "no_face"


def test_landmarks_of_a_model_are_in_crop_pixels() -> None:
    tools = Tools(landmarks=Corners())
    recipe = Recipe(FRAME, landmarks="model", landmark_count=2)
    face = crop_row(fakes.row(1, landmarks=None), recipe, tools)
    # the box guessed from the points: centre (58.6, 63.7), 81 x 112 template pixels
    want = FRAME.from_template(np.array([[58.6 - 40.5, 63.7 - 56], [58.6 + 40.5, 63.7 + 56]], dtype=np.float32))
    np.testing.assert_allclose(face.landmarks, want, atol=0.05)
    with pytest.raises(RowProblem, match="no_landmarks"):
        crop_row(fakes.row(1), recipe, Tools(landmarks=Lost()))


def test_other_landmarks_than_the_first_row_are_refused() -> None:
    with pytest.raises(RowProblem, match="brings 3 dense landmarks where other rows bring 10"):
        crop_row(fakes.row(1, landmarks=[1.0] * 6), KNOWN, Tools())


def test_mask_of_a_parser_follows_the_frame() -> None:
    recipe = Recipe(FRAME, mask="model")
    mask = crop_row(fakes.row(1, mask=None), recipe, Tools(parser=LeftHalf())).mask
    assert mask is not None
    # the middle of the head frame is the middle of the template, and of any frame
    np.testing.assert_array_equal(mask[:, :64], 1)
    np.testing.assert_array_equal(mask[:, 64:], 0)
    wide = crop_row(fakes.row(1, mask=None), Recipe(Frame(172, 30), mask="model"), Tools(parser=LeftHalf())).mask
    assert wide is not None
    beyond = (wide == 1).any(axis=0)
    assert not beyond[:12].any()  # 30 - 17 template pixels beyond what the parser sees
    assert beyond[14:86].all()


def test_recipe_follows_the_first_row() -> None:
    tools = Tools(landmarks=Corners(), parser=LeftHalf(), detector=fakes.DarkSpots())
    first = fakes.row(0)
    bare = {**first, "landmarks": None, "mask": None}
    assert recipe_for(first, FRAME, tools) == Recipe(FRAME, "known", 10, "known")
    assert recipe_for(bare, FRAME, tools) == Recipe(FRAME, "model", 2, "model")
    assert recipe_for(bare, FRAME, tools, models=False) == Recipe(FRAME)
    assert recipe_for(bare, FRAME, Tools()) == Recipe(FRAME)
    with pytest.raises(ModelError, match="no detector"):
        recipe_for({**first, "points": None}, FRAME, Tools())


def test_measurements_do_not_depend_on_the_batch() -> None:
    crops = crop_rows([fakes.row(n) for n in range(7)], KNOWN, Tools())["crop"]
    one = measure(crops, FRAME, [fakes.FakeEmbedder()], [fakes.FakeExpression()], batch_size=3)
    two = measure(crops, FRAME, [fakes.FakeEmbedder()], [fakes.FakeExpression()], batch_size=64)
    np.testing.assert_allclose(one.embeddings["fields/a"], two.embeddings["fields/a"], atol=1e-6)
    np.testing.assert_allclose(one.probabilities["stripes"].sum(axis=1), 1, atol=1e-5)


def test_bad_rows_are_not_measured() -> None:
    columns = crop_rows(fakes.mixed_rows(6), KNOWN, Tools())
    got = measure_columns(columns, FRAME, [fakes.FakeEmbedder()], [fakes.FakeExpression()])
    good = got["reason"] == ""
    np.testing.assert_allclose(np.linalg.norm(got["embedding:fields/a"][good], axis=1), 1, atol=1e-5)
    assert not got["embedding:fields/a"][~good].any()
    assert not got["probability:stripes"][~good].any()
