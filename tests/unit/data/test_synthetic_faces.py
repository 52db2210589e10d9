"""Synthetic faces: deterministic, batch-independent, balanced, exact, fast."""

from __future__ import annotations

import json
import time
from collections import Counter

import cv2
import numpy as np
import pyarrow as pa
import pytest

from raysweep.data.synthetic import LANDMARKS, MARGIN, SyntheticFaces, contact_sheet, main
from raysweep.errors import ConfigError
from raysweep.schema import EXPRESSIONS, PARTS, Frame, face_schema

LABEL = {name: value for value, name in enumerate(PARTS)}
GRID = np.arange(210, dtype=np.int64)


@pytest.fixture(scope="module")
def drawn():
    return SyntheticFaces().draw(GRID // 7, GRID % 7)


def test_shapes_and_types(drawn):
    assert drawn.image.shape == (210, 112, 112, 3)
    assert drawn.image.dtype == np.uint8
    assert drawn.points.shape == (210, 5, 2)
    assert drawn.landmarks.shape == (210, LANDMARKS, 2)
    assert drawn.points.dtype == drawn.landmarks.dtype == np.float32
    assert drawn.mask.shape == (210, 112, 112)
    assert drawn.mask.max() < len(PARTS)
    assert len(drawn) == len(drawn.attributes) == 210


def test_a_face_does_not_depend_on_batch_order_or_the_size_of_the_set(drawn):
    order = np.random.default_rng(0).permutation(210)[:20]
    shuffled = SyntheticFaces(identities=3, images_per_identity=5).draw(order // 7, order % 7)
    for name in ("image", "points", "landmarks", "mask", "expression"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(drawn, name)[order], err_msg=name)
    assert shuffled.attributes == [drawn.attributes[k] for k in order]
    for k in order[:4]:
        alone = SyntheticFaces().draw(np.array([k // 7]), np.array([k % 7]))
        np.testing.assert_array_equal(alone.image[0], drawn.image[k])
        np.testing.assert_array_equal(alone.landmarks[0], drawn.landmarks[k])


def test_seed_identity_and_image_each_change_the_picture(drawn):
    other = SyntheticFaces(seed=1).draw(GRID[:7] // 7, GRID[:7] % 7)
    assert (other.image != drawn.image[:7]).mean() > 0.5
    pictures = {picture.tobytes() for picture in drawn.image}
    assert len(pictures) == 210


def test_every_expression_equally_often_in_an_order_of_its_own():
    faces = SyntheticFaces(identities=20, images_per_identity=21)
    labels = faces.expressions().reshape(20, 21)
    for person in labels:
        assert Counter(person.tolist()) == dict.fromkeys(range(7), 3)
    assert len({tuple(person) for person in labels}) == 20
    row = np.arange(40)
    np.testing.assert_array_equal(faces.draw(row // 21, row % 21).expression, labels.ravel()[:40])


def test_the_face_lies_near_the_template(drawn):
    distance = np.linalg.norm(drawn.points - Frame(112, int(MARGIN)).points, axis=-1)
    assert distance.mean() < 5
    assert distance.max() < 16
    assert (drawn.mask[:, 0] == 0).mean() > 0.3, "background above the head"
    assert np.isfinite(drawn.landmarks).all()


def test_pose_moves_the_points_as_stated(drawn):
    roll = np.array([facts["roll"] for facts in drawn.attributes])
    eyes = drawn.points[:, 1] - drawn.points[:, 0]
    np.testing.assert_allclose(np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0])), roll, atol=4)
    yaw = np.array([facts["yaw"] for facts in drawn.attributes])
    middle = drawn.points[:, [0, 1, 3, 4]].mean(axis=1)
    assert np.corrcoef(drawn.points[:, 2, 0] - middle[:, 0], yaw)[0, 1] > 0.8


def test_landmarks_agree_with_the_mask(drawn):
    """Centres of outlines carry the label of what they outline; five points are the landmarks they name."""
    glasses = np.array([facts["glasses"] for facts in drawn.attributes])

    def label_at(points):
        x, y = np.round(points).astype(int).T
        return drawn.mask[np.arange(len(points)), y, x]

    marks = drawn.landmarks
    for first, name in ((36, "l_eye"), (42, "r_eye")):
        centre = marks[:, [first + 1, first + 2, first + 4, first + 5]].mean(axis=1)
        assert (label_at(centre)[~glasses] == LABEL[name]).all()
    assert (label_at(drawn.points[:, 0])[~glasses] == LABEL["l_eye"]).mean() > 0.99
    for point, name in ((19, "l_brow"), (24, "r_brow")):
        label = label_at(marks[:, point])[~glasses]
        assert np.isin(label, [LABEL[name], LABEL["hair"]]).mean() > 0.99
        assert (label == LABEL[name]).mean() > 0.85, "a fringe hides few brows"
    assert (label_at(marks[:, 33] - [0, 2.5]) == LABEL["nose"]).mean() > 0.95
    opening = marks[:, 66, 1] - marks[:, 62, 1]
    inside = label_at(marks[:, [62, 66]].mean(axis=1))
    assert (inside[opening > 3] == LABEL["mouth"]).all()
    lips = np.isin(label_at(0.5 * (marks[:, 57] + marks[:, 66])), [LABEL["l_lip"]])
    assert lips.mean() > 0.95
    np.testing.assert_allclose(drawn.points[:, 2], marks[:, 30], atol=1e-4)
    np.testing.assert_allclose(drawn.points[:, 3], marks[:, 48], atol=1e-4)
    np.testing.assert_allclose(drawn.points[:, 4], marks[:, 54], atol=1e-4)


def test_eye_outline_covers_the_eye_label(drawn):
    """The polygon through the six eyelid points and the label overlap: a shift of two pixels would break it."""
    for k in np.flatnonzero([not facts["glasses"] for facts in drawn.attributes])[:60]:
        for first, name in ((36, "l_eye"), (42, "r_eye")):
            polygon = np.zeros((112, 112), np.uint8)
            outline = np.round(drawn.landmarks[k, first : first + 6] * 16).astype(np.int32)
            cv2.fillPoly(polygon, [outline], 1, cv2.LINE_8, 4)
            label = drawn.mask[k] == LABEL[name]
            overlap = (label & (polygon > 0)).sum() / (label | (polygon > 0)).sum()
            assert overlap > 0.6, (k, name)


def test_expression_shows_in_the_landmarks(drawn):
    """Smiles lift the mouth corners, surprise opens the mouth, fear and surprise open the eyes."""
    marks = drawn.landmarks
    scale = np.linalg.norm(drawn.points[:, 1] - drawn.points[:, 0], axis=1)
    gap = (marks[:, 66, 1] - marks[:, 62, 1]) / scale
    lift = (0.5 * (marks[:, 51, 1] + marks[:, 57, 1]) - 0.5 * (marks[:, 48, 1] + marks[:, 54, 1])) / scale
    eye = (marks[:, [40, 41, 46, 47], 1].mean(axis=1) - marks[:, [37, 38, 43, 44], 1].mean(axis=1)) / scale
    mean = {
        name: tuple(float(v[drawn.expression == k].mean()) for v in (gap, lift, eye))
        for k, name in enumerate(EXPRESSIONS)
    }
    assert max(mean, key=lambda name: mean[name][0]) == "surprise"
    assert max(mean, key=lambda name: mean[name][1]) == "happy"
    assert mean["fear"][2] > mean["neutral"][2] > mean["disgust"][2]


def test_identity_shows_in_texture_and_in_geometry(drawn):
    """Between people both colour and landmark ratios vary more than within a person."""
    person = GRID // 7
    skin = np.stack([np.median(i[m == LABEL["skin"]], axis=0) for i, m in zip(drawn.image, drawn.mask, strict=True)])
    eye_span = np.linalg.norm(drawn.landmarks[:, 45] - drawn.landmarks[:, 36], axis=1)
    jaw = np.linalg.norm(drawn.landmarks[:, 14] - drawn.landmarks[:, 2], axis=1) / eye_span
    for value in (skin[:, 0], jaw):
        means = np.array([value[person == k].mean() for k in range(30)])
        within = np.mean([value[person == k].std() for k in range(30)])
        assert means.std() > 0.8 * within


@pytest.mark.parametrize("size", [64, 112, 200])
def test_any_size_shows_the_same_face(size):
    row = np.arange(14)
    small, base = SyntheticFaces(size=size).draw(row, row), SyntheticFaces().draw(row, row)
    assert small.image.shape == (14, size, size, 3)
    np.testing.assert_allclose((small.landmarks + 0.5) * 112 / size - 0.5, base.landmarks, atol=0.02)
    shrunk = np.stack([cv2.resize(one, (32, 32), interpolation=cv2.INTER_AREA) for one in small.image]).astype(float)
    wanted = np.stack([cv2.resize(one, (32, 32), interpolation=cv2.INTER_AREA) for one in base.image]).astype(float)
    assert np.corrcoef(shrunk.ravel(), wanted.ravel())[0, 1] > 0.9


def test_rows_fit_the_schema():
    faces = SyntheticFaces(identities=2, images_per_identity=7, size=48)
    rows = list(faces.rows())
    table = pa.Table.from_pylist(rows, schema=face_schema())
    assert table.num_rows == len(faces) == 14
    assert rows[8]["face_id"] == "id0001/img001"
    assert rows[8]["identity"] == "id0001"
    assert len(set(table["face_id"].to_pylist())) == 14
    drawn = faces.draw(np.array([1]), np.array([1]))
    image = np.frombuffer(rows[8]["image"], np.uint8).reshape(48, 48, 3)
    np.testing.assert_array_equal(image, drawn.image[0])
    np.testing.assert_array_equal(np.frombuffer(rows[8]["mask"], np.uint8).reshape(48, 48), drawn.mask[0])
    np.testing.assert_allclose(np.reshape(table["landmarks"][8].as_py(), (-1, 2)), drawn.landmarks[0])
    facts = json.loads(rows[8]["attributes"])
    assert {"yaw", "light_gain", "background", "intensity", "synthetic"} <= facts.keys()
    assert rows[8]["expression"] == EXPRESSIONS[drawn.expression[0]]


def test_digest_knows_every_parameter():
    variants = [
        SyntheticFaces(),
        SyntheticFaces(identities=121),
        SyntheticFaces(images_per_identity=14),
        SyntheticFaces(seed=1),
        SyntheticFaces(size=96),
    ]
    assert len({faces.digest() for faces in variants}) == 5
    assert SyntheticFaces().digest() == variants[0].digest()
    assert len({faces.name for faces in variants}) == 5


def test_digest_knows_the_drawing_version(monkeypatch):
    before = SyntheticFaces().digest()
    monkeypatch.setattr("raysweep.data.synthetic.DRAWING_VERSION", 10_000)
    assert SyntheticFaces().digest() != before


@pytest.mark.parametrize("wrong", [{"identities": 0}, {"seed": -1}, {"size": 8}, {"images_per_identity": 2.5}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SyntheticFaces(**wrong)


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ConfigError, match="equal length"):
        SyntheticFaces().draw(np.arange(3), np.arange(2))


def test_empty_batch():
    drawn = SyntheticFaces().draw(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert drawn.image.shape == (0, 112, 112, 3)


def test_contact_sheet_is_written(tmp_path):
    path = tmp_path / "sub" / "sheet.png"
    assert main(["--sheet", str(path), "--size", "48", "--people", "2"]) == 0
    sheet = cv2.imread(str(path))[..., ::-1]
    np.testing.assert_array_equal(sheet, contact_sheet(SyntheticFaces(size=48), 2))
    assert sheet.std() > 20


def test_a_thousand_faces_per_second():
    """On one thread 1,500 per second of processor time were measured; half of the goal is asked of the best of ten times, since test
    machines are busy."""
    cv2.setNumThreads(1)
    faces, row = SyntheticFaces(), np.arange(128)
    faces.draw(row[:8], row[:8])
    rate = 0.0
    for _ in range(10):
        begun = time.process_time()
        faces.draw(row % 120, row // 120)
        rate = max(rate, len(row) / (time.process_time() - begun))
        if rate > 500:
            break
    assert rate > 500
