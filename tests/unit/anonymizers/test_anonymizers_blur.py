from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.anonymizers.blur import gaussian_blur, gaussian_sigma


def random_images(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, 3, height, width), dtype=np.uint8))


@settings(max_examples=25, deadline=None)
@given(radius=st.integers(5, 50), side=st.sampled_from([64, 112, 113]), seed=st.integers(0, 99))
def test_it_is_opencv_in_floats_rounded_once(radius: int, side: int, seed: int) -> None:
    kernel = 2 * radius + 1
    image = random_images(1, side, side, seed)
    ours = gaussian_blur(image, kernel)[0].permute(1, 2, 0).numpy().astype(float)
    floats = cv2.GaussianBlur(image[0].permute(1, 2, 0).numpy().astype(np.float32), (kernel, kernel), 0)
    assert np.abs(ours - floats).max() <= 0.52


@pytest.mark.parametrize("kernel", [11, 31, 101])
def test_opencv_in_bytes_is_within_one_level_on_smooth_pictures(kernel: int) -> None:
    # OpenCV's byte routine rounds twice and errs by up to 1.5 levels on noise; on pictures it is within one.
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8), (112, 112))
    ours = gaussian_blur(torch.from_numpy(picture).permute(2, 0, 1)[None], kernel)[0].permute(1, 2, 0).numpy()
    theirs = cv2.GaussianBlur(picture, (kernel, kernel), 0)
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize("side", [1, 2, 7, 30])
def test_a_kernel_larger_than_the_image(side: int) -> None:
    image = random_images(2, side, side)
    blurred = gaussian_blur(image, 101)
    assert blurred.shape == image.shape
    # Brute force: the image reflected often enough, then cut out.
    tile = np.pad(
        image.numpy().astype(float), ((0, 0), (0, 0), (50, 50), (50, 50)), mode="reflect" if side > 1 else "edge"
    )
    weights = np.exp(-0.5 * (np.arange(-50, 51) / gaussian_sigma(101)) ** 2)
    weights /= weights.sum()
    expected = np.stack(
        [
            [np.einsum("ncij,i,j->nc", tile[:, :, y : y + 101, x : x + 101], weights, weights) for x in range(side)]
            for y in range(side)
        ]
    ).transpose(2, 3, 0, 1)
    assert np.abs(blurred.numpy() - expected).max() <= 0.51


def test_a_flat_image_stays_exactly_as_it_is() -> None:
    for level in (0, 1, 128, 255):
        image = torch.full((1, 3, 20, 33), level, dtype=torch.uint8)
        assert torch.equal(gaussian_blur(image, 11), image)


def test_rectangles_are_not_transposed() -> None:
    image = torch.zeros(1, 1, 20, 60, dtype=torch.uint8)
    image[:, :, 5, 50] = 255
    peak = gaussian_blur(image, 11).flatten().argmax().item()
    assert divmod(peak, 60) == (5, 50)


@pytest.mark.parametrize("kernel", [0, -3, 4])
def test_an_even_kernel_is_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        gaussian_blur(random_images(1, 8, 8), kernel)


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        gaussian_blur(torch.zeros(1, 3, 8, 8), 11)
