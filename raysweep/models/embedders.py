"""Identity embedders from ONNX files and torch state dicts, fed by our own input specification."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from raysweep.errors import ModelError
from raysweep.models.architectures import build
from raysweep.models.base import Embedder
from raysweep.models.inputs import CHUNK, PROBE_FRAME, in_chunks, network_input, normalise, probe
from raysweep.models.loading import OnnxSession, load_into, read_state
from raysweep.preprocess.frame import extract
from raysweep.schema import FloatArray, Frame

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import nn

    from raysweep.models.zoo import Found

__all__ = [
    "LEAST_COSINE",
    "CropEmbedder",
    "OnnxEmbedder",
    "TorchEmbedder",
    "load_embedder",
    "load_network",
    "unit_rows",
]

LEAST_COSINE = 0.999
"""Between two answers to a face that count as the same."""


def unit_rows(rows: npt.ArrayLike) -> FloatArray:
    """(n, D) -> float32 of length 1; a row without length or not finite becomes all zero ("cannot be embedded")."""
    array = np.asarray(rows, dtype=np.float64)
    array = np.where(np.isfinite(array).all(axis=1, keepdims=True), array, 0.0)
    length = np.linalg.norm(array, axis=1, keepdims=True)
    unit = np.divide(array, length, out=np.zeros_like(array), where=length > 1e-12)
    return np.asarray(unit, dtype=np.float32)


def load_network(found: Found) -> nn.Module:
    """The torch network of an entry, on the CPU, evaluation mode, weights without gradients.

    The architecture comes from the entry, or from the header of a safetensors file.

    Raises:
        ModelError: ONNX (no gradients), unknown architecture, or weights of another one.
    """
    entry = found.entry
    if not entry.differentiable:
        raise ModelError(f"{found.path}: {entry.format} holds no torch network")
    state, metadata = read_state(found.path, entry.key, entry.prefix)
    architecture = entry.architecture or metadata.get("architecture")
    arguments = entry.arguments
    if entry.architecture is None:
        try:
            arguments = json.loads(metadata.get("kwargs", "{}"))
        except ValueError as error:
            raise ModelError(f"{found.path}: `kwargs` in its header is not JSON: {error}") from error
    if not architecture:
        raise ModelError(
            f"{found.path}: neither the entry {entry.name} nor the header of the file says which architecture"
        )
    return load_into(build(architecture, arguments), state, str(found.path))


class CropEmbedder(Embedder):
    """Shared by the adapters: chunks, normalisation, unit length. A subclass sets the attributes and writes `_run`.

    Attributes:
        provider: what computes (`CUDAExecutionProvider`, `CPUExecutionProvider`, `torch cpu`, `torch cuda:0`).
        device: where crops should lie.
        chunk: crops fed to the network at a time.
    """

    provider: str
    device: torch.device
    chunk: int

    def _run(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        raise NotImplementedError

    def embed(self, images: torch.Tensor, frame: Frame) -> FloatArray:
        """(n, 3, S, S) uint8 RGB crops in `frame` -> (n, D) float32, L2-normalised."""
        return self.embed_crops(extract(images.to(self.device), frame, self.input.region, self.input.size))

    def embed_crops(self, crops: torch.Tensor) -> FloatArray:
        """(n, 3, size, size) uint8 RGB, already cut out by `input.region` -> (n, D) float32, L2-normalised."""
        if not len(crops):
            return np.zeros((0, self.dim), np.float32)
        return unit_rows(in_chunks(crops, self.input, self.device, self.chunk, self._run))


class OnnxEmbedder(CropEmbedder):
    """An ONNX recogniser.

    Args:
        found: entry and file.
        device: `cpu` or `cuda`.
        threads: CPU threads of one call.
        lineage: of the weights.

    Raises:
        ModelError: see `OnnxSession`; or the output is not (n, dim).
    """

    def __init__(
        self,
        found: Found,
        device: str | torch.device = "cpu",
        threads: int | None = 1,
        lineage: frozenset[str] = frozenset(),
    ) -> None:
        import torch

        entry = found.entry
        self.name, self.input, self.lineage = entry.name, entry.spec, lineage or frozenset({entry.name})
        channels = 1 if entry.input.colour == "grey" else 3
        side = entry.input.size
        shape = (channels, side, side) if entry.input.layout == "nchw" else (side, side, channels)
        self._session = OnnxSession(found.path, device, threads, shape)
        self.provider = self._session.provider
        self.device = self._session.device
        self.chunk = CHUNK[f"onnx {self.device.type}"]
        answer = self._session.run(torch.zeros((1, *shape)))[0]
        if answer.ndim != 2 or (entry.output.dim is not None and answer.shape[1] != entry.output.dim):
            raise ModelError(
                f"{found.path}: its output is {answer.shape}, the entry {entry.name} says (n, {entry.output.dim})"
            )
        self.dim = int(answer.shape[1])

    def _run(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        return self._session.run(batch)[0]


class TorchEmbedder(CropEmbedder):
    """A torch recogniser; also differentiable. Arguments as in `OnnxEmbedder`, less `threads`."""

    _half: nn.Module | None = None

    def __init__(self, found: Found, device: str | torch.device = "cpu", lineage: frozenset[str] = frozenset()) -> None:
        import torch

        entry = found.entry
        self.name, self.input, self.lineage = entry.name, entry.spec, lineage or frozenset({entry.name})
        self.device = torch.device(device)
        self.chunk = CHUNK[f"torch {self.device.type}"]
        self.provider = f"torch {self.device}"
        self.network = load_network(found).to(self.device)
        with torch.inference_mode():
            answer = self.network(
                normalise(torch.zeros((1, 3, self.input.size, self.input.size), device=self.device), self.input)
            )
        if answer.ndim != 2 or (entry.output.dim is not None and answer.shape[1] != entry.output.dim):
            raise ModelError(
                f"{found.path}: its output is {tuple(answer.shape)}, the entry {entry.name} says (n, {entry.output.dim})"
            )
        self.dim = int(answer.shape[1])

    def _run(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            rows = self.network(batch) if self._half is None else self._half(batch.half())
            answer: npt.NDArray[np.float32] = rows.float().cpu().numpy()
        return answer

    @property
    def precision(self) -> str:
        """Of `embed`: `single` or `half`."""
        return "single" if self._half is None else "half"

    def use_half(self, images: torch.Tensor, frame: Frame) -> float:
        """Embed in half precision from now on, if that changes no embedding of some faces by more than `LEAST_COSINE`.

        What learns from the network (`differentiable`) keeps single precision.

        Args:
            images: (n, 3, S, S) uint8 RGB crops in `frame`, n >= 1.

        Returns:
            The smallest cosine between the embeddings of a face in half and in single precision; it stays with single precision where
            that is below `LEAST_COSINE` or not a number.
        """
        full = self.embed(images, frame)
        self._half = copy.deepcopy(self.network).half()
        cosine = float((full * self.embed(images, frame)).sum(axis=1).min())
        if not cosine >= LEAST_COSINE:
            self._half = None
        return cosine

    def with_network(self, network: nn.Module) -> TorchEmbedder:
        """The same with other weights, in single precision."""
        made = copy.copy(self)
        made.network, made._half = network, None
        return made

    def differentiable(self, frame: Frame) -> Callable[[torch.Tensor], torch.Tensor]:
        """(n, 3, S, S) float crops in [0, 1] in `frame` -> (n, D) of length 1, with gradients to the crops."""
        import torch

        def embed(images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(self.network(network_input(images, frame, self.input)), dim=1)

        return embed


def load_embedder(
    found: Found,
    device: str | torch.device = "cpu",
    threads: int | None = 1,
    lineage: frozenset[str] = frozenset(),
) -> CropEmbedder:
    """The adapter that fits the file; its known answer is checked if the zoo has one.

    Raises:
        ModelError: anything wrong with the file, or another answer to the probe image than the stored one.
    """
    model: CropEmbedder
    if found.entry.format == "onnx":
        model = OnnxEmbedder(found, device, threads, lineage)
    else:
        model = TorchEmbedder(found, device, lineage)
    import torch

    check_answer(found, model.embed(torch.from_numpy(probe()), PROBE_FRAME)[0])
    return model


def check_answer(found: Found, answer: FloatArray) -> None:
    """Compare the output for the probe image with the stored one: cosine at least 0.999 over the numbers stored.

    Raises:
        ModelError: it differs: other weights, or the input specification (size, colour, mean, std, region) is wrong.
    """
    stored = np.asarray(found.entry.check, dtype=np.float64)
    if not len(stored):
        return
    given = answer[: len(stored)].astype(np.float64)
    length = float(np.linalg.norm(given)) * float(np.linalg.norm(stored))
    cosine = float(given @ stored) / max(length, 1e-12)
    if len(given) != len(stored) or cosine < LEAST_COSINE:
        raise ModelError(
            f"{found.path}: {found.name} gives another answer to the probe image than it should (cosine {cosine:.4f}, wanted {LEAST_COSINE}): "
            "other weights, or a wrong input specification (size, colour, mean, std, region)"
        )
