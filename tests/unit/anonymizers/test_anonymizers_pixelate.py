from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysweep.anonymizers.pixelate import pixelate


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 45), st.integers(0, 99))
def test_every_block_is_its_own_rounded_mean(height: int, width: int, block: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (2, 3, height, width), dtype=np.uint8)
    expected = np.empty_like(image)
    for y in range(0, height, block):
        for x in range(0, width, block):
            part = image[:, :, y : y + block, x : x + block].astype(int)
            count = part.shape[2] * part.shape[3]
            mean = (2 * part.sum((2, 3)) + count) // (2 * count)
            expected[:, :, y : y + block, x : x + block] = mean[:, :, None, None]
    assert np.array_equal(pixelate(torch.from_numpy(image), block).numpy(), expected)


def test_block_one_changes_nothing() -> None:
    image = torch.arange(3 * 25, dtype=torch.uint8).view(1, 3, 5, 5)
    assert torch.equal(pixelate(image, 1), image)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pixelate(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 0)
    with pytest.raises(ValueError, match="uint8"):
        pixelate(torch.zeros(1, 3, 8, 8), 4)
