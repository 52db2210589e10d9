"""How many faces at a time: measured, and no more than pay."""

from __future__ import annotations

import pytest

from raysweep.engine.chunks import best_chunk, sizes_up_to


@pytest.mark.parametrize(
    ("rates", "most", "best"),
    [
        ({8: 100, 16: 190, 32: 300, 64: 305, 128: 309}, 128, 32),
        ({8: 100, 16: 200, 32: 400, 64: 800, 100: 900}, 100, 100),
        ({8: 100, 16: 90, 32: 400}, 32, 8),  # it stops where more do not help at once
        ({4: 50}, 4, 4),
    ],
)
def test_the_smallest_that_is_as_fast(rates: dict[int, float], most: int, best: int) -> None:
    assert best_chunk(lambda size: rates[size], most) == best


def test_what_does_not_fit_into_the_memory_is_not_chosen() -> None:
    def rate(size: int) -> float:
        if size > 32:
            raise RuntimeError("CUDA error: out of memory")
        return float(size)

    assert best_chunk(rate, 1024) == 32


def test_other_errors_are_not_hidden() -> None:
    def rate(size: int) -> float:
        raise RuntimeError("no kernel image is available")

    with pytest.raises(RuntimeError, match="no kernel image"):
        best_chunk(rate, 64)


def test_sizes_double_up_to_the_largest() -> None:
    assert list(sizes_up_to(100)) == [8, 16, 32, 64, 100]
    assert list(sizes_up_to(8)) == [8]
