"""What the trials on the front have learned, kept with the run: `states/<key>.safetensors`, so that a point can be applied without training again.

Each file carries a digest of its tensors, so that a damaged one is noticed; it is then as good as not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.errors import StoreError
from raysweep.storage.files import write_whole

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_STATE_BYTES", "StateStore", "state_digest"]

MAX_STATE_BYTES = 64 << 20
"""Larger ones are not kept: a front of twenty full-size generators would fill disks, and training again gives the same."""
_DIGEST = "digest"


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 of names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(_bytes()).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()


def _bytes() -> torch.dtype:
    import torch

    return torch.uint8


class StateStore:
    """The folder `states` of a run.

    Args:
        run_folder: of the sweep.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "states"

    def path(self, key: str) -> Path:
        """File of a trial's key.

        Raises:
            StoreError: a key that is no plain file name.
        """
        if not key or not all(char.isalnum() or char in "-_" for char in key):
            raise StoreError(f"{key!r} cannot name a file of states")
        return self.folder / f"{key}.safetensors"

    def write(self, key: str, state: Mapping[str, torch.Tensor]) -> bool:
        """Store a state so that a reader sees all of it or none; False when there is nothing to store or too much.

        Raises:
            StoreError: it cannot be written.
        """
        from safetensors.torch import save

        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        if not state or size > MAX_STATE_BYTES:
            return False
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        path = self.path(key)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(path, save(tensors, metadata={_DIGEST: state_digest(tensors)}))
        except OSError as error:
            raise StoreError(f"cannot write the state {path.name}: {error.strerror}") from error
        return True

    def read(self, key: str) -> dict[str, torch.Tensor] | None:
        """The state of a key; None when it is not there or not what was written."""
        from safetensors import SafetensorError, safe_open

        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                digest = (file.metadata() or {}).get(_DIGEST, "")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError):
            return None
        return state if state_digest(state) == digest else None

    def forget(self, keys: Collection[str]) -> None:
        """Remove the states of some trials; one that cannot be removed stays."""
        if self.folder.is_dir():
            for path in self.folder.glob("*.safetensors"):
                if path.name.removesuffix(".safetensors") in keys:
                    with suppress(OSError):
                        path.unlink()
