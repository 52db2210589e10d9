from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from insightface.utils import face_align
from skimage.transform import SimilarityTransform

from raysweep.preprocess.align import align, invert, paste_back, similarity, transform_points, warp, warp_labels
from raysweep.schema import ARCFACE_POINTS, ByteArray, FloatArray, Frame


def photograph(side: int, seed: int = 0, blur: float = 1.5) -> ByteArray:
    """Smooth coloured noise with hard edges in it."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), (0, 0), blur)
    cv2.circle(image, (side // 2, side // 2), side // 5, (250, 10, 10), -1)
    return np.asarray(image)


def some_points(side: int, scale: float, seed: int) -> FloatArray:
    """The template turned, scaled, moved and disturbed."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-0.6, 0.6)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (ARCFACE_POINTS - 56) @ turn.T * scale + side / 2 + rng.normal(0, 2, (5, 2)) + rng.uniform(-9, 9, 2)
    return points.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_similarity_equals_umeyama(seed: int) -> None:
    points = some_points(250, 1.3, seed)
    want = SimilarityTransform.from_estimate(points.astype(float), ARCFACE_POINTS.astype(float)).params[:2]
    np.testing.assert_allclose(similarity(points, ARCFACE_POINTS), want, atol=1e-9)


def test_similarity_is_batched_and_marks_degenerate_points() -> None:
    batch = np.stack([some_points(250, 1.3, 1), np.full((5, 2), 7.0), some_points(250, 0.7, 2)])
    got = similarity(batch, ARCFACE_POINTS)
    assert got.shape == (3, 2, 3)
    assert np.isnan(got[1]).all()
    np.testing.assert_array_equal(got[2], similarity(batch[2], ARCFACE_POINTS))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("seed", range(8))
def test_crop_equals_insightface(seed: int) -> None:
    """At 112 pixels at most 1 grey level in at most 1 pixel of 1,000 (the template differs by 4e-6 pixels)."""
    image, points = photograph(250, seed), some_points(250, 1.1, seed)
    want = face_align.norm_crop(image, points, 112).astype(int)
    got, matrix = align(image, points, Frame())
    difference = np.abs(got.astype(int) - want)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3
    np.testing.assert_allclose(matrix, face_align.estimate_norm(points, 112), atol=1e-4)  # float32 there


def test_crop_is_a_slice_of_the_wider_frame() -> None:
    image, points = photograph(250), some_points(250, 1.1, 3)
    narrow, _ = align(image, points, Frame())
    wide, _ = align(image, points, Frame(144, 16))
    assert np.abs(wide[16:128, 16:128].astype(int) - narrow).max() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_batched_warp_equals_opencv(seed: int) -> None:
    """Mean difference to OpenCV below 0.5 grey level, at most 8 (OpenCV rounds source positions)."""
    images = np.stack([photograph(200, seed), photograph(200, seed + 50)])
    points = np.stack([some_points(200, 1.2, seed), some_points(200, 1.6, seed + 50)])
    matrices = similarity(points, Frame().points)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    got = warp(tensor, matrices, 112).permute(0, 2, 3, 1).numpy().astype(int)
    want = np.stack([align(image, five, Frame())[0] for image, five in zip(images, points, strict=True)]).astype(int)
    assert np.abs(got - want).mean() < 0.5
    assert np.abs(got - want).max() <= 8


def test_points_come_back() -> None:
    points = np.stack([some_points(250, 1.3, seed) for seed in range(6)])
    matrices = similarity(points, Frame(128, 8).points)
    there = transform_points(points, matrices)
    np.testing.assert_allclose(transform_points(there, invert(matrices)), points, atol=1e-3)
    assert np.abs(there - Frame(128, 8).points).max() < 6  # the disturbance, not more


def test_exact_template_points_land_on_the_template() -> None:
    points = (ARCFACE_POINTS + 5) * 2.0
    matrix = similarity(points, Frame().points)
    np.testing.assert_allclose(transform_points(points, matrix), ARCFACE_POINTS, atol=1e-4)


def test_large_faces_are_antialiased() -> None:
    """Fine stripes that a plain bilinear warp turns into noise come out grey, and the geometry stays."""
    side = 1200
    image = np.zeros((side, side, 3), dtype=np.uint8)
    image[:, ::2] = 255
    image[600:620, 590:610] = (255, 0, 0)
    points = (ARCFACE_POINTS - 56) * 8.3 + 600
    crop, matrix = align(image, points, Frame())
    assert crop[5:20, 5:100].std() < 6
    plain = cv2.warpAffine(image, matrix, (112, 112))
    assert plain[5:20, 5:100].std() > 60
    red = (crop[..., 0].astype(int) - crop[..., 1]).clip(0)
    red[red < 60] = 0
    y, x = np.indices(red.shape)
    centre = np.array([(x * red).sum(), (y * red).sum()]) / red.sum()
    np.testing.assert_allclose(centre, transform_points([[599.5, 609.5]], matrix)[0], atol=0.35)


def test_antialiasing_beyond_the_border_is_black() -> None:
    image = np.full((500, 501, 3), 200, dtype=np.uint8)
    points = (ARCFACE_POINTS - 56) * 5.0 + 40
    crop, _ = align(image, points, Frame())
    assert crop[:40, :40].max() == 0
    assert crop[70:, 70:].min() == 200


def test_labels_stay_labels() -> None:
    labels = np.zeros((250, 250), dtype=np.uint8)
    labels[100:150, 100:150] = 17
    _, matrix = align(photograph(250), some_points(250, 1.3, 1), Frame())
    assert set(np.unique(warp_labels(labels, matrix, 112))) == {0, 17}


def test_paste_back_restores_the_face() -> None:
    image, points = photograph(250, blur=4.0), some_points(250, 1.0, 5)
    crop, matrix = align(image, points, Frame(224, 0))
    pasted = paste_back(np.zeros_like(image), crop, matrix)
    inside = paste_back(np.zeros_like(image), np.full_like(crop, 255), matrix).min(axis=2) == 255
    assert 8000 < inside.sum() < 20000
    inside &= cv2.Laplacian(image, cv2.CV_64F).max(axis=2) < 40
    assert np.abs(pasted.astype(int) - image)[inside].mean() < 2
    np.testing.assert_array_equal(paste_back(image, crop, matrix)[:3, :3], image[:3, :3])


def test_bad_points_are_refused() -> None:
    with pytest.raises(ValueError, match="in one place"):
        align(photograph(100), np.full((5, 2), 30.0), Frame())
    with pytest.raises(ValueError, match="not finite"):
        align(photograph(100), np.full((5, 2), np.nan), Frame())
    with pytest.raises(ValueError, match="five points"):
        align(photograph(100), np.zeros((4, 2)), Frame())
