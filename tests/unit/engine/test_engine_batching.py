"""F13: when memory runs out the batch halves, is remembered, and the result is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raysweep.engine.batching import BatchSizes, is_out_of_memory
from raysweep.errors import TrialError

ROWS = np.arange(100, dtype=np.int64)


def device_with_room_for(count: int, error: Exception, calls: list[int]):
    def work(piece):
        calls.append(len(piece))
        if len(piece) > count:
            raise error
        return 2 * piece

    return work


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Non-zero status code returned: Failed to allocate memory for requested buffer"),
        MemoryError(),
    ],
)
def test_the_batch_halves_and_the_result_stays(error: Exception) -> None:
    calls: list[int] = []
    sizes = BatchSizes(64)
    found = np.concatenate(sizes.run("net", ROWS, device_with_room_for(10, error, calls)))
    assert found.tolist() == (2 * ROWS).tolist()
    assert calls[:4] == [64, 32, 16, 8]
    assert set(calls[4:]) <= {8, 4}
    assert sizes.sizes == {"net": 8}
    again: list[int] = []
    sizes.run("net", ROWS, device_with_room_for(10, error, again))
    assert max(again) == 8
    other: list[int] = []
    sizes.run("other", ROWS, device_with_room_for(100, error, other))
    assert other == [64, 36]


def test_no_room_for_a_single_face_ends_the_trial_and_not_the_loop() -> None:
    calls: list[int] = []
    with pytest.raises(TrialError, match="net: out of memory with a single face"):
        BatchSizes(64).run("net", ROWS, device_with_room_for(0, MemoryError(), calls))
    assert calls == [64, 32, 16, 8, 4, 2, 1]


def test_other_errors_are_not_tried_again() -> None:
    calls: list[int] = []
    with pytest.raises(RuntimeError, match="shape"):
        BatchSizes(64).run("net", ROWS, device_with_room_for(0, RuntimeError("wrong shape"), calls))
    assert calls == [64]
    assert not is_out_of_memory(ValueError("out of memory"))
