"""From faces in memory to what an anonymizer sees: tensors on the device, and a seed for each face."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from raysweep.schema import AlignedFaces, FaceBatch, FaceTable, IntArray

__all__ = ["drawn_for", "face_batch", "face_seeds"]


def face_seeds(seed: int, names: tuple[str, ...]) -> IntArray:
    """(n,) int64 >= 0, from (trial seed, name): the same for any batch and any worker."""
    prefix = str(seed).encode() + b"\0"
    digests = (hashlib.blake2b(prefix + name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(digest, "little") >> 1 for digest in digests], dtype=np.int64)


def drawn_for(table: FaceTable, per_person: bool) -> tuple[str, ...]:
    """What randomness is drawn for: the name of each image, or of each person, who then keeps one pseudonym."""
    if not per_person:
        return tuple(str(item) for item in table.face_id)
    return tuple(
        f"person\0{table.identity_names[person]}" if person >= 0 else str(face)
        for person, face in zip(table.identity.tolist(), table.face_id, strict=True)
    )


def face_batch(faces: AlignedFaces, seed: int, device: torch.device, per_person: bool = False) -> FaceBatch:
    """All of some faces as one batch.

    Args:
        faces: in memory; their arrays are not changed.
        seed: of the trial.
        device: where to anonymize.
        per_person: what is drawn, is drawn once for each person.
    """

    def tensor(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    return FaceBatch(
        image=tensor(faces.crop.transpose(0, 3, 1, 2)),
        points=tensor(faces.points),
        landmarks=None if faces.landmarks is None else tensor(faces.landmarks),
        mask=None if faces.mask is None else tensor(faces.mask),
        face_id=tuple(str(item) for item in faces.table.face_id),
        seed=face_seeds(seed, drawn_for(faces.table, per_person)),
        frame=faces.frame,
        identity=faces.table.identity,
    )
