from __future__ import annotations

import numpy as np
import pytest
import torch

from raysweep.preprocess.frame import extract
from raysweep.schema import Frame


def images(side: int, n: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(3)
    return torch.from_numpy(rng.integers(0, 256, (n, 3, side, side), dtype=np.uint8))


def test_scale_one_is_an_exact_slice() -> None:
    crops = images(128)
    got = extract(crops, Frame(128, 8), (0, 0, 112, 112), 112)
    assert got.dtype == torch.uint8
    assert torch.equal(got, crops[:, :, 8:120, 8:120])


def test_whole_frame_is_the_image_itself() -> None:
    crops = images(112)
    assert torch.equal(extract(crops, Frame(), (0, 0, 112, 112), 112), crops)


def test_beyond_the_frame_is_black() -> None:
    crops = images(112)
    got = extract(crops, Frame(), (-10, 4, 102, 116), 112)
    assert torch.equal(got[:, :, :108, 10:], crops[:, :, 4:, :102])
    assert int(got[:, :, 108:].max()) == 0
    assert int(got[:, :, :, :10].max()) == 0
    outside = extract(crops, Frame(), (200, 200, 312, 312), 112)
    assert outside.shape == (2, 3, 112, 112)
    assert int(outside.max()) == 0


@pytest.mark.parametrize(
    ("size", "region"), [(64, (0, 0, 112, 112)), (224, (0, 0, 112, 112)), (48, (11, 20, 101, 110))]
)
def test_resampling_equals_torch_on_whole_pixels(size: int, region: tuple[int, int, int, int]) -> None:
    crops = images(128).float() / 255
    x0, y0, x1, y1 = (edge + 8 for edge in region)
    window = crops[:, :, y0:y1, x0:x1]
    want = torch.nn.functional.interpolate(window, size=(size, size), mode="bilinear", antialias=True)
    got = extract(crops, Frame(128, 8), region, size)
    assert float((got - want).abs().max()) < 1e-5


def test_padded_resampling_equals_padding_first() -> None:
    crops = images(112).float()
    want = torch.nn.functional.interpolate(
        torch.nn.functional.pad(crops, (16, 16, 16, 16)), size=(72, 72), mode="bilinear", antialias=True
    )
    got = extract(crops, Frame(), (-16, -16, 128, 128), 72)
    assert float((got - want).abs().max()) < 1e-3


def test_scaled_frame_keeps_the_geometry() -> None:
    """A bright dot at a template point comes out at that point, whatever the frame's scale."""
    frame = Frame(280, 14)  # scale 2
    point = frame.from_template(np.array([[30.0, 70.0]], dtype=np.float32))[0]
    crops = torch.zeros(1, 3, 280, 280)
    x, y = np.floor(point).astype(int)
    crops[..., y : y + 2, x : x + 2] = 1.0  # the dot's centre lies between four pixels
    got = extract(crops, frame, (0, 0, 112, 112), 112)[0, 0]
    total = got.sum()
    assert float((got.sum(0) * torch.arange(112)).sum() / total) == pytest.approx(30, abs=1e-4)
    assert float((got.sum(1) * torch.arange(112)).sum() / total) == pytest.approx(70, abs=1e-4)


def test_gradient_flows() -> None:
    crops = images(112).float().requires_grad_()
    extract(crops, Frame(), (10, 10, 100, 100), 64).sum().backward()
    assert crops.grad is not None
    assert float(crops.grad.sum()) == pytest.approx(2 * 3 * 64 * 64, rel=1e-4)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="not \\(n, 3, 112, 112\\)"):
        extract(images(100), Frame(), (0, 0, 112, 112), 112)
    with pytest.raises(ValueError, match="empty region"):
        extract(images(112), Frame(), (5, 0, 5, 112), 112)
