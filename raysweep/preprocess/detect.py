"""Find the face and its five points: SCRFD or RetinaFace ONNX files, and YuNet.

How an image reaches the network (the rule for all detectors):

1. as it is, its longest side brought to the detector's input side: the file's own when that is fixed, 640 for YuNet, else the
   image's longest side rounded up to a multiple of 32, at least 320 and at most 640. Shrinking averages by area first.
2. When nothing is found: once more with a grey border of half the longest side all around, so that a face that fills
   the image (48 x 48 crops, 178 x 218 crops) covers half of the network's field as in its training photographs.
3. When still nothing is found, there is no face.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from raysweep.errors import ModelError
from raysweep.preprocess.sessions import CPU, open_session
from raysweep.schema import ByteArray, FloatArray

__all__ = ["Detections", "Detector", "InsightFaceDetector", "YuNetDetector", "choose_face", "open_detector"]

SMALLEST_INPUT, LARGEST_INPUT, INPUT_MULTIPLE = 320, 640, 32
BORDER_GREY = 127


@dataclass(frozen=True)
class Detections:
    """Faces in one image, in its pixels, best score first.

    Attributes:
        boxes: (m, 4) x0, y0, x1, y1.
        scores: (m,) 0 to 1.
        points: (m, 5, 2) in the order of `ARCFACE_POINTS`.
        padded: found only with a border around the image (rule 2).
    """

    boxes: FloatArray
    scores: FloatArray
    points: FloatArray
    padded: bool = False

    def __len__(self) -> int:
        return len(self.scores)


def choose_face(found: Detections, height: int, width: int) -> int:
    """Row of the one face that a photograph is about: the largest score x area x closeness to the centre.

    Closeness falls linearly from 1 at the centre of the image to 1/2 at its corners.

    Raises:
        ValueError: there is no face.
    """
    if len(found) == 0:
        raise ValueError("choose_face: no face")
    x0, y0, x1, y1 = found.boxes.T
    area = np.clip(x1 - x0, 0, None) * np.clip(y1 - y0, 0, None)
    distance = np.hypot((x0 + x1) / 2 - width / 2, (y0 + y1) / 2 - height / 2) / np.hypot(width / 2, height / 2)
    return int(np.argmax(found.scores * area * (1 - 0.5 * np.clip(distance, 0, 1))))


class Detector(ABC):
    """A five-point face detector. Subclasses write `_find`.

    Attributes:
        name: what it is.
        threshold: smallest score of a face.
        side: input side of the network when fixed, None when any multiple of 32.
    """

    name: str
    threshold: float
    side: int | None

    def detect(self, image: ByteArray) -> Detections:
        """All faces of an image (H, W, 3) uint8 RGB."""
        found = self._find(image)
        if len(found):
            return found
        height, width = image.shape[:2]
        border = (max(height, width) + 1) // 2
        grey = (BORDER_GREY,) * 3
        wide = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_CONSTANT, value=grey)
        again = self._find(np.asarray(wide))
        shift = np.float32(border)
        return replace(again, boxes=again.boxes - shift, points=again.points - shift, padded=len(again) > 0)

    def input_side(self, height: int, width: int) -> int:
        """Side of the square that the image is fitted into."""
        if self.side is not None:
            return self.side
        wanted = -(-max(height, width) // INPUT_MULTIPLE) * INPUT_MULTIPLE
        return min(max(wanted, SMALLEST_INPUT), LARGEST_INPUT)

    @abstractmethod
    def _find(self, image: ByteArray) -> Detections:
        """One pass over one image (H, W, 3) uint8 RGB."""


class InsightFaceDetector(Detector):
    """SCRFD and RetinaFace files of insightface's packs (6, 9, 10 or 15 outputs), decoded by insightface."""

    def __init__(self, session: Any, threshold: float = 0.4) -> None:
        """Args: session: an onnxruntime `InferenceSession`; threshold: smallest score."""
        from insightface.model_zoo.scrfd import SCRFD

        self.name, self.threshold = "insightface", threshold
        height, width = session.get_inputs()[0].shape[2:4]
        self.side = height if isinstance(height, int) and height == width else None
        self._network = SCRFD(session=session)
        if not self._network.use_kps:
            raise ModelError(
                "detector: the file finds boxes but no five points; take one with points ('kps' in its name)"
            )
        self._network.det_thresh = threshold

    def _find(self, image: ByteArray) -> Detections:
        side = self.input_side(*image.shape[:2])
        small, factor = _fit(image, side)
        boxes, points = self._network.detect(small[:, :, ::-1], input_size=(side, side))
        return _detections(boxes[:, :4], boxes[:, 4], points, factor)


class YuNetDetector(Detector):
    """YuNet (opencv_zoo `face_detection_yunet`), run by OpenCV."""

    def __init__(self, path: Path, threshold: float = 0.5) -> None:
        """Args: path: the ONNX file; threshold: smallest score."""
        # Any side works, but its points are best at 640: against SCRFD they differ by 5.5 % of the eye distance there, by 8 % at 320.
        self.name, self.threshold, self.side = "yunet", threshold, 640
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of a target that nobody chose
        try:
            self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold, 0.3, 500)
        finally:
            cv2.utils.logging.setLogLevel(level)

    def _find(self, image: ByteArray) -> Detections:
        small, factor = _fit(image, self.input_side(*image.shape[:2]), enlarge=True)
        self._network.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._network.detect(np.ascontiguousarray(small[:, :, ::-1]))
        rows = np.zeros((0, 15), dtype=np.float32) if rows is None else np.asarray(rows, dtype=np.float32)
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return _detections(boxes, rows[:, 14], rows[:, 4:14].reshape(-1, 5, 2), factor)


def open_detector(path: Path, providers: Sequence[str] = CPU, threads: int = 1) -> Detector:
    """The detector in an ONNX file; which kind is seen from its outputs.

    Raises:
        ModelError: no such file, not ONNX, or no detector with five points.
    """
    session = open_session(path, providers, threads)
    outputs = session.get_outputs()
    if len(outputs) == 12 and {"cls_8", "obj_8", "kps_8"} <= {output.name for output in outputs}:
        return YuNetDetector(path)
    if len(outputs) in (6, 9, 10, 15):
        return InsightFaceDetector(session)
    raise ModelError(f"{path}: {len(outputs)} outputs are neither SCRFD, RetinaFace (6, 9, 10, 15) nor YuNet (12)")


def _fit(image: ByteArray, side: int, enlarge: bool = False) -> tuple[ByteArray, float]:
    """Bring the longest side down (by area averaging) or, with `enlarge`, up to `side`; and by which factor."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor == 1 or (factor > 1 and not enlarge):
        return image, 1.0
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=interpolation)), factor


def _detections(boxes: FloatArray, scores: FloatArray, points: FloatArray, factor: float) -> Detections:
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes=np.asarray(boxes[order] / factor, dtype=np.float32),
        scores=np.asarray(scores[order], dtype=np.float32),
        points=np.asarray(points[order] / factor, dtype=np.float32),
    )
