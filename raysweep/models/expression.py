"""Expression models from ONNX files and torch state dicts: seven probabilities in our order, whatever the file's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raysweep.errors import ModelError
from raysweep.models.architectures import with_features
from raysweep.models.base import ExpressionModel
from raysweep.models.embedders import check_answer, load_network
from raysweep.models.inputs import CHUNK, PROBE_FRAME, in_chunks, network_input, normalise, probe
from raysweep.models.loading import OnnxSession
from raysweep.preprocess.frame import extract
from raysweep.schema import EXPRESSIONS, FloatArray, Frame

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from raysweep.models.zoo import Found

__all__ = ["CropExpression", "OnnxExpression", "TorchExpression", "class_order", "load_expression", "to_probabilities"]


def class_order(classes: Sequence[str]) -> list[int]:
    """Column of each of `EXPRESSIONS` in a file whose outputs are `classes`; a class beyond the seven is left out.

    >>> class_order(["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"])
    [3, 5, 4, 1, 2, 6, 0]
    """
    return [list(classes).index(name) for name in EXPRESSIONS]


def to_probabilities(outputs: npt.ArrayLike, classes: Sequence[str], logits: bool) -> FloatArray:
    """Outputs of a file -> (n, 7) probabilities in the order of `EXPRESSIONS`.

    Softmax where the file gives logits; a further class (contempt) is dropped and the rest divided by its sum, which for logits
    equals the softmax over the seven. A row that is not finite, or has nothing left, becomes uniform.

    Args:
        outputs: (n, len(classes)).
        classes: what each column means.
        logits: softmax is still to be applied.
    """
    chosen = np.asarray(outputs, dtype=np.float64)[:, class_order(classes)]
    broken = ~np.isfinite(chosen).all(axis=1, keepdims=True)
    chosen = np.where(broken, 0.0, chosen)
    chosen = np.exp(chosen - chosen.max(axis=1, keepdims=True)) if logits else np.clip(chosen, 0.0, None)
    total = chosen.sum(axis=1, keepdims=True)
    uniform = np.full_like(chosen, 1 / len(EXPRESSIONS))
    return np.where(total > 1e-12, np.divide(chosen, total, where=total > 1e-12, out=uniform), uniform).astype(
        np.float32
    )


class CropExpression(ExpressionModel):
    """Shared by the adapters: chunks, normalisation, class order. A subclass sets the attributes and writes `_run`.

    Attributes:
        classes: of the file's outputs.
        logits: softmax is still to be applied to them.
        provider, device, chunk: as in `CropEmbedder`.
    """

    classes: tuple[str, ...]
    logits: bool
    provider: str
    device: torch.device
    chunk: int

    def _run(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        raise NotImplementedError

    def probabilities(self, images: torch.Tensor, frame: Frame) -> FloatArray:
        """(n, 3, S, S) uint8 RGB crops in `frame` -> (n, 7) float32 in the order of `EXPRESSIONS`, rows summing to 1."""
        return self.probabilities_of_crops(extract(images.to(self.device), frame, self.input.region, self.input.size))

    def probabilities_of_crops(self, crops: torch.Tensor) -> FloatArray:
        """The same for (n, 3, size, size) uint8 RGB, already cut out by `input.region`."""
        if not len(crops):
            return np.zeros((0, len(EXPRESSIONS)), np.float32)
        return to_probabilities(
            in_chunks(crops, self.input, self.device, self.chunk, self._run), self.classes, self.logits
        )

    def _check_outputs(self, found: Found, answer: npt.NDArray[np.float32]) -> None:
        if answer.ndim != 2 or answer.shape[1] != len(self.classes):
            raise ModelError(
                f"{found.path}: its output is {answer.shape}, the entry {found.name} names {len(self.classes)} classes"
            )
        if not self.logits and (answer.min() < -1e-4 or abs(float(answer.sum()) - 1) > 1e-2):
            raise ModelError(
                f"{found.path}: its outputs are no probabilities (sum {answer.sum():.3f}); set output: {{logits: true}}"
            )
        if self.logits and answer.min() >= 0 and abs(float(answer.sum()) - 1) < 1e-4:
            raise ModelError(f"{found.path}: its outputs are probabilities already; set output: {{logits: false}}")


class OnnxExpression(CropExpression):
    """An ONNX expression model.

    Args:
        found: entry and file.
        device: `cpu` or `cuda`.
        threads: CPU threads of one call.
        lineage: of the weights.

    Raises:
        ModelError: see `OnnxSession`; or the output is not (n, classes), or not what `logits` says.
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
        self.classes, self.logits = entry.classes, bool(entry.output.logits)
        channels = 1 if entry.input.colour == "grey" else 3
        side = entry.input.size
        shape = (channels, side, side) if entry.input.layout == "nchw" else (side, side, channels)
        self._session = OnnxSession(found.path, device, threads, shape)
        self.provider = self._session.provider
        self.device = self._session.device
        self.chunk = CHUNK[f"onnx {self.device.type}"]
        crop = extract(torch.from_numpy(probe()), PROBE_FRAME, self.input.region, self.input.size)
        self._check_outputs(found, self._run(normalise(crop, self.input)))

    def _run(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        return self._session.run(batch)[0]


class TorchExpression(CropExpression):
    """A torch expression model; also differentiable. Arguments as in `OnnxExpression`, less `threads`."""

    def __init__(self, found: Found, device: str | torch.device = "cpu", lineage: frozenset[str] = frozenset()) -> None:
        import torch

        entry = found.entry
        self.name, self.input, self.lineage = entry.name, entry.spec, lineage or frozenset({entry.name})
        self.classes, self.logits = entry.classes, bool(entry.output.logits)
        self.device = torch.device(device)
        self.chunk = CHUNK[f"torch {self.device.type}"]
        self.provider = f"torch {self.device}"
        self.network = load_network(found).to(self.device)
        crop = extract(torch.from_numpy(probe()).to(self.device), PROBE_FRAME, self.input.region, self.input.size)
        self._check_outputs(found, self._run(normalise(crop, self.input)))

    def _run(self, batch: torch.Tensor) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            answer: npt.NDArray[np.float32] = self.network(batch).float().cpu().numpy()
        return answer

    def differentiable(self, frame: Frame) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """(n, 3, S, S) float crops in [0, 1] in `frame` -> (logits (n, 7) in the order of `EXPRESSIONS`, features (n, F)), with gradients.

        Features are what the last linear layer sees. Probabilities of a network that ends with softmax are turned into log-probabilities.
        """
        call = with_features(self.network)
        order = class_order(self.classes)

        def classify(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output, features = call(network_input(images, frame, self.input))
            output = output if self.logits else output.clamp_min(1e-12).log()
            return output[:, order], features.flatten(1)

        return classify


def load_expression(
    found: Found,
    device: str | torch.device = "cpu",
    threads: int | None = 1,
    lineage: frozenset[str] = frozenset(),
) -> CropExpression:
    """The adapter that fits the file; its known answer is checked if the zoo has one.

    Raises:
        ModelError: anything wrong with the file, or another answer to the probe image than the stored one.
    """
    import torch

    model: CropExpression
    if found.entry.format == "onnx":
        model = OnnxExpression(found, device, threads, lineage)
    else:
        model = TorchExpression(found, device, lineage)
    check_answer(found, model.probabilities(torch.from_numpy(probe()), PROBE_FRAME)[0])
    return model
