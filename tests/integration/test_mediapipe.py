"""The optional 478-point mesh on real faces; skips where the extra is not installed (`uv sync --extra mediapipe`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raysweep.data.images import decode
from raysweep.models.zoo import open_zoo
from raysweep.preprocess.detect import choose_face, open_detector
from raysweep.preprocess.landmarks import open_landmarks

# Centres of the eyes, tip of the nose and corners of the mouth in the mesh (iris points 468 and 473).
FIVE = [468, 473, 1, 61, 291]


@pytest.mark.real
def test_the_mesh_agrees_with_the_detector(real_root: Path) -> None:
    pytest.importorskip("mediapipe", reason="the extra is not installed: uv sync --extra mediapipe")
    paths = sorted((real_root / "faces_id" / "celeba_ciagan" / "clr" / "0").glob("*.jpg"))[:8]
    images = [decode(path.read_bytes()) for path in paths]
    found = open_zoo(real_root / "models").detector()
    assert found is not None
    detections = [open_detector(found.path).detect(image) for image in images]
    rows = [choose_face(item, *image.shape[:2]) for item, image in zip(detections, images, strict=True)]
    boxes = [item.boxes[row] for item, row in zip(detections, rows, strict=True)]
    five = np.stack([item.points[row] for item, row in zip(detections, rows, strict=True)])
    mesh = open_landmarks("mediapipe").locate(images, boxes)
    assert mesh.shape == (len(images), 478, 2)
    eyes = np.linalg.norm(five[:, 1] - five[:, 0], axis=1)
    distance = np.median(np.linalg.norm(mesh[:, FIVE] - five, axis=2) / eyes[:, None])
    print(f"median distance of the five points: {distance:.3f} eye distances")
    assert distance < 0.12
