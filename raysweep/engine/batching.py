"""How many faces at a time: halved when the memory of the device runs out, and remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from raysweep.errors import TrialError
from raysweep.schema import IntArray

__all__ = ["BatchSizes", "is_out_of_memory"]

T = TypeVar("T")

SIGNS = ("out of memory", "can't allocate memory", "failed to allocate memory", "cublas_status_alloc_failed")
"""What torch (CUDA and CPU), onnxruntime and cuBLAS say."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, so that a smaller batch may pass."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


class BatchSizes:
    """Batch sizes of one worker, by what runs.

    Args:
        first: faces that are tried first.
    """

    def __init__(self, first: int) -> None:
        self._first = first
        self.sizes: dict[str, int] = {}

    def run(self, name: str, rows: IntArray, work: Callable[[IntArray], T]) -> list[T]:
        """The results of `work` on consecutive pieces of `rows`; a piece that does not fit is cut in half and done again.

        Args:
            name: of what runs; what has been halved for it stays so.
            rows: (n,) row numbers.
            work: called with a piece; must leave nothing behind when it raises.

        Raises:
            TrialError: not even one face fits.
        """
        results: list[T] = []
        start = 0
        while start < len(rows):
            piece = rows[start : start + self.sizes.get(name, self._first)]
            try:
                results.append(work(piece))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(piece) == 1:
                    raise TrialError(f"{name}: out of memory with a single face") from error
                self.sizes[name] = len(piece) // 2
            else:
                start += len(piece)
                continue
            # Outside the except block, where the failed call's tensors are still held by the traceback.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return results
