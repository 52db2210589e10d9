from __future__ import annotations

import numpy as np
import pytest
import pytorch_msssim
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from raysweep.errors import DataError
from raysweep.metrics.realism import psnr, ssim


def _images(n: int, height: int, width: int, channels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth faces-like images, and the same with noise."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.rand((n, channels, 8, 8), generator=rng)
    clear = torch.nn.functional.interpolate(small, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)
    noisy = (clear + 0.1 * torch.randn(clear.shape, generator=rng)).clamp(0, 1)
    return tuple((side * 255).round().to(torch.uint8) for side in (clear, noisy))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("n", "height", "width", "channels"), [(9, 112, 112, 3), (1, 64, 48, 3), (2, 11, 11, 1), (3, 48, 160, 1)]
)
def test_ssim_agrees_with_scikit_image_and_pytorch_msssim(n: int, height: int, width: int, channels: int) -> None:
    clear, noisy = _images(n, height, width, channels)
    ours = ssim(clear, noisy)
    theirs = pytorch_msssim.ssim(clear.double(), noisy.double(), data_range=255, size_average=False)
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=2e-5)
    for row in range(n):
        _, full = structural_similarity(
            clear[row].numpy().astype(float), noisy[row].numpy().astype(float), data_range=255, channel_axis=0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
        )  # fmt: skip
        assert float(ours[row]) == pytest.approx(full[:, 5 : height - 5, 5 : width - 5].mean(), abs=2e-5)


def test_psnr_golden_and_scikit_image() -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert psnr(flat, flat + 0.1).item() == pytest.approx(20, abs=1e-4)
    assert psnr(flat, flat + 1 / 255).item() == pytest.approx(48.13, abs=5e-3)
    assert psnr(flat, flat).item() == 100
    both = psnr(flat.repeat(2, 1, 1, 1), torch.cat([flat + 0.1, flat + 0.01]))
    assert both.mean().item() == pytest.approx(30, abs=1e-3)
    clear, noisy = _images(4, 32, 40)
    for row, value in enumerate(psnr(clear, noisy)):
        oracle = peak_signal_noise_ratio(clear[row].numpy(), noisy[row].numpy(), data_range=255)
        assert value.item() == pytest.approx(oracle, abs=1e-3)


def test_same_image_is_exactly_one_and_range_is_fixed() -> None:
    clear, noisy = _images(12, 112, 112)
    assert (ssim(clear, clear) == 1).all()
    # A dark neighbour changes nothing: the value of an image does not depend on its batch.
    assert torch.equal(ssim(clear, noisy)[:1], ssim(clear[:1], noisy[:1]))
    assert ssim(clear / 255, noisy / 255).numpy() == pytest.approx(ssim(clear, noisy).numpy(), abs=1e-6)
    assert psnr(clear / 255, noisy / 255).numpy() == pytest.approx(psnr(clear, noisy).numpy(), abs=1e-4)


def test_wrong_shapes() -> None:
    with pytest.raises(DataError, match="at least 11"):
        ssim(torch.rand(1, 3, 10, 30), torch.rand(1, 3, 10, 30))
    with pytest.raises(DataError, match="of one shape"):
        psnr(torch.rand(1, 3, 10, 30), torch.rand(1, 3, 30, 10))
    assert ssim(torch.rand(0, 3, 16, 16), torch.rand(0, 3, 16, 16)).shape == (0,)
    assert np.isfinite(psnr(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)).numpy()).all()
