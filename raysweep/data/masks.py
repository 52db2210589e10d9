"""Part masks that come as picture files, brought to the size of their photograph."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from raysweep.data.images import MAX_BYTES, ImageProblem, decode
from raysweep.schema import ByteArray

__all__ = ["read_grey", "resize_labels"]


def read_grey(path: Path) -> ByteArray:
    """A mask picture as (H, W) uint8 grey.

    Raises:
        ImageProblem: it cannot be read or decoded.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageProblem("too_large", f"{path.stat().st_size} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise ImageProblem("unreadable", str(error.strerror)) from error
    return np.ascontiguousarray(decode(data)[..., 0])


def resize_labels(labels: ByteArray, height: int, width: int) -> ByteArray:
    """A label map at another size by nearest neighbour: no new labels, and exact copies at whole factors."""
    if labels.shape == (height, width):
        return labels
    resized = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=np.uint8)
