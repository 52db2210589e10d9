"""Small stand-ins for the tests of preparation: shards with good and bad rows, a detector, and judging models."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from raysweep.models.base import Embedder, ExpressionModel, InputSpec
from raysweep.preprocess.detect import Detections, Detector
from raysweep.preprocess.frame import extract
from raysweep.schema import ARCFACE_POINTS, ByteArray, FloatArray, Frame, face_schema


def photograph(seed: int, side: int = 160) -> tuple[ByteArray, FloatArray]:
    """A coloured oval on noise, and its five points."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 120, (side, side, 3), dtype=np.uint8), (0, 0), 2)
    centre = np.array([side / 2, side / 2]) + rng.uniform(-8, 8, 2)
    colour = rng.integers(120, 256, 3).tolist()
    cv2.ellipse(image, (int(centre[0]), int(centre[1])), (40, 52), 0, 0, 360, colour, -1)
    points = (ARCFACE_POINTS - 56) * 0.9 + centre
    for x, y in points:
        cv2.circle(image, (int(x), int(y)), 4, (20, 20, 20), -1)
    return np.asarray(image), points.astype(np.float32)


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A good raw row, with changes."""
    image, points = photograph(number)
    height, width = image.shape[:2]
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[40:120, 50:110] = 1
    made: dict[str, Any] = {
        "face_id": f"p{number % 5}/{number:03d}",
        "identity": f"person {number % 5}",
        "expression": "happy" if number % 2 else None,
        "encoding": "raw",
        "height": height,
        "width": width,
        "image": image.tobytes(),
        "points": points.ravel().tolist(),
        "landmarks": np.repeat(points, 2, axis=0).ravel().tolist(),
        "mask": mask.tobytes(),
        "attributes": json.dumps({"number": number}),
        "source": f"row {number}",
    }
    return {**made, **changes}


def jpeg(number: int) -> bytes:
    """The photograph as a JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(photograph(number)[0]).save(stream, "JPEG", quality=95)
    return stream.getvalue()


BAD = ("bad/html", "bad/points", "bad/truncated", "bad/unmasked")


def mixed_rows(good: int = 20) -> list[dict[str, Any]]:
    """Good rows, raw and JPEG, and one of each of `BAD`."""
    rows = [row(n) if n % 3 else row(n, encoding="jpeg", height=0, width=0, image=jpeg(n)) for n in range(good)]
    page = b"<!DOCTYPE html><html>404</html>"
    rows.insert(3, row(101, face_id=BAD[0], encoding="jpeg", height=0, width=0, image=page))
    rows.insert(7, row(102, face_id=BAD[1], points=[50.0] * 10))
    rows.insert(9, row(103, face_id=BAD[2], encoding="jpeg", height=0, width=0, image=jpeg(103)[:900]))
    rows.append(row(104, face_id=BAD[3], mask=None))
    return rows


@dataclass(frozen=True)
class FakeShards:
    """What `pipeline.prepare` asks of a set of shards."""

    paths: list[str]
    name: str = "fakes"
    synthetic: bool = True
    licence: str = "MIT"
    repeats: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> str:
        return hashlib.sha256(b"".join(Path(path).read_bytes() for path in self.paths)).hexdigest()


def write(rows: list[dict[str, Any]], folder: Path, shards: int = 2, **about: Any) -> FakeShards:
    """Rows as Parquet files of uneven length, in row groups of 5."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        table = pa.Table.from_pylist([rows[i] for i in part], schema=face_schema())
        paths.append(str(folder / f"{index}.parquet"))
        pq.write_table(table, paths[-1], row_group_size=5)
    return FakeShards(paths, **about)


class DarkSpots(Detector):
    """Knows a face by its brightest pixels; finds nothing in an image without any above 135 (the border is 127)."""

    name, threshold, side = "spots", 0.5, None

    def _find(self, image: ByteArray) -> Detections:
        bright = cv2.GaussianBlur(image, (0, 0), 4).max(axis=2) > 135
        if bright.sum() < 500 or bright.mean() > 0.9:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
        y, x = np.nonzero(bright)
        points = ((ARCFACE_POINTS - 56) * 0.9 + [x.mean(), y.mean()]).astype(np.float32)
        box = np.array([[x.min(), y.min(), x.max(), y.max()]], np.float32)
        return Detections(box, np.ones(1, np.float32), points[None])


class FakeEmbedder(Embedder):
    """Colours of 4 x 4 fields."""

    def __init__(self) -> None:
        self.name, self.dim, self.input, self.lineage = "fields/a", 48, InputSpec(), frozenset({"fields/a"})

    def embed(self, images: torch.Tensor, frame: Frame) -> FloatArray:
        small = extract(images.float(), frame, self.input.region, 4).reshape(len(images), -1).numpy()
        return np.asarray(small / np.linalg.norm(small, axis=1, keepdims=True), dtype=np.float32)


class FakeExpression(ExpressionModel):
    """Softmax of the means of seven stripes."""

    def __init__(self) -> None:
        self.name, self.input, self.lineage = "stripes", InputSpec(), frozenset({"stripes"})

    def probabilities(self, images: torch.Tensor, frame: Frame) -> FloatArray:
        stripes = images.float().mean(1)[:, : frame.size // 7 * 7].reshape(len(images), 7, -1).mean(-1)
        return np.asarray(torch.softmax(stripes / 32, dim=1).numpy(), dtype=np.float32)


@dataclass(frozen=True)
class FakeZoo:
    """The doors of a zoo that preparation uses."""

    weights: str = "w1"
    synthetic: bool = True
    found: Mapping[str, Any] = field(default_factory=dict)

    def judges(self, task: str) -> list[Any]:
        return []

    def digest(self, names: Iterable[str] | None = None) -> str:
        return self.weights

    def embedders(self, device: Any = "cpu", threads: int | None = 1) -> list[Embedder]:
        return [FakeEmbedder()]

    def expression_models(self, device: Any = "cpu", threads: int | None = 1) -> list[ExpressionModel]:
        return [FakeExpression()]


class FailingZoo(FakeZoo):
    """Its models cannot be loaded."""

    def embedders(self, device: Any = "cpu", threads: int | None = 1) -> list[Embedder]:
        from raysweep.errors import ModelError

        raise ModelError("fields/a: its weights are damaged; fetch them again")
