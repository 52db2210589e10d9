"""What flows between the stages: columns of a shard, the frame of a crop, labels, and arrays in memory.

Images are RGB. A point (x, y) is in pixels with the centre of the top-left pixel at (0, 0), as in OpenCV and
insightface. An unknown identity or expression is -1 in an array and null in a shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

__all__ = [
    "ARCFACE_POINTS",
    "ARCFACE_SIZE",
    "EXPRESSIONS",
    "PARTS",
    "ROLES",
    "AlignedFaces",
    "FaceBatch",
    "FaceTable",
    "Frame",
    "Measurements",
    "Role",
    "Side",
    "face_schema",
]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
StringArray = npt.NDArray[np.str_]

EXPRESSIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The seven classes in the order of FER-2013 (column `emotion`, 0 to 6)."""

PARTS: tuple[str, ...] = (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
"""Label of each value of a parsing mask: the 19 classes of CelebAMask-HQ in the order of the public BiSeNet."""

Role = Literal["G", "T", "S", "E"]
"""G background, T attacker training, S selection, E evaluation. One role per identity."""
ROLES: tuple[Role, ...] = get_args(Role)

Side = Literal["", "enrol", "probe"]
"""Which half of an identity's images in S and E; empty in G and T."""

ARCFACE_SIZE = 112
ARCFACE_POINTS: FloatArray = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)
"""Left eye, right eye (as seen in the image), nose tip, left and right mouth corner, in a 112 x 112 crop."""


def face_schema() -> pa.Schema:
    """The columns of a source shard, one row per face photograph.

    | column     | content |
    |------------|---------|
    | face_id    | unique in the data set, stable over runs (usually the relative path) |
    | identity   | who it is, null when not known |
    | expression | one of `EXPRESSIONS`, null when not known |
    | encoding   | `jpeg`, `png`, `gif`, `bmp`, `webp`, or `raw` (uint8 RGB, height x width x 3) |
    | height, width | pixels for `raw`; 0 when the file itself says |
    | image      | the bytes, as they were in the source |
    | points     | x, y of the five points of `ARCFACE_POINTS` in the image, null when not known (10 numbers) |
    | landmarks  | x, y of dense landmarks in the image, null when not known (2K numbers) |
    | mask       | uint8 labels of `PARTS`, height x width raw bytes or a PNG, null when not known |
    | attributes | JSON object of further known facts (pose, light, group...), null when none |
    | source     | where it came from: path relative to the data set, or row |
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("face_id", pa.string(), nullable=False),
            pa.field("identity", pa.string()),
            pa.field("expression", pa.string()),
            pa.field("encoding", pa.string(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("image", pa.binary(), nullable=False),
            pa.field("points", pa.list_(pa.float32())),
            pa.field("landmarks", pa.list_(pa.float32())),
            pa.field("mask", pa.binary()),
            pa.field("attributes", pa.string()),
            pa.field("source", pa.string(), nullable=False),
        ]
    )


@dataclass(frozen=True)
class Frame:
    """The square crop that anonymizers work in: the ArcFace template with `margin` template pixels around it.

    With `size == 112 + 2 * margin` (scale 1) the ArcFace crop is an exact slice of the frame.

    Args:
        size: side of the crop in pixels.
        margin: how far the crop reaches beyond the 112 template on each side, in template pixels.
    """

    size: int = ARCFACE_SIZE
    margin: int = 0

    @property
    def scale(self) -> float:
        """Crop pixels per template pixel."""
        return self.size / (ARCFACE_SIZE + 2 * self.margin)

    def from_template(self, points: FloatArray) -> FloatArray:
        """Template coordinates (..., 2) -> crop coordinates."""
        return np.asarray((points + self.margin + 0.5) * self.scale - 0.5, dtype=np.float32)

    @property
    def points(self) -> FloatArray:
        """Where alignment puts the five points, (5, 2) in crop pixels."""
        return self.from_template(ARCFACE_POINTS)


@dataclass(frozen=True)
class FaceTable:
    """Labels of N faces, row by row; everything a metric or an attacker may know beside scores.

    Attributes:
        face_id: (N,) unique strings.
        identity: (N,) index into `identity_names`, -1 unknown.
        expression: (N,) index into `EXPRESSIONS`, -1 unknown.
        role: (N,) of `ROLES`.
        side: (N,) of `Side`.
        identity_names: names of the identities.
        attributes: per group attribute (N,) words, empty where not known; see `data.attributes`.
    """

    face_id: StringArray
    identity: IntArray
    expression: IntArray
    role: StringArray
    side: StringArray
    identity_names: tuple[str, ...]
    attributes: Mapping[str, StringArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.face_id)

    def rows(self, role: str, side: str | None = None) -> IntArray:
        """Row numbers of one role, and of one side when given."""
        chosen = self.role == role
        if side is not None:
            chosen &= self.side == side
        return np.flatnonzero(chosen).astype(np.int64)

    @property
    def release(self) -> StringArray:
        """(N,) what is published together: `G`, `T`, `S/enrol`, `S/probe`, `E/enrol`, `E/probe`."""
        slash = np.where(self.side == "", "", "/")
        return np.char.add(np.char.add(self.role, slash), self.side)

    def take(self, rows: IntArray) -> FaceTable:
        """The same columns for some rows."""
        return replace(
            self,
            face_id=self.face_id[rows],
            identity=self.identity[rows],
            expression=self.expression[rows],
            role=self.role[rows],
            side=self.side[rows],
            attributes={name: words[rows] for name, words in self.attributes.items()},
        )


@dataclass(frozen=True)
class AlignedFaces:
    """Clear crops in memory (arrays may be read-only memory maps).

    Attributes:
        table: labels of the N faces.
        frame: the crop's geometry.
        crop: (N, S, S, 3) uint8 RGB.
        points: (N, 5, 2) float32, crop pixels.
        landmarks: (N, K, 2) float32, crop pixels, or None; K is 68, 106, 478 or the synthetic count.
        mask: (N, S, S) uint8 labels of `PARTS`, or None.
        synthetic: drawn, not photographed.
    """

    table: FaceTable
    frame: Frame
    crop: ByteArray
    points: FloatArray
    landmarks: FloatArray | None
    mask: ByteArray | None
    synthetic: bool

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: IntArray) -> AlignedFaces:
        """The same columns for some rows (copies them)."""
        return replace(
            self,
            table=self.table.take(rows),
            crop=self.crop[rows],
            points=self.points[rows],
            landmarks=None if self.landmarks is None else self.landmarks[rows],
            mask=None if self.mask is None else self.mask[rows],
        )


@dataclass(frozen=True)
class FaceBatch:
    """What an anonymizer sees: n clear crops on the device.

    Attributes:
        image: (n, 3, S, S) uint8 RGB.
        points: (n, 5, 2) float32, crop pixels.
        landmarks: (n, K, 2) float32, crop pixels, or None.
        mask: (n, S, S) uint8 labels of `PARTS`, or None.
        face_id: n strings.
        seed: (n,) int64, one per face, derived from (trial seed, face_id): randomness that does not depend on batching.
        frame: the crop's geometry.
        identity: (n,) int64 person, -1 unknown, or None: for methods that give each person a pseudonym of its own.
    """

    image: torch.Tensor
    points: torch.Tensor
    landmarks: torch.Tensor | None
    mask: torch.Tensor | None
    face_id: tuple[str, ...]
    seed: IntArray
    frame: Frame
    identity: IntArray | None = None

    def __len__(self) -> int:
        return len(self.face_id)


@dataclass(frozen=True)
class Measurements:
    """What leaves a worker for n faces, clear or anonymized: no pixels.

    Attributes:
        embeddings: per embedder (n, D) float32, L2-normalised; a face that cannot be embedded is all zero.
        probabilities: per expression model (n, 7) float32 in the order of `EXPRESSIONS`, rows summing to 1.
        realism: per name (`psnr` dB, `ssim`, `lpips`) (n,) float32 against the clear crop; empty for clear faces.
        extra: what attackers with pixels at hand add, see `attackers.base.AttackView.extra`: per name, per embedder (n, D) float32; all
            zero for a face that was not measured.
        absent: why an extra is not there, by name.
    """

    embeddings: dict[str, FloatArray]
    probabilities: dict[str, FloatArray]
    realism: dict[str, FloatArray]
    features: dict[str, FloatArray] = field(default_factory=dict)
    extra: dict[str, dict[str, FloatArray]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
