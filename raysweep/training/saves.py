"""Checkpoints of a training: whole or not there, checked when read, the last two kept."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from raysweep.errors import ModelError, StoreError
from raysweep.storage.files import sha256_of, sync_folder, write_whole

__all__ = ["KEPT", "last_checkpoint", "save_checkpoint", "write_atomically"]

KEPT = 2
"""Checkpoints that stay: should the disk have damaged the last one, the one before serves."""

NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.save")
"""The name holds the step and the first quarter of the content's sha256; its ending is none of a weight file, for which it is not meant."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write aside, make it last, then give it its name; older ones than `KEPT` go.

    Args:
        folder: made when it is not there; readable by its owner only, since faces can be learned from weights.
        step: updates done.
        state: nested dictionaries and lists of tensors, numbers and text.

    Raises:
        StoreError: the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob(".save-*"):
            left.unlink()  # of a run that was killed while writing
        handle, name = tempfile.mkstemp(dir=folder, prefix=".save-")
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"step-{step:09d}-{_digest(Path(name))}.save"
        os.replace(name, path)
        sync_folder(folder)
        for old in _checkpoints(folder)[KEPT:]:
            old.unlink()
    except OSError as error:
        raise StoreError(
            f"{folder}: the checkpoint of step {step} cannot be written ({error.strerror or error})"
        ) from error
    return path


def last_checkpoint(folder: Path) -> tuple[int, dict[str, Any], tuple[str, ...]] | None:
    """The newest checkpoint that is what its name says.

    Returns:
        Step, state, and a line for each newer one that was passed over; None when there is no checkpoint at all.

    Raises:
        ModelError: there are some, and none is whole.
    """
    notes: list[str] = []
    for path in _checkpoints(folder):
        match = NAME.fullmatch(path.name)
        if match is None or _digest(path) != match[2]:
            notes.append(f"{path.name} is damaged (its bytes are not those of its name) and was passed over")
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # the unpickler raises many kinds
            raise ModelError(f"{path}: cannot be read: {str(error).splitlines()[0][:200]}") from error
        return int(match[1]), state, tuple(notes)
    if notes:
        raise ModelError(f"{folder}: no checkpoint is whole: {'; '.join(notes)}; begin anew with another --out")
    return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """A file that is there whole or not at all.

    Raises:
        StoreError: the disk refuses.
    """
    try:
        write_whole(path, content, private=True)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted((path for path in folder.glob("step-*.save") if NAME.fullmatch(path.name)), reverse=True)


def _digest(path: Path) -> str:
    return sha256_of(path)[:16]
