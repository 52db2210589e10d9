"""What attackers learn on clear faces, kept beside the reference store: learned by the first worker that needs it, read by all others."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from raysweep.engine.evidence import Arrays, EvidenceStore
from raysweep.errors import StoreError

__all__ = ["ControlStore"]


class ControlStore(EvidenceStore):
    """Arrays by a key that names everything they depend on. They hold ranks and embeddings: the folder is private to the user.

    Args:
        references: folder of the reference store. Where it may not be written to, everything is made anew.
    """

    def __init__(self, references: Path) -> None:
        super().__init__(references)
        self.folder = references / "controls"

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """What is stored under a key, or what `make` returns, which is then stored; others who ask at the same time wait.

        A damaged file is made again.

        Raises:
            StoreError: it was made but the disk refuses it.
        """
        if not os.access(self.folder if self.folder.is_dir() else self.folder.parent, os.W_OK):
            return self._stored(key) or make()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        with self.path(key).with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # falls with the process
            found = self._stored(key)
            if found is None:
                found = make()
                self.write(key, found)
            return found

    def _stored(self, key: str) -> Arrays | None:
        try:
            return self.read(key)
        except StoreError:
            return None
