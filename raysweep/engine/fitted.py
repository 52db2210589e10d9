"""What a trial learned, on its way between workers: bytes that lie in shared memory once per machine, and are copied only where they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from raysweep.anonymizers.base import State
    from raysweep.schema import ByteArray

__all__ = ["Fitted", "Learned"]


class Learned(Mapping[str, torch.Tensor]):
    """Tensors by name. Each is copied anew whenever it is taken: whoever takes it may change it.

    torch pickles tensors into the stream, so that every work item would unpack all of them again; as NumPy arrays they stay out of it.

    Args:
        state: what an anonymizer's `fit` returned.
    """

    def __init__(self, state: State) -> None:
        self._stored: dict[str, tuple[ByteArray, torch.dtype, tuple[int, ...]]] = {
            name: (
                tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(),
                tensor.dtype,
                tuple(tensor.shape),
            )
            for name, tensor in state.items()
        }

    def __getitem__(self, name: str) -> torch.Tensor:
        """A copy, on the CPU."""
        stored, dtype, shape = self._stored[name]
        if not stored.size:
            return torch.empty(shape, dtype=dtype)
        return torch.from_numpy(np.array(stored)).view(dtype).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(stored.nbytes for stored, *_ in self._stored.values())

    def without(self, *names: str) -> State:
        """Copies of all but some."""
        return {name: self[name] for name in self if name not in names}


@dataclass(frozen=True)
class Fitted:
    """What `fit` learned, with training curves and seconds, those of earlier stages included.

    Attributes:
        state, curves, seconds: of the anonymizer.
        share: of its training.
        steps: that were done, where it is trained in stages.
    """

    state: Learned
    curves: Mapping[str, tuple[float, ...]]
    seconds: Mapping[str, float]
    share: float = 1.0
    steps: int | None = None

    @classmethod
    def nothing(cls) -> Fitted:
        """Of an anonymizer that learns nothing, in no time."""
        return cls(Learned({}), {}, {})
