"""R14: photographs decoded, searched for faces and aligned, against the embedder that is to be fed: preparation must outrun it.

On the CPU in the way of `prepare`, a thread per core; on the GPU the photographs are decoded by torchvision and aligned by `preprocess.align.warp`,
and the detector runs where onnxruntime puts it. Drawn faces bring their points and have no detector: the note then says so.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from raysweep.bench.finding import Finding, How
from raysweep.data.source import open_source
from raysweep.engine.apply import encode
from raysweep.errors import DataError
from raysweep.models.base import Embedder
from raysweep.models.zoo import open_zoo
from raysweep.preprocess.align import similarity, warp
from raysweep.preprocess.detect import choose_face
from raysweep.preprocess.rows import Recipe, RowProblem, Tools, crop_row, read_image
from raysweep.preprocess.tools import open_tools
from raysweep.schema import ByteArray, FloatArray, Frame

__all__ = ["Photographs", "on_device", "photographs", "preprocessing", "rates"]

BATCH = 128
FRAME = Frame()

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Photographs:
    """What is measured on.

    Attributes:
        rows: of `face_schema`, JPEG.
        tools: loads the detector, if there is one, for a thread of the CPU or for the device.
        embedder: the first one.
        kind: for the note.
    """

    rows: Sequence[Row]
    tools: Callable[[str], Tools]
    embedder: Embedder
    kind: str


def preprocessing(how: How) -> list[Finding]:
    """On the first GPU; the ratio is that of the faster decoder of the two."""
    device = torch.device("cuda")
    chosen = photographs(how, device)
    seconds = 1.0 if how.quick else 3.0
    found = [rates(chosen, device, seconds) for _ in range(how.repeats)]
    middle = {name: float(np.median([rate[name] for rate in found])) for name in found[0]}
    note = (
        f"{chosen.kind}; images/s: embedder {middle['embed']:,.0f}, CPU {middle['cpu']:,.0f} on {os.cpu_count()} cores"
    )
    findings = [Finding("R14 CPU", tuple(rate["cpu"] / rate["embed"] for rate in found), note, facts=middle)]
    if "device" in middle:
        values = tuple(rate["device"] / rate["embed"] for rate in found)
        return [Finding("R14 GPU", values, f"{note}, GPU {middle['device']:,.0f}", facts=middle), *findings]
    return [Finding("R14 GPU", missing="torchvision has no JPEG decoder for this GPU"), *findings]


def photographs(how: How, device: torch.device) -> Photographs:
    """Real ones and a real detector where they are at hand, else drawn ones."""
    if how.real is not None:
        source, zoo = open_source(str(how.real / "faces_id" / "lfw")), open_zoo(str(how.real / "models"))
        zoo = zoo.for_data(synthetic=False)
        rows = [row for row in itertools.islice(source.rows(), 4 * BATCH) if row["encoding"] == "jpeg"]
        kind = f"{len(rows)} photographs of LFW"
    else:
        source, zoo = open_source("synthetic:identities=32,images_per_identity=8,seed=5"), open_zoo(None)
        zoo = zoo.for_data(synthetic=True)
        rows = [_as_jpeg(row) for row in source.rows()]
        kind = f"{len(rows)} drawn faces as JPEG, without a detector"
    return Photographs(rows, partial(open_tools, zoo), zoo.embedders(device)[0], kind)


def rates(chosen: Photographs, device: torch.device, seconds: float) -> dict[str, float]:
    """Images a second: `cpu` decodes, detects and aligns on all cores, `device` decodes and aligns on a device (left out where torchvision
    cannot), `embed` is the embedder alone on crops that lie on the device.
    """
    recipe, own = Recipe(FRAME), threading.local()

    def load() -> None:
        own.tools = chosen.tools("cpu")  # one a thread: a detector holds the size of its image

    batches = [chosen.rows[start : start + BATCH] for start in range(0, len(chosen.rows), BATCH)]
    with ThreadPoolExecutor(os.cpu_count(), initializer=load) as threads, torch.inference_mode():

        def on_cpu(rows: Sequence[Row]) -> list[ByteArray]:
            return list(threads.map(lambda row: _crop(row, recipe, own.tools), rows))

        crops = torch.from_numpy(np.stack(on_cpu(batches[0]))).permute(0, 3, 1, 2).contiguous().to(device)
        works: dict[str, Callable[[Sequence[Row]], object]] = {
            "embed": lambda rows: chosen.embedder.embed(crops[: len(rows)], FRAME),
            "cpu": on_cpu,
        }
        if _decodes(batches[0][0], device):
            works["device"] = partial(on_device, tools=chosen.tools(device.type), device=device)
        return {name: _rate(work, batches, device, seconds) for name, work in works.items()}


def _crop(row: Row, recipe: Recipe, tools: Tools) -> ByteArray:
    try:
        return crop_row(row, recipe, tools).crop
    except RowProblem as problem:
        if problem.reason != "no_face":
            raise DataError(f"{row['source']}: {problem}") from problem
        return np.zeros((FRAME.size, FRAME.size, 3), dtype=np.uint8)  # it was looked at all the same


def on_device(rows: Sequence[Row], *, tools: Tools, device: torch.device) -> torch.Tensor:
    """(n, 3, S, S) crops of photographs that are decoded and aligned on a device; black where there is no face."""
    images = _decoded(rows, device)
    points = {
        index: found for index, image in enumerate(images) if (found := _points(image, rows[index], tools)) is not None
    }
    crops = torch.zeros((len(rows), 3, FRAME.size, FRAME.size), dtype=torch.uint8, device=device)
    sizes: dict[tuple[int, ...], list[int]] = {}
    for index in points:
        sizes.setdefault(tuple(images[index].shape), []).append(index)
    for same in sizes.values():
        matrices = np.stack([similarity(points[index], FRAME.points) for index in same])
        crops[same] = warp(torch.stack([images[index] for index in same]), matrices, FRAME.size)
    return crops


def _decoded(rows: Sequence[Row], device: torch.device) -> list[torch.Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    data = [torch.frombuffer(bytearray(row["image"]), dtype=torch.uint8) for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's decoders are to move to torchcodec
        return list(decode_jpeg(data, mode=ImageReadMode.RGB, device=device))


def _decodes(row: Row, device: torch.device) -> bool:
    """Whether torchvision was built with a decoder for the device."""
    try:
        _decoded([row], device)
    except RuntimeError:
        return False
    return True


def _points(image: torch.Tensor, row: Row, tools: Tools) -> FloatArray | None:
    if tools.detector is None:
        return np.asarray(row["points"], dtype=np.float32).reshape(5, 2)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    found = tools.detector.detect(pixels)
    return found.points[choose_face(found, *pixels.shape[:2])] if len(found) else None


def _as_jpeg(row: Row) -> dict[str, Any]:
    return {**row, "encoding": "jpeg", "height": 0, "width": 0, "image": encode(read_image(row), "jpeg")}


def _rate(
    work: Callable[[Sequence[Row]], object], batches: Sequence[Sequence[Row]], device: torch.device, seconds: float
) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work(batches[0])
    wait()
    done, started = 0, time.perf_counter()
    for batch in itertools.cycle(batches):
        work(batch)
        wait()
        done += len(batch)
        if time.perf_counter() - started >= seconds:
            return done / (time.perf_counter() - started)
    raise DataError("no photographs")
