"""Box, window, mask and the way back, against the published steps done one face at a time with torch and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.anonymizers.deepprivacy2.conditioning import (
    TEMPLATE_BOX,
    Places,
    compose,
    condition,
    face_boxes,
    latent_index,
    latents,
    masks,
    pictures,
    place,
    rectangles,
)
from raysweep.errors import TrialError
from raysweep.schema import Frame


def noise(count: int, side: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 3, side // 4, side // 4), generator=random).float()
    return F.interpolate(coarse, size=(side, side), mode="bicubic").round().clamp(0, 255).to(torch.uint8)


def slowly(image: torch.Tensor, window: list[int], size: int) -> torch.Tensor:
    """The published way in for one crop (3, S, S): cut with black beyond, then bicubic or area."""
    x0, y0, side = window
    reach = image.shape[-1]
    around = F.pad(image, (reach, reach, reach, reach))
    cut = around[:, y0 + reach : y0 + reach + side, x0 + reach : x0 + reach + side]
    if side < size:
        small = F.interpolate(
            cut[None].float(), size=(size, size), mode="bicubic", antialias=True, align_corners=False
        )[0]
        return small.round().clamp(0, 255)
    area = cv2.resize(cut.permute(1, 2, 0).numpy(), (size, size), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(area).permute(2, 0, 1).float()


def test_the_box_lies_where_the_detector_puts_it() -> None:
    frame = Frame(160, 24)
    assert np.allclose(face_boxes(frame.points[None]), np.array(TEMPLATE_BOX) + 24, atol=1e-3)
    larger = Frame(320, 24)
    assert np.allclose(face_boxes(larger.points[None]), 2 * (np.array(TEMPLATE_BOX) + 24), atol=1e-3)
    half = face_boxes(frame.points[None], 0.5)[0]
    assert np.allclose(half, [60, 61.25, 100, 115.75], atol=1e-3)


def test_the_window_is_the_published_one() -> None:
    """Centre int(x0) + w // 2, half a side 1.4 x the longer side // 2; the box is clipped and rounded first."""
    places = place(np.array([[40.4, 33.6, 120.2, 143.0], [-7.0, 30.0, 61.0, 171.0]]), 160)
    assert places.box.tolist() == [[40, 34, 120, 143], [0, 30, 61, 160]]
    assert places.window.tolist() == [[80 - 76, 88 - 76, 152], [30 - 91, 95 - 91, 182]]
    assert rectangles(places, 256).tolist() == [
        [36 * 256 // 152, 22 * 256 // 152, 116 * 256 // 152, 131 * 256 // 152],
        [61 * 256 // 182, 26 * 256 // 182, 122 * 256 // 182, 156 * 256 // 182],
    ]
    assert place(np.array([[20.0, 20.0, 60.0, 60.0]]), 160, 1.7).window.tolist() == [[6, 6, 68]]


def test_points_that_give_no_box_are_named() -> None:
    points = np.repeat(Frame(112).points[None], 3, axis=0)
    points[1] = 7.0
    with pytest.raises(TrialError, match="face 1 "):
        place(face_boxes(points), 112)
    points[1] = Frame(112).points + 500
    with pytest.raises(TrialError, match="face 1 "):
        place(face_boxes(points), 112)


@pytest.mark.parametrize("size", [64, 100, 256])
def test_the_way_in_is_the_published_one(size: int) -> None:
    """Windows within, beyond every edge, smaller than the picture, of its side, and larger."""
    images = noise(7, 112)
    window = np.array(
        [[10, 12, 60], [-20, -15, 150], [40, 50, 90], [0, 0, 112], [-30, 30, 100], [5, 5, 64], [-50, -60, 218]]
    )
    box = window.copy()[:, [0, 1, 0, 1]] + [9, 9, 29, 29]
    seen = (pictures(images, Places(box, window), size) * 127.5 + 127.5).round()
    for row, where in enumerate(window.tolist()):
        expected = slowly(images[row], where, size)
        difference = (seen[row] - expected).abs()
        # Halves may be rounded to either side.
        assert difference.max() <= 1, where
        assert (difference > 0).float().mean() < 2e-3, where


def test_unknown_pixels_are_mid_grey() -> None:
    images = noise(2, 112)
    places = place(face_boxes(np.repeat(Frame(112).points[None], 2, axis=0)), 112)
    seen, mask = condition(images, places, 64)
    x0, y0, x1, y1 = rectangles(places, 64)[0]
    assert mask.shape == (2, 1, 64, 64)
    assert (mask[0, 0, y0:y1, x0:x1] == 0).all()
    assert mask.sum() == 2 * (64 * 64 - (x1 - x0) * (y1 - y0))
    assert (seen * (1 - mask) == 0).all()
    assert torch.equal(seen, pictures(images, places, 64) * mask)
    assert torch.equal(mask, masks(places, 64, images.device))


def test_the_way_back_is_the_published_one() -> None:
    images = noise(3, 112)
    painted = noise(3, 64, seed=1).float() / 110 - 1.2
    window = np.array([[-20, -15, 150], [40, 30, 50], [10, 20, 64]])
    box = np.array([[16, 10, 96, 112], [47, 35, 80, 74], [20, 30, 50, 70]])
    places = Places(box, window)
    out = compose(images, painted, places)
    for row, (left, top, side) in enumerate(window.tolist()):
        pixels = ((painted[row : row + 1] + 1) / 2).clamp(0, 1) * 255
        back = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
        mask = F.interpolate(masks(places, 64, images.device)[row : row + 1], size=(side, side), mode="nearest")
        whole = F.pad(images[row].float(), (112, 112, 112, 112))
        place_ = (slice(None), slice(top + 112, top + 112 + side), slice(left + 112, left + 112 + side))
        whole[place_] = torch.where(mask[0] == 0, back[0].round().clamp(0, 255), whole[place_])
        difference = (out[row].float() - whole[:, 112:-112, 112:-112]).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 2e-3


def test_nothing_outside_of_the_box_changes_and_nothing_within_is_seen() -> None:
    images = noise(2, 160)
    places = place(face_boxes(np.repeat(Frame(160, 24).points[None], 2, axis=0)), 160)
    out = compose(images, torch.ones(2, 3, 256, 256), places)
    x0, y0, x1, y1 = places.box[0]
    outside = torch.ones(160, 160, dtype=torch.bool)
    outside[y0:y1, x0:x1] = False
    assert torch.equal(out[:, :, outside], images[:, :, outside])
    # Truncation to the mask's pixels may spare one pixel at each edge.
    assert (out[:, :, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] == 255).all()
    other = images.clone()
    other[:, :, y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] = 0
    assert torch.equal(condition(images, places, 256)[0], condition(other, places, 256)[0])


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(-40, 40),
    y=st.floats(-40, 40),
    growth=st.floats(0.5, 1.6),
    scale=st.floats(0.5, 1.5),
    ratio=st.sampled_from([1.4, 1.7]),
)
def test_any_box_gives_a_usable_window(x: float, y: float, growth: float, scale: float, ratio: float) -> None:
    """The box lies within the window, weights are finite, and the crop beyond the box stays but for truncation."""
    points = (Frame(112).points - 56) * growth + 56 + np.array([x, y], dtype=np.float32)
    places = place(face_boxes(points[None].astype(np.float32), scale), 112, ratio)
    (x0, y0, x1, y1), (left, top, side) = places.box[0], places.window[0]
    assert left <= x0 < x1 <= left + side
    assert top <= y0 < y1 <= top + side
    seen, mask = condition(noise(1, 112), places, 32)
    assert seen.isfinite().all()
    assert 0 < mask.mean() < 1
    out = compose(torch.zeros(1, 3, 112, 112, dtype=torch.uint8), torch.ones(1, 3, 32, 32), places)[0, 0]
    # A pixel of the picture covers several of the crop: the rectangle may begin up to one of them early.
    slack = side // 32 + 1
    out[max(y0 - slack, 0) : y1, max(x0 - slack, 0) : x1] = 0
    assert not out.any()


def test_latents_are_those_of_the_legacy_generator() -> None:
    expected = np.random.RandomState(seed=41).normal(size=(1, 512)).astype(np.float32)
    assert np.array_equal(latents(np.array([41]), 512).numpy(), expected)
    assert latents(np.array([], dtype=np.int64), 8).shape == (0, 8)
    both = latents(np.array([5, 6]), 16)
    assert torch.equal(both[1:], latents(np.array([6]), 16))
    assert not torch.equal(both[0], both[1])
    assert latent_index(np.array([2**62 + 3, 9])).tolist() == [3, 9]
