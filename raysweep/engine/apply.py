"""Rows of a shard -> anonymized rows of the same schema; a face that cannot be anonymized gets a reason and is never passed on.

Pure functions on rows, and the actor that holds the models. Reasons beside those of `preprocess.rows`:

| reason | what happened |
|--------|---------------|
| not_anonymized | the anonymizer refused the face; the detail has its message |
| unchanged | what came out is the clear crop, byte for byte |
| not_encoded | the result cannot be written as an image |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow as pa
import torch

from raysweep.anonymizers.base import Anonymizer, State
from raysweep.anonymizers.batch import face_seeds
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.engine.poison import Begun, Tally, careful
from raysweep.errors import ConfigError, ModelError
from raysweep.preprocess.actors import read_slice
from raysweep.preprocess.align import invert, paste_back, transform_points, warp_crop
from raysweep.preprocess.rows import KILLED, Face, Recipe, RowProblem, Tools, faces_in, read_image
from raysweep.preprocess.tools import open_tools
from raysweep.schema import ByteArray, FaceBatch, Frame, face_schema

if TYPE_CHECKING:
    from raysweep.models.zoo import Zoo
    from raysweep.search.parameters import Value

__all__ = ["Method", "Output", "ReleaseRows", "Shared", "open_method", "release_rows", "released_schema"]

MAX_PIXELS = 16_000_000
"""Of photographs held at a time: they wait, decoded, until a batch of faces is full."""
JPEG_QUALITY = 95
LOSSY = ("jpeg", "webp")


@dataclass(frozen=True)
class Method:
    """What is done to each face.

    Attributes:
        anonymizer, setting: as in a trial's record.
        seed: of what it draws.
        per_person: each person keeps one pseudonym (`assignment=per_identity`), else each image is drawn for anew.
        synthetic: the faces are drawn, not photographed.
        allow_file: the anonymizer was named on the command line, so that it may be a file.
    """

    anonymizer: str
    setting: Mapping[str, Value]
    seed: int
    per_person: bool
    synthetic: bool
    allow_file: bool = False


@dataclass(frozen=True)
class Output:
    """What is written.

    Attributes:
        crops: the aligned crop; else the photograph, in which every face that is found is replaced.
        lossless: PNG also where the source is JPEG or WebP.
        keep_undetected: pass on photographs in which no face is found, as they are.
        batch: faces per call of the anonymizer.
    """

    crops: bool = False
    lossless: bool = False
    keep_undetected: bool = False
    batch: int = 64


@dataclass(frozen=True)
class Shared:
    """What is the same for all rows, and may be large.

    Attributes:
        state: what `fit` learned.
        persons: number of each identity in this data set.
    """

    state: State = field(default_factory=dict)
    persons: Mapping[str, int] = field(default_factory=dict)


def released_schema() -> pa.Schema:
    """`face_schema` with `reason`, `detail` (empty for a result) and `note` (`kept` for a photograph that was passed on as it is)."""
    schema = face_schema()
    for name in ("reason", "detail", "note"):
        schema = schema.append(pa.field(name, pa.string(), nullable=False))
    return schema


def open_method(method: Method, zoo: Zoo, state: State, device: torch.device) -> Anonymizer:
    """The anonymizer, ready to be called.

    Raises:
        ConfigError, ModelError: it cannot be used with these faces, weights or this state.
    """
    made = get_anonymizer(method.anonymizer, allow_file=method.allow_file)(**method.setting)
    made.for_faces(method.synthetic)
    families = made.weights_needed()
    if families:
        made.use_weights({family: zoo.generator(family) for family in families})
    made.load(state, device)
    return made


@dataclass(frozen=True)
class _Picture:
    """A photograph with its faces, the one the row is about first; `first` is the number of the first face."""

    index: int
    image: ByteArray
    faces: list[Face]
    first: int = 0


def release_rows(
    rows: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    tools: Tools,
    anonymizer: Anonymizer,
    method: Method,
    output: Output,
    persons: Mapping[str, int],
    device: torch.device,
) -> pa.Table:
    """Anonymize rows of `face_schema`.

    Only labels are taken over from the clear row. Points are those of the template, in place: they say where the crop lay and nothing of the
    face. Landmarks, masks and whatever a file held beside its pixels (a preview, a place) are left out.

    Returns:
        A table of `released_schema`, row by row in the same order; no image where there is a reason.
    """
    columns: list[dict[str, Any]] = [_blank(row) for row in rows]
    waiting: list[_Picture] = []
    faces = pixels = 0
    for index, row in enumerate(rows):
        try:
            image = read_image(row)
            found = _look(image, row, recipe, tools, output)
        except RowProblem as problem:
            columns[index] |= {"reason": problem.reason, "detail": problem.detail}
            continue
        if not found:
            columns[index] |= {**_encoded(image, str(row["encoding"]), output), "note": "kept"}
            continue
        waiting.append(_Picture(index, image, found))
        faces, pixels = faces + len(found), pixels + image.shape[0] * image.shape[1]
        if faces >= output.batch or pixels >= MAX_PIXELS:
            _release(waiting, rows, columns, recipe.frame, anonymizer, method, output, persons, device)
            waiting, faces, pixels = [], 0, 0
    _release(waiting, rows, columns, recipe.frame, anonymizer, method, output, persons, device)
    return pa.Table.from_pylist(columns, schema=released_schema())


def _look(image: ByteArray, row: Mapping[str, Any], recipe: Recipe, tools: Tools, output: Output) -> list[Face]:
    """The faces; none for a photograph that is to be kept although nobody was found in it."""
    try:
        return faces_in(image, row, recipe, tools, everyone=not output.crops)
    except RowProblem as problem:
        if problem.reason == "no_face" and output.keep_undetected and not output.crops:
            return []
        raise


def _release(
    pictures: list[_Picture],
    rows: Sequence[Mapping[str, Any]],
    columns: list[dict[str, Any]],
    frame: Frame,
    anonymizer: Anonymizer,
    method: Method,
    output: Output,
    persons: Mapping[str, int],
    device: torch.device,
) -> None:
    """Anonymize some photographs and fill in their columns.

    Face after face: crops of neighbours overlap, and a method that keeps the surroundings of a face must find the first one replaced when it
    comes to the second, or it would put it back.
    """
    images = {picture.index: picture.image for picture in pictures}
    for number in range(max((len(picture.faces) for picture in pictures), default=0)):
        turn = [_turn(picture, number, images, frame) for picture in pictures if _has(picture, number, images)]
        for picture, crops in _anonymized(turn, rows, frame, anonymizer, method, persons, device):
            if isinstance(crops, RowProblem):
                columns[picture.index] |= {"reason": crops.reason, "detail": crops.detail}
                del images[picture.index]
            elif output.crops:
                images[picture.index] = crops[0]
            else:
                images[picture.index] = paste_back(images[picture.index], crops[0], picture.faces[0].matrix)
    for picture in pictures:
        if picture.index not in images:
            continue
        points = frame.points
        if not output.crops:
            points = transform_points(points, invert(picture.faces[0].matrix))
        encoding = str(rows[picture.index]["encoding"])
        try:
            done = _encoded(images[picture.index], encoding, output)
        except (cv2.error, ValueError) as error:
            columns[picture.index] |= {"reason": "not_encoded", "detail": _one_line(error)}
        else:
            columns[picture.index] |= {**done, "points": points.ravel().tolist()}


def _has(picture: _Picture, number: int, images: Mapping[int, ByteArray]) -> bool:
    return len(picture.faces) > number and picture.index in images


def _turn(picture: _Picture, number: int, images: Mapping[int, ByteArray], frame: Frame) -> _Picture:
    """One face of a photograph, cut out of it as it is by now."""
    image, face = images[picture.index], picture.faces[number]
    if number:
        face = replace(face, crop=warp_crop(image, face.matrix, frame.size))
    return _Picture(picture.index, image, [face], number)


def _anonymized(
    pictures: list[_Picture],
    rows: Sequence[Mapping[str, Any]],
    frame: Frame,
    anonymizer: Anonymizer,
    method: Method,
    persons: Mapping[str, int],
    device: torch.device,
) -> Iterator[tuple[_Picture, ByteArray | RowProblem]]:
    """(faces, S, S, 3) crops of each photograph, or why there are none; a batch that fails is halved down to the one that does it."""
    if not pictures:
        return
    try:
        image = _drawn(pictures, rows, frame, anonymizer, method, persons, device)
    except (ConfigError, ModelError):
        raise  # true of all faces
    except Exception as error:
        # Anybody's code: whatever it raises about one face must not let that face pass, nor stop the others.
        if len(pictures) == 1:
            yield pictures[0], RowProblem("not_anonymized", f"{type(error).__name__}: {_one_line(error)}")
            return
        half = len(pictures) // 2
        for part in (pictures[:half], pictures[half:]):
            yield from _anonymized(part, rows, frame, anonymizer, method, persons, device)
        return
    first = 0
    for picture in pictures:
        crops = image[first : first + len(picture.faces)]
        first += len(picture.faces)
        same = [np.array_equal(crop, face.crop) for crop, face in zip(crops, picture.faces, strict=True)]
        yield picture, RowProblem("unchanged", "what came out is the clear crop") if any(same) else crops


def _drawn(
    pictures: list[_Picture],
    rows: Sequence[Mapping[str, Any]],
    frame: Frame,
    anonymizer: Anonymizer,
    method: Method,
    persons: Mapping[str, int],
    device: torch.device,
) -> ByteArray:
    """One call of the anonymizer, (faces, S, S, 3) uint8."""
    names: list[str] = []
    drawn_for: list[str] = []
    identity: list[int] = []
    for picture in pictures:
        row = rows[picture.index]
        face_id, person = str(row["face_id"]), row["identity"]
        for number in range(picture.first, picture.first + len(picture.faces)):
            own = number == 0
            names.append(face_id if own else f"{face_id}\0{number}")
            identity.append(persons.get(str(person), -1) if own and person is not None else -1)
            known = method.per_person and own and person is not None
            drawn_for.append(f"person\0{person}" if known else names[-1])
    faces = [face for picture in pictures for face in picture.faces]

    def tensor(arrays: Sequence[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(device)

    batch = FaceBatch(
        image=tensor([face.crop.transpose(2, 0, 1) for face in faces]),
        points=tensor([face.points for face in faces]),
        landmarks=None if faces[0].landmarks is None else tensor([face.landmarks for face in faces]),
        mask=None if faces[0].mask is None else tensor([face.mask for face in faces]),
        face_id=tuple(names),
        seed=face_seeds(method.seed, tuple(drawn_for)),
        frame=frame,
        identity=np.array(identity, dtype=np.int64),
    )
    with torch.inference_mode():
        image = anonymizer.anonymize(batch)
    if image.shape != batch.image.shape or image.dtype != torch.uint8:
        raise ModelError(
            f"{anonymizer.name}: returned {tuple(image.shape)} {image.dtype}, must be {tuple(batch.image.shape)} torch.uint8"
        )
    return np.ascontiguousarray(image.cpu().numpy().transpose(0, 2, 3, 1))


def _blank(row: Mapping[str, Any]) -> dict[str, Any]:
    labels = {name: row[name] for name in ("face_id", "identity", "expression", "attributes", "source")}
    nothing = {"encoding": str(row["encoding"]), "height": 0, "width": 0, "image": b"", "points": None}
    return {**labels, **nothing, "landmarks": None, "mask": None, "reason": "", "detail": "", "note": ""}


def _encoded(image: ByteArray, encoding: str, output: Output) -> dict[str, Any]:
    """Columns of an image (H, W, 3), written anew from its pixels: raw stays raw, JPEG and WebP become JPEG, the rest PNG."""
    height, width = image.shape[:2]
    if encoding == "raw":
        return {"encoding": "raw", "height": height, "width": width, "image": np.ascontiguousarray(image).tobytes()}
    kind = "jpeg" if encoding in LOSSY and not output.lossless else "png"
    return {"encoding": kind, "height": 0, "width": 0, "image": encode(image, kind)}


def encode(image: ByteArray, kind: str) -> bytes:
    """Bytes of a `jpeg` or `png` file of (H, W, 3) uint8 RGB.

    Raises:
        ValueError: OpenCV does not do it.
    """
    suffix, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]) if kind == "jpeg" else (".png", [])
    done, encoded = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), options)
    if not done:
        raise ValueError(f"an image of {image.shape[0]} x {image.shape[1]} cannot be written as {kind}")
    return bytes(encoded.tobytes())


class ReleaseRows:
    """Work item -> table of `released_schema` with the item's number as column `part`. Models are loaded by the first call.

    Args:
        zoo: weights for this kind of faces.
        recipe: how faces are made.
        method, output: what is done and written.
        shared: or, in a list, where it lies with Ray.
        device: None for CUDA where this process sees one, else the CPU.
        threads: of the CPU.
        tally: see `engine.poison`; None where a killed process is the end.
    """

    def __init__(
        self,
        zoo: Zoo,
        recipe: Recipe,
        method: Method,
        output: Output,
        shared: Any,
        device: str | None,
        threads: int,
        tally: Tally | None = None,
    ) -> None:
        self._zoo, self._recipe, self._method, self._output = zoo, recipe, method, output
        self._given, self._threads, self._tally = shared, threads, tally
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def _shared(self) -> Shared:
        if isinstance(self._given, Shared):
            return self._given
        import ray

        shared: Shared = ray.get(self._given[0])
        return shared

    @cached_property
    def _loaded(self) -> tuple[Tools, Anonymizer]:
        torch.set_num_threads(self._threads)
        cv2.setNumThreads(self._threads)
        # From the object store tensors come read-only, which some networks do not stand.
        state = {name: tensor.clone() for name, tensor in self._shared.state.items()}
        return open_tools(self._zoo, "cpu", self._threads), open_method(self._method, self._zoo, state, self._device)

    def __call__(self, item: Mapping[str, Any]) -> pa.Table:
        """One work item, as arrays of length 1."""
        what = (str(item["path"][0]), int(item["start"][0]), int(item["rows"][0]))
        done = pa.concat_tables(careful(what, self._work, self._give_up, self._tally))
        return done.append_column("part", pa.array([int(item["part"][0])] * len(done), pa.int64()))

    def _work(self, what: Begun) -> pa.Table:
        tools, anonymizer = self._loaded
        return release_rows(
            read_slice(*what),
            self._recipe,
            tools,
            anonymizer,
            self._method,
            self._output,
            self._shared.persons,
            self._device,
        )

    def _give_up(self, what: Begun) -> pa.Table:
        why = {"reason": KILLED, "detail": "its worker was killed each time it worked on it"}
        return pa.Table.from_pylist([_blank(row) | why for row in read_slice(*what)], schema=released_schema())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
