"""Synthetic faces: drawn from identity x expression x nuisance, so that every truth is known.

They look like stylised people, not like photographs; what is measured on them says how a pipeline behaves, not how a real population
would fare. The five points, 68 landmarks and the parsing mask are exact: they are the outlines that were painted.

    python -m raysweep.data.synthetic --sheet README.assets/synthetic-faces.png
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.data.synthetic_drawing import LANDMARKS, MARGIN, Canvas, Factors, expression_of, outline, paint
from raysweep.errors import ConfigError
from raysweep.schema import EXPRESSIONS, PARTS, ByteArray, FloatArray, IntArray

__all__ = ["DRAWING_VERSION", "LANDMARKS", "MARGIN", "DrawnFaces", "SyntheticFaces", "contact_sheet", "main"]

DRAWING_VERSION = 2
"""Changes whenever the same parameters would give other pixels; part of every digest, and of the header of weights trained on these faces."""

FACTS_VERSION = 2
"""Changes whenever the facts beside the pixels change; part of every digest."""
SKIN_TONES = (0.26, 0.5)
"""Darkness (1 - mean of RGB) that divides the palette of skins into light, medium and dark; a third of the people each."""

_CHUNK = 128


@dataclass(frozen=True)
class DrawnFaces:
    """n drawn faces and what is true of them.

    Attributes:
        image: (n, S, S, 3) uint8 RGB.
        points: (n, 5, 2) float32, order of `ARCFACE_POINTS`, image pixels.
        landmarks: (n, 68, 2) float32, iBUG order, image pixels.
        mask: (n, S, S) uint8 labels of `PARTS`; left and right as seen in the image.
        expression: (n,) int64 index into `EXPRESSIONS`.
        attributes: per face: skin tone of the person, intensity, pose in degrees, light, background number, blur and noise.
    """

    image: ByteArray
    points: FloatArray
    landmarks: FloatArray
    mask: ByteArray
    expression: IntArray
    attributes: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class SyntheticFaces:
    """A data set of drawn faces. Image j of identity i is the same for every batch, order, and number of identities or images.

    The face lies in the image as in a `Frame` with `MARGIN` (the whole head is visible), plus jitter of pose.

    Args:
        identities: how many people, at least 1.
        images_per_identity: a multiple of seven shows every expression equally often.
        seed: other people and other photographs, 0 or more.
        size: side of the image in pixels, 32 to 1024.

    Raises:
        ConfigError: for values that cannot be drawn.
    """

    identities: int = 120
    images_per_identity: int = 21
    seed: int = 0
    size: int = 112

    def __post_init__(self) -> None:
        bounds = {
            "identities": (1, 1_000_000),
            "images_per_identity": (1, 1_000_000),
            "seed": (0, 2**62),
            "size": (32, 1024),
        }
        problems = [
            f"synthetic faces: {name} = {getattr(self, name)!r}: must be a whole number from {low} to {high}"
            for name, (low, high) in bounds.items()
            if not isinstance(getattr(self, name), int) or not low <= getattr(self, name) <= high
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def name(self) -> str:
        """Short and telling, for records and screens."""
        return f"synthetic-{self.identities}x{self.images_per_identity}-{self.size}px-seed{self.seed}"

    def digest(self) -> str:
        """Hash of the parameters and of the drawing version, 16 hexadecimal digits."""
        content = json.dumps({"drawing": DRAWING_VERSION, "facts": FACTS_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.identities * self.images_per_identity

    def expressions(self) -> IntArray:
        """(len(self),) labels in the order of `rows`, without drawing."""
        row = np.arange(len(self), dtype=np.int64)
        return expression_of(self.seed, row // self.images_per_identity, row % self.images_per_identity)

    def draw(self, identity: IntArray, image: IntArray) -> DrawnFaces:
        """Draw any faces, each alone: the batch does not matter.

        Args:
            identity, image: (n,) int64, 0 or more; numbers beyond `identities` and `images_per_identity` are further people and photographs.
        """
        identity, image = np.asarray(identity, dtype=np.int64), np.asarray(image, dtype=np.int64)
        if identity.shape != image.shape or identity.ndim != 1:
            raise ConfigError(
                f"identity and image must be two lists of equal length, got shapes {identity.shape} and {image.shape}"
            )
        n, size = len(identity), self.size
        out = DrawnFaces(
            image=np.empty((n, size, size, 3), dtype=np.uint8),
            points=np.empty((n, 5, 2), dtype=np.float32),
            landmarks=np.empty((n, LANDMARKS, 2), dtype=np.float32),
            mask=np.empty((n, size, size), dtype=np.uint8),
            expression=np.empty(n, dtype=np.int64),
            attributes=[],
        )
        canvas = Canvas.of(size)
        for start in range(0, n, _CHUNK):
            part = slice(start, min(start + _CHUNK, n))
            factors = Factors.of(self.seed, identity[part], image[part])
            outlines = outline(factors, size)
            out.image[part], out.mask[part] = paint(factors, outlines, canvas)
            out.points[part], out.landmarks[part] = outlines.points, outlines.landmarks
            out.expression[part] = factors.expression
            out.attributes.extend(_attributes(factors))
        return out

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows of `raysweep.schema.face_schema`, identity by identity; `raw` images, exact points, landmarks and masks."""
        for start in range(0, len(self), _CHUNK):
            row = np.arange(start, min(start + _CHUNK, len(self)), dtype=np.int64)
            identity, image = row // self.images_per_identity, row % self.images_per_identity
            drawn = self.draw(identity, image)
            for k in range(len(row)):
                who = f"id{identity[k]:04d}"
                yield {
                    "face_id": f"{who}/img{image[k]:03d}",
                    "identity": who,
                    "expression": EXPRESSIONS[drawn.expression[k]],
                    "encoding": "raw",
                    "height": self.size,
                    "width": self.size,
                    "image": drawn.image[k].tobytes(),
                    "points": drawn.points[k].ravel(),
                    "landmarks": drawn.landmarks[k].ravel(),
                    "mask": drawn.mask[k].tobytes(),
                    "attributes": json.dumps(drawn.attributes[k]),
                    "source": f"{self.name}#{row[k]}",
                }


def _attributes(factors: Factors) -> list[dict[str, Any]]:
    """Known facts of each face, ready for JSON."""
    here = factors.here
    names = ("yaw", "pitch", "roll", "scale", "light_angle", "light_strength", "light_gain", "blur", "noise")
    columns: dict[str, list[Any]] = {"intensity": np.round(factors.intensity, 4).tolist()}
    columns |= {name: np.round(here[name], 4).tolist() for name in names}
    columns["background"] = here["background"].tolist()
    columns["glasses"] = (factors.who["glasses"] & here["glasses_on"]).tolist()
    # Thirds of the palette: the one group that drawn people belong to.
    columns["skin_tone"] = np.array(["light", "medium", "dark"])[np.digitize(factors.who["dark"], SKIN_TONES)].tolist()
    columns["synthetic"] = [True] * len(factors.expression)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def contact_sheet(faces: SyntheticFaces, people: int = 7) -> ByteArray:
    """A picture of the data set: one row per person, one column per expression, then masks and landmarks of the first person.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    import cv2

    size, gap, head = faces.size, 4, 22
    columns = len(EXPRESSIONS)
    sheet = np.full((head + (people + 1) * (size + gap) + gap, columns * (size + gap) + gap, 3), 255, dtype=np.uint8)
    for column, name in enumerate(EXPRESSIONS):
        place = (gap + column * (size + gap) + 4, 16)
        cv2.putText(sheet, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (60, 60, 60), 1, cv2.LINE_AA)
    palette = np.random.default_rng(4).integers(60, 240, (len(PARTS), 3)).astype(np.uint8)
    palette[0] = 245
    for row in range(people + 1):
        identity = np.full(columns, row % people, dtype=np.int64)
        drawn = faces.draw(identity, np.arange(columns, dtype=np.int64))
        pictures = drawn.image
        if row == people:
            pictures = np.ascontiguousarray(palette[drawn.mask])
            for picture, marks in zip(pictures, drawn.landmarks, strict=True):
                for x, y in np.round(marks * 16).astype(int).tolist():
                    cv2.circle(picture, (x, y), 12, (20, 20, 20), -1, cv2.LINE_AA, 4)
        for picture, expression in zip(pictures, drawn.expression, strict=True):
            top, left = head + gap + row * (size + gap), gap + int(expression) * (size + gap)
            sheet[top : top + size, left : left + size] = picture
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m raysweep.data.synthetic --sheet PATH`."""
    parser = argparse.ArgumentParser(prog="python -m raysweep.data.synthetic", description="Draw synthetic faces.")
    parser.add_argument("--sheet", type=Path, required=True, help="write a contact sheet (PNG) here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--people", type=int, default=7)
    chosen = parser.parse_args(arguments)
    from PIL import Image

    chosen.sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(SyntheticFaces(seed=chosen.seed, size=chosen.size), chosen.people)).save(
        chosen.sheet, optimize=True
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
