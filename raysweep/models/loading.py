"""Open weight files without trusting them: ONNX sessions, safetensors, torch state dicts. Nothing here can run code from a file."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from raysweep.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import nn

__all__ = [
    "OnnxSession",
    "check_header",
    "file_digest",
    "load_into",
    "onnx_external_paths",
    "read_container",
    "read_header",
    "read_state",
    "tensors_of",
]

log = logging.getLogger(__name__)

MAX_HEADER = 16 * 2**20
"""Bytes of a safetensors header; the largest we know of has 0.3 MiB."""

PLAIN_DICTIONARIES = (
    "argparse.Namespace",
    "easydict.EasyDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
"""Classes in which training frameworks keep settings beside the weights. Read as ordered dictionaries, they hold data and can do nothing."""


def file_digest(path: Path) -> str:
    """sha256 of a file, hexadecimal; remembered per process as long as size and time stamp stay the same."""
    state = path.stat()
    return _digest(str(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest(path: str, _size: int, _mtime: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------- safetensors


def read_header(path: Path) -> dict[str, Any]:
    """The checked header of a safetensors file, `__metadata__` included.

    Raises:
        ModelError: header larger than `MAX_HEADER` or than the file, not JSON, tensors that overlap, leave gaps or end elsewhere than the file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(MAX_HEADER, size - 8):
            raise ModelError(f"{path}: not a safetensors file (header of {length} bytes in a file of {size})")
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:
        raise ModelError(f"{path}: the safetensors header is not JSON: {error}") from error
    check_header(header, size - 8 - length, str(path))
    return dict(header)


def check_header(header: object, payload: int, where: str) -> None:
    """Tensors lie side by side and fill the payload exactly.

    Args:
        header: the decoded JSON.
        payload: bytes after the header.
        where: for the message.

    Raises:
        ModelError: names the first tensor that breaks the rule.
    """
    if not isinstance(header, dict):
        raise ModelError(f"{where}: the safetensors header is not an object")
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(item) is int for item in offsets)):
            raise ModelError(f"{where}: tensor {name!r} has no valid data_offsets")
        spans.append((offsets[0], offsets[1], name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end or stop < start:
            raise ModelError(
                f"{where}: tensor {name!r} at {start}..{stop} overlaps or leaves a gap (expected to start at {end})"
            )
        end = stop
    if end != payload:
        raise ModelError(f"{where}: the tensors end at byte {end} of {payload}: truncated or padded file")


def read_container(path: Path) -> tuple[Any, dict[str, str]]:
    """What a .safetensors, .pt, .pth or .ckpt file holds, on the CPU, and the metadata of a safetensors header.

    Dictionary classes of other packages (`PLAIN_DICTIONARIES`) come out as ordered dictionaries; nothing of those packages is imported.
    Tensors of a zip-format file are memory-mapped: a checkpoint with the optimizer inside costs memory only for what is copied out of it.

    Args:
        path: the file.

    Returns:
        A state dict, or whatever nesting of dictionaries, lists, numbers, text and tensors was saved; and the metadata, `{}` where there is none.

    Raises:
        ModelError: missing, damaged, or more than tensors (a pickle that wants to build other objects is refused, never run).
    """
    import torch

    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        metadata = dict(read_header(path).get("__metadata__") or {})
        try:
            return load_file(str(path), device="cpu"), metadata
        except (SafetensorError, OSError, KeyError) as error:
            raise ModelError(f"{path}: cannot be read as safetensors: {error}") from error
    plain = [(OrderedDict, name) for name in PLAIN_DICTIONARIES]
    try:
        with torch.serialization.safe_globals([*plain, (_path_text, "pathlib.PosixPath")]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # the unpickler raises many kinds; all mean the same to the user
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"{path}: refused: it is not a plain file of tensors ({reason}). "
            "Only weights that load with weights_only=True are used; save the state dict alone, or convert it to safetensors."
        ) from error
    return loaded, {}


def _path_text(*parts: str) -> str:
    """Stands in for a path that somebody's checkpoint remembers."""
    return "/".join(parts)


def read_state(path: Path, key: str | None = None, prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors of a .safetensors, .pt, .pth or .ckpt file on the CPU, and the metadata of a safetensors header.

    Args:
        path: the file.
        key: entry of the checkpoint that holds the state dict, None when the file is the state dict.
        prefix: take only names that start so, and strip it.

    Raises:
        ModelError: see `read_container`; no such entry, no tensors, or something else than tensors among them.
    """
    loaded, metadata = read_container(path)
    if key is not None:
        if not isinstance(loaded, Mapping) or key not in loaded:
            raise ModelError(f"{path}: the checkpoint has no entry {key!r}; it has {_names(loaded)}")
        loaded = loaded[key]
    return tensors_of(loaded, path, prefix), metadata


def tensors_of(content: object, path: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a state dict whose name starts with `prefix`, which is stripped.

    Raises:
        ModelError: not a mapping of names to tensors, or none of that prefix.
    """
    import torch

    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a state dict")
    state = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ModelError(
                f"{path}: entry {name!r} is a {type(value).__name__}, not a tensor; name the entry of the weights with `key:`"
            )
        if name.startswith(prefix):
            state[name.removeprefix(prefix)] = value
    if not state:
        raise ModelError(f"{path}: no tensors{f' whose name starts with {prefix!r}' if prefix else ''}")
    return state


def _names(loaded: object) -> str:
    return ", ".join(sorted(map(str, loaded))[:8]) if isinstance(loaded, Mapping) else type(loaded).__name__


def load_into(network: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> nn.Module:
    """Load strictly, float32, evaluation mode, no gradients for the weights.

    Raises:
        ModelError: names the first key that is missing, unexpected or of another shape, and how many there are; or values not finite.
    """
    import torch

    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in wanted]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, the network has {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    for what, found in (("missing", missing), ("of another shape", shapes), ("unexpected", surplus)):
        if found:
            raise ModelError(f"{where}: weights of another architecture: {len(found)} {what}, first: {found[0]}")
    values = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    for key, value in values.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{where}: {key} holds NaN or infinity")
    network.load_state_dict(values, strict=False)  # strict but for the counters checked above
    return network.eval().requires_grad_(False)


# --------------------------------------------------------------------------- ONNX


def onnx_external_paths(model: Any) -> Iterator[str]:
    """`location` of every tensor that an ONNX model keeps in another file, sub-graphs and functions included."""

    def tensors(graph: Any) -> Iterator[Any]:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        yield from of_nodes(graph.node)

    def of_nodes(nodes: Any) -> Iterator[Any]:
        for node in nodes:
            for attribute in node.attribute:
                yield attribute.t
                yield from attribute.tensors
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield sparse.values
                    yield sparse.indices
                for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                    yield from tensors(graph)

    def everything() -> Iterator[Any]:
        yield from tensors(model.graph)
        for function in model.functions:
            yield from of_nodes(function.node)

    for tensor in everything():
        for item in tensor.external_data:
            if item.key == "location":
                yield item.value


def _check_external(model: Any, path: Path) -> bool:
    """Whether the model keeps tensors in other files; those must lie in its own folder."""
    folder = path.resolve().parent
    external = False
    for location in set(onnx_external_paths(model)):
        external = True
        plain = PurePosixPath(location)
        inside = (
            not plain.is_absolute()
            and ".." not in plain.parts
            and not PureWindowsPath(location).drive
            and "\\" not in location
        )
        if not inside or not (folder / location).resolve().is_relative_to(folder):
            raise ModelError(f"{path}: refused: it wants to read {location!r}, outside its own folder")
        if not (folder / location).is_file():
            raise ModelError(f"{path}: its tensors lie in {location!r}, which is not in {folder}")
    return external


class OnnxSession:
    """An ONNX network with one image input, run on CUDA when asked for and present, else on the CPU.

    Args:
        path: the file.
        device: `cpu`, `cuda` or `cuda:1`.
        threads: threads of one call; None for one per core.
        shape: (channels, height, width) or (height, width, channels) that will be fed; checked against the file. None: not checked.

    Attributes:
        provider: the active execution provider (`CUDAExecutionProvider`, `CPUExecutionProvider`).
        device: where input should lie, by the active provider.
        batch: batch size fixed by the file, None when any.
        outputs: (name, shape) of each output; None where the file leaves a size open.

    Raises:
        ModelError: damaged, wants files outside its folder, not one input, or an input of another shape.
    """

    def __init__(
        self,
        path: Path,
        device: str | torch.device = "cpu",
        threads: int | None = 1,
        shape: tuple[int, int, int] | None = None,
    ) -> None:
        import torch

        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ModelError(f"{path}: ONNX files need the packages onnx and onnxruntime: {error}") from error
        if not path.is_file():
            raise ModelError(f"{path}: no such file")
        content = path.read_bytes()
        try:
            model = onnx.load_model_from_string(content)
        except Exception as error:  # protobuf's DecodeError has no stable home
            raise ModelError(f"{path}: not an ONNX file: {error}") from error
        if not model.HasField("graph") or not model.graph.node:
            raise ModelError(f"{path}: not an ONNX file: it holds no network")
        external = _check_external(model, path)
        del model

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.inter_op_num_threads = 1
        if threads is not None:
            options.intra_op_num_threads = threads
        # Threads that wait must not burn the core of the next worker.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = ["CPUExecutionProvider"]
        kind, _, index = str(device).partition(":")
        if kind == "cuda":
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                if hasattr(onnxruntime, "preload_dlls"):
                    onnxruntime.preload_dlls()  # the CUDA libraries that torch brought
                cuda = {"device_id": int(index or 0), "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": 0}
                providers.insert(0, ("CUDAExecutionProvider", cuda))
        elif kind != "cpu":
            log.warning("%s: onnxruntime has no provider for %s here, running on the CPU", path.name, device)
        try:
            # Bytes that were checked, not the path again; a path is needed only where tensors lie beside the file.
            self._session = onnxruntime.InferenceSession(
                str(path) if external else content, options, providers=providers
            )
        except Exception as error:  # onnxruntime's own exception classes share no base but Exception
            raise ModelError(f"{path}: onnxruntime cannot run it: {str(error).splitlines()[0]}") from error
        self.provider: str = self._session.get_providers()[0]
        if kind == "cuda" and self.provider != "CUDAExecutionProvider":
            log.warning(
                "%s: CUDA asked for, but onnxruntime runs on %s; see `raysweep doctor`", path.name, self.provider
            )
        self.device_id = int(index or 0)
        on_cuda = self.provider == "CUDAExecutionProvider"
        self.device = torch.device("cuda", self.device_id) if on_cuda else torch.device("cpu")
        self.path = path
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            found = "; ".join(f"{item.name} {item.type} {item.shape}" for item in inputs)
            raise ModelError(f"{path}: expected one float image input of four dimensions, it has {found}")
        self._input: str = inputs[0].name
        fixed = [item if isinstance(item, int) and item > 0 else None for item in inputs[0].shape]
        if shape is not None:
            for axis, (here, wanted) in enumerate(zip(fixed[1:], shape, strict=True), start=1):
                if here is not None and here != wanted:
                    raise ModelError(
                        f"{path}: axis {axis} of its input is {here}, the input specification says {wanted} "
                        f"(the file wants {inputs[0].shape}): wrong size, layout or colour in the entry"
                    )
        self.batch = fixed[0]
        self.outputs: tuple[tuple[str, tuple[int | None, ...]], ...] = tuple(
            (item.name, tuple(size if isinstance(size, int) and size > 0 else None for size in item.shape))
            for item in self._session.get_outputs()
        )

    def run(self, batch: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        """Float32 (n, ...) on any device -> every output as an array; a fixed batch size is served by padding and looping."""
        import numpy as np

        if self.batch is None:
            return self._once(batch)
        parts = [
            self._once(self._filled(batch[start : start + self.batch])) for start in range(0, len(batch), self.batch)
        ]
        return [np.concatenate(column)[: len(batch)] for column in zip(*parts, strict=True)]

    def _filled(self, part: torch.Tensor) -> torch.Tensor:
        import torch

        short = (self.batch or 0) - len(part)
        return part if short <= 0 else torch.cat([part, part.new_zeros((short, *part.shape[1:]))])

    def _once(self, batch: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        import numpy as np

        batch = batch.contiguous()
        if batch.is_cuda and self.provider == "CUDAExecutionProvider" and batch.device.index == self.device_id:
            import torch

            torch.cuda.current_stream(batch.device).synchronize()  # onnxruntime computes on a stream of its own
            binding = self._session.io_binding()
            binding.bind_input(self._input, "cuda", self.device_id, np.float32, tuple(batch.shape), batch.data_ptr())
            for name, _ in self.outputs:
                binding.bind_output(name)
            self._session.run_with_iobinding(binding)
            return list(binding.copy_outputs_to_cpu())
        return list(self._session.run(None, {self._input: batch.cpu().numpy()}))
