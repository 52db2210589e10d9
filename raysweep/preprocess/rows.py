"""Rows of a shard -> aligned crops with points, landmarks and mask; a row that cannot be used gets a reason.

Pure functions on rows; the models are handed in (`Tools`). Reasons beside those of `data.images.ImageProblem`:

| reason | what happened |
|--------|---------------|
| no_face | the detector found none, neither in the image nor in the image with a border |
| bad_points | the five points are not five finite points, or lie in one place |
| no_landmarks | the other rows bring dense landmarks (so many), this one does not and no model gives the same |
| no_mask | the other rows bring a mask, this one does not and there is no parser |
| failed | OpenCV or numpy refused the numbers; the detail has their message |
| killed_worker | the process that read it was killed, again and again (see `engine.poison`) |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from raysweep.data.images import ImageProblem, decode, decode_mask
from raysweep.errors import ModelError
from raysweep.preprocess.align import Matrix, align, transform_points, warp_labels
from raysweep.preprocess.detect import Detector, choose_face
from raysweep.preprocess.landmarks import LandmarkModel, box_of_points
from raysweep.preprocess.parse import HEAD_FRAME, Parser
from raysweep.schema import ByteArray, FloatArray, Frame

__all__ = [
    "KILLED",
    "Columns",
    "Face",
    "Origin",
    "Recipe",
    "RowProblem",
    "Tools",
    "crop_row",
    "crop_rows",
    "faces_in",
    "problem_rows",
    "read_image",
    "recipe_for",
]

Columns = dict[str, np.ndarray[Any, Any]]
"""Arrays of one length, by column name."""

Origin = Literal["none", "known", "model"]
"""Where landmarks and masks come from: nowhere, the rows themselves, a model."""


KILLED = "killed_worker"


class RowProblem(Exception):  # noqa: N818 - a finding about one row, which is quarantined; no programme error
    """One row cannot be used. `reason` is one word of the table above, `detail` one line."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Tools:
    """The models of preprocessing, each None when it is not at hand or not needed."""

    detector: Detector | None = None
    landmarks: LandmarkModel | None = None
    parser: Parser | None = None


@dataclass(frozen=True)
class Recipe:
    """What every row of a data set is made into: all rows alike.

    Attributes:
        frame: of the crops.
        landmarks, mask: where they come from.
        landmark_count: K, 0 without.
    """

    frame: Frame
    landmarks: Origin = "none"
    landmark_count: int = 0
    mask: Origin = "none"

    def blank(self, rows: int) -> Columns:
        """Columns of zeros for so many rows."""
        side = self.frame.size
        columns: Columns = {
            "crop": np.zeros((rows, side, side, 3), dtype=np.uint8),
            "points": np.zeros((rows, 5, 2), dtype=np.float32),
        }
        if self.landmarks != "none":
            columns["landmarks"] = np.zeros((rows, self.landmark_count, 2), dtype=np.float32)
        if self.mask != "none":
            columns["mask"] = np.zeros((rows, side, side), dtype=np.uint8)
        return columns


@dataclass(frozen=True)
class Face:
    """One aligned face, in crop pixels; `note` is empty or says what else was seen, `matrix` (2, 3) maps photograph to crop."""

    crop: ByteArray
    points: FloatArray
    landmarks: FloatArray | None
    mask: ByteArray | None
    note: str
    matrix: Matrix


def recipe_for(row: Mapping[str, Any], frame: Frame, tools: Tools, *, models: bool = True) -> Recipe:
    """Decide from one row (the first) what all rows of a data set are made into.

    What the rows bring is preferred, a model comes second.

    Args:
        row: of `face_schema`.
        frame: of the crops.
        tools: models at hand.
        models: models may be used (False for drawn faces, which bring all that is true of them).

    Raises:
        ModelError: the row brings no points and there is no detector.
    """
    if row["points"] is None and tools.detector is None:
        raise ModelError(
            "the faces bring no five points and there is no detector: put an SCRFD, RetinaFace or YuNet ONNX file into the "
            "models folder (`raysweep ls models` lists them)"
        )
    brought = row["landmarks"]
    landmarks: Origin = "none"
    count = 0
    if brought is not None and len(brought) >= 2:
        landmarks, count = "known", len(brought) // 2
    elif models and tools.landmarks is not None:
        landmarks, count = "model", tools.landmarks.count
    mask: Origin = "none"
    if row["mask"] is not None:
        mask = "known"
    elif models and tools.parser is not None:
        mask = "model"
    return Recipe(frame, landmarks, count, mask)


def read_image(row: Mapping[str, Any]) -> ByteArray:
    """The photograph of a row of `face_schema`, (H, W, 3) uint8 RGB, upright.

    Raises:
        RowProblem: it cannot be read.
    """
    try:
        return decode(row["image"], row["encoding"], row["height"], row["width"])
    except ImageProblem as problem:
        raise RowProblem(problem.reason_code, problem.message) from problem


def crop_row(row: Mapping[str, Any], recipe: Recipe, tools: Tools) -> Face:
    """One row of `face_schema` -> one aligned face.

    Raises:
        RowProblem: the row cannot be used.
    """
    return faces_in(read_image(row), row, recipe, tools)[0]


def faces_in(
    image: ByteArray, row: Mapping[str, Any], recipe: Recipe, tools: Tools, *, everyone: bool = False
) -> list[Face]:
    """The face that a row is about, and with `everyone` after it all others that the detector finds in the photograph.

    Args:
        image: of the row, from `read_image`.
        row: of `face_schema`.
        recipe, tools: how faces are made.
        everyone: look for others, also where the row brings the points of its face.

    Raises:
        RowProblem: the row cannot be used; with `everyone` also when one of the others cannot be aligned.
    """
    try:
        points, box, note, others = _locate(image, row, tools, everyone)
        faces = [_face(image, row, points, box, note, recipe, tools)]
        for other, place in others:
            # What the row brings is true of its own face only.
            faces.append(_face(image, {**row, "landmarks": None}, other, place, "another face", recipe, tools))
        return faces
    except ImageProblem as problem:
        raise RowProblem(problem.reason_code, problem.message) from problem
    except (cv2.error, ValueError, ArithmeticError) as error:
        raise RowProblem("failed", f"{type(error).__name__}: {_one_line(error)}") from error


def problem_rows(rows: Sequence[Mapping[str, Any]], recipe: Recipe, reason: str, detail: str) -> Columns:
    """Columns as of `crop_rows` for rows of which none can be used, for one reason."""
    texts = {"reason": reason, "detail": detail, "note": ""}
    columns = recipe.blank(len(rows))
    for name in ("face_id", "source", *texts):
        columns[name] = np.array([texts.get(name, str(row.get(name, ""))) for row in rows], dtype=np.str_)
    return columns


def crop_rows(rows: Sequence[Mapping[str, Any]], recipe: Recipe, tools: Tools) -> Columns:
    """Rows of `face_schema` -> columns, row by row in the same order.

    Returns:
        `face_id`, `source`, `reason`, `detail`, `note` (strings; `reason` is empty for a face), `crop` (n, S, S, 3) uint8, `points`
        (n, 5, 2), and by recipe `landmarks` (n, K, 2) and `mask` (n, S, S). Zero where there is a reason.
    """
    columns = recipe.blank(len(rows))
    texts: dict[str, list[str]] = {name: [] for name in ("face_id", "source", "reason", "detail", "note")}
    for index, row in enumerate(rows):
        reason = detail = note = ""
        try:
            face = crop_row(row, recipe, tools)
            note = face.note
            for name in columns:
                columns[name][index] = getattr(face, name)
        except RowProblem as problem:
            reason, detail = problem.reason, problem.detail
        for name, text in zip(texts, (row["face_id"], row["source"], reason, detail, note), strict=True):
            texts[name].append(str(text))
    columns.update({name: np.array(values, dtype=np.str_) for name, values in texts.items()})
    return columns


Located = tuple[FloatArray, FloatArray | None]
"""Five points, and the detector's box when it was asked."""


def _face(
    image: ByteArray,
    row: Mapping[str, Any],
    points: FloatArray,
    box: FloatArray | None,
    note: str,
    recipe: Recipe,
    tools: Tools,
) -> Face:
    crop, matrix = align(image, points, recipe.frame)
    return Face(
        crop=crop,
        points=transform_points(points, matrix),
        landmarks=_landmarks(image, row, points, box, matrix, recipe, tools),
        mask=_mask(image, row, points, matrix, recipe, tools),
        note=note,
        matrix=matrix,
    )


def _locate(
    image: ByteArray, row: Mapping[str, Any], tools: Tools, everyone: bool
) -> tuple[FloatArray, FloatArray | None, str, list[Located]]:
    """Five points, the detector's box when it was asked, a note, and with `everyone` the other faces."""
    if row["points"] is not None:
        points = np.asarray(row["points"], dtype=np.float32)
        if points.shape != (10,) or not np.isfinite(points).all():
            raise RowProblem(
                "bad_points", f"{points.size} numbers, some perhaps not finite; five finite points are needed"
            )
        points = points.reshape(5, 2)
        spread = float(np.ptp(points, axis=0).max())
        if spread < 2.0:
            raise RowProblem("bad_points", "the five points lie within two pixels")
        if not everyone or tools.detector is None:
            return points, None, "", []
        found = tools.detector.detect(image)
        centre = points.mean(axis=0)
        away = [
            index
            for index in range(len(found))
            if float(np.linalg.norm(found.points[index].mean(axis=0) - centre)) > spread
        ]
        return points, None, "", [(found.points[index], found.boxes[index]) for index in away]
    if tools.detector is None:
        raise RowProblem("no_face", "the row brings no points and there is no detector")
    height, width = image.shape[:2]
    found = tools.detector.detect(image)
    if len(found) == 0:
        raise RowProblem(
            "no_face", f"none in {height} x {width} pixels with {tools.detector.name} >= {tools.detector.threshold:g}"
        )
    best = choose_face(found, height, width)
    note = f"{len(found)} faces, the largest and most central one was taken" if len(found) > 1 else ""
    others = [(found.points[index], found.boxes[index]) for index in range(len(found)) if everyone and index != best]
    return found.points[best], found.boxes[best], note, others


def _landmarks(
    image: ByteArray,
    row: Mapping[str, Any],
    points: FloatArray,
    box: FloatArray | None,
    matrix: Matrix,
    recipe: Recipe,
    tools: Tools,
) -> FloatArray | None:
    if recipe.landmarks == "none":
        return None
    brought = row["landmarks"]
    if recipe.landmarks == "known" and brought is not None and len(brought) == 2 * recipe.landmark_count:
        return transform_points(np.asarray(brought, dtype=np.float32).reshape(-1, 2), matrix)
    model = tools.landmarks
    if model is None or model.count != recipe.landmark_count:
        size = 0 if brought is None else len(brought) // 2
        raise RowProblem(
            "no_landmarks", f"brings {size} dense landmarks where other rows bring {recipe.landmark_count}"
        )
    found = model.locate([image], [box if box is not None else box_of_points(points)])[0]
    if not np.isfinite(found).all():
        raise RowProblem("no_landmarks", f"{model.name} found no face in the detected box")
    return transform_points(found, matrix)


def _mask(
    image: ByteArray, row: Mapping[str, Any], points: FloatArray, matrix: Matrix, recipe: Recipe, tools: Tools
) -> ByteArray | None:
    if recipe.mask == "none":
        return None
    if recipe.mask == "known" and row["mask"] is not None:
        return warp_labels(decode_mask(row["mask"], *image.shape[:2]), matrix, recipe.frame.size)
    if tools.parser is None:
        raise RowProblem("no_mask", "brings no mask where other rows do, and there is no parser")
    head, _ = align(image, points, HEAD_FRAME)
    labels = tools.parser.parse(head[None])[0]
    # Both frames are the same template at another scale and shift; beyond the parser's frame is background.
    ratio = recipe.frame.scale / HEAD_FRAME.scale
    shift = (recipe.frame.margin - HEAD_FRAME.margin + 0.5 / HEAD_FRAME.scale) * recipe.frame.scale - 0.5
    return warp_labels(labels, np.array([[ratio, 0, shift], [0, ratio, shift]]), recipe.frame.size)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
