"""Dense landmarks on photographs: 68 points (PFLD), 106 points (insightface packs), 478 points (MediaPipe, optional).

All work on a square cut around the detector's box, in the original photograph, and answer in its pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raysweep.errors import ModelError
from raysweep.preprocess.align import invert, similarity, transform_points, warp_crop
from raysweep.preprocess.sessions import CPU, open_session
from raysweep.schema import ARCFACE_POINTS, ByteArray, FloatArray

__all__ = [
    "MEDIAPIPE",
    "LandmarkModel",
    "MediaPipeLandmarks",
    "OnnxLandmarks",
    "box_of_points",
    "open_landmarks",
]

TEMPLATE_BOX = ((58.6, 63.7), (81.0, 112.0))
"""Centre and size of a detector's box in the ArcFace template: median of SCRFD-500m and SCRFD-2.5g over LFW and CelebA (YuNet: within 6 %)."""

MEDIAPIPE = "mediapipe"
"""In place of a file: the face mesh that comes with the package."""

MEDIAPIPE_HELP = (
    "478 landmarks need MediaPipe with the legacy face mesh, on Python 3.11 or 3.12: `uv sync --extra mediapipe` "
    "(it is mediapipe 0.10.21 beside protobuf 6.33; newer MediaPipe dropped the face mesh, protobuf 5 and 7 fail with it)"
)


def box_of_points(points: npt.ArrayLike) -> FloatArray:
    """The box that a detector would give for five points, (5, 2) -> (4,): for faces whose points are known and box is not."""
    (x, y), (width, height) = TEMPLATE_BOX
    back = invert(similarity(points, ARCFACE_POINTS))
    (centre_x, centre_y) = transform_points([[x, y]], back)[0]
    scale = float(np.hypot(back[0, 0], back[1, 0]))
    half_width, half_height = scale * width / 2, scale * height / 2
    return np.array(
        [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height], dtype=np.float32
    )


class LandmarkModel(ABC):
    """Dense landmarks of one face per photograph.

    Attributes:
        name: what it is.
        count: K.
    """

    name: str
    count: int

    @abstractmethod
    def locate(self, images: Sequence[ByteArray], boxes: npt.ArrayLike) -> FloatArray:
        """n photographs (H, W, 3) uint8 RGB and their face boxes (n, 4) -> (n, K, 2) pixels of each; NaN where nothing was found."""


class OnnxLandmarks(LandmarkModel):
    """A regressor in an ONNX file: PFLD with 68 points, or `2d106det` of insightface's packs.

    PFLD (136 outputs, 0 to 1 of the cut): the box made square and 1.1 times as large, RGB / 255.
    2d106det (212 outputs, -1 to 1): the square of 1.5 times the longer side, RGB, (x - 127.5) / 128 unless the graph does that
    itself, which insightface (`model_zoo/landmark.py`) sees from the names of its first nodes.
    """

    def __init__(self, path: Path, providers: Sequence[str] = CPU, threads: int = 1) -> None:
        """Args: path: the ONNX file; providers, threads: of its session.

        Raises:
            ModelError: the file is missing or neither of the two networks.
        """
        self._session = open_session(path, providers, threads)
        entry, outputs = self._session.get_inputs()[0], self._session.get_outputs()
        width = outputs[0].shape[-1] if outputs else None
        side = entry.shape[-1]
        if len(outputs) != 1 or width not in (136, 212) or not isinstance(side, int):
            raise ModelError(
                f"{path}: not a landmark network known here: {len(outputs)} outputs of width {width}, input {entry.shape}; "
                "expected PFLD with 136 or 2d106det with 212 numbers"
            )
        self.count, self._side, self._input = width // 2, side, entry.name
        self.name = "pfld68" if width == 136 else "2d106det"
        self._batch = entry.shape[0] if isinstance(entry.shape[0], int) else None
        if width == 136:
            self._stretch, self._mean, self._std = 1.1, 0.0, 255.0
        else:
            raw = _normalises_itself(path)
            self._stretch, self._mean, self._std = 1.5, 0.0 if raw else 127.5, 1.0 if raw else 128.0

    def locate(self, images: Sequence[ByteArray], boxes: npt.ArrayLike) -> FloatArray:
        """As in the base class."""
        if len(images) == 0:
            return np.zeros((0, self.count, 2), dtype=np.float32)
        matrices = np.stack([_square(box, self._stretch, self._side) for box in np.asarray(boxes, dtype=np.float64)])
        cuts = np.stack([warp_crop(image, matrix, self._side) for image, matrix in zip(images, matrices, strict=True)])
        fed = np.ascontiguousarray(((cuts.astype(np.float32) - self._mean) / self._std).transpose(0, 3, 1, 2))
        step = self._batch or len(fed)
        if len(fed) % step:
            raise ModelError(f"{self.name}: the file has a fixed batch of {step}; only 1 or any is supported")
        rows = [self._session.run(None, {self._input: fed[i : i + step]})[0] for i in range(0, len(fed), step)]
        numbers = np.concatenate(rows).reshape(len(fed), self.count, 2)
        if self.count == 106:
            numbers = (numbers + 1) / 2
        return transform_points(numbers * self._side, invert(matrices))


class MediaPipeLandmarks(LandmarkModel):
    """The 478-point face mesh that GANonymization was trained with (legacy API, iris included)."""

    def __init__(self) -> None:
        """Raises: ModelError: MediaPipe is missing or has no legacy face mesh; the message names the versions."""
        self.name, self.count = "mediapipe478", 478
        try:
            import mediapipe

            mesh = mediapipe.solutions.face_mesh
        except (ImportError, AttributeError, TypeError) as error:
            raise ModelError(f"{MEDIAPIPE_HELP} ({type(error).__name__}: {error})") from error
        self._mesh: Any = mesh.FaceMesh(
            static_image_mode=True, max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.5
        )

    def locate(self, images: Sequence[ByteArray], boxes: npt.ArrayLike) -> FloatArray:
        """As in the base class. The mesh's own detector is short range, hence it sees the square of 1.5 times the box at 512 pixels at most."""
        result = np.full((len(images), self.count, 2), np.nan, dtype=np.float32)
        for row, (image, box) in enumerate(zip(images, np.asarray(boxes, dtype=np.float64), strict=True)):
            side = int(np.clip(1.5 * max(box[2] - box[0], box[3] - box[1]), 192, 512))
            matrix = _square(box, 1.5, side)
            found = self._mesh.process(warp_crop(image, matrix, side)).multi_face_landmarks
            if found:
                points = np.array([[point.x, point.y] for point in found[0].landmark]) * side
                result[row] = transform_points(points, invert(matrix))
        return result


def open_landmarks(source: Path | str, providers: Sequence[str] = CPU, threads: int = 1) -> LandmarkModel:
    """The landmark model in an ONNX file, or MediaPipe's for the word `mediapipe`.

    Raises:
        ModelError: says what is missing and what to install.
    """
    return MediaPipeLandmarks() if str(source) == MEDIAPIPE else OnnxLandmarks(Path(source), providers, threads)


def _square(box: npt.NDArray[np.float64], stretch: float, side: int) -> npt.NDArray[np.float64]:
    """(2, 3): the square around a box, `stretch` times its longer side, to (side, side)."""
    scale = side / (max(box[2] - box[0], box[3] - box[1]) * stretch)
    centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    shift = side / 2 - scale * centre
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def _normalises_itself(path: Path) -> bool:
    """insightface's rule: among the first eight nodes one is named Sub* or _minus* and one Mul* or _mul*, or an early one is `bn_data`."""
    import onnx

    names = [node.name for node in onnx.load(str(path), load_external_data=False).graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in names)
    return (subtracts and multiplies) or "bn_data" in names[:3]
