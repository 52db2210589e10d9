"""onnxruntime sessions of the preprocessing networks: quiet, with a stated number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raysweep.errors import ModelError

__all__ = ["CPU", "open_session"]

CPU: tuple[str, ...] = ("CPUExecutionProvider",)


def open_session(path: Path, providers: Sequence[str], threads: int) -> Any:
    """A quiet onnxruntime session.

    Raises:
        ModelError: no such file, or not a usable ONNX file.
    """
    import onnxruntime

    if not path.is_file():
        raise ModelError(f"{path}: no such model file; `raysweep models fetch` names what is missing")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime raises its own classes, which have no common public base
        raise ModelError(f"{path}: not a usable ONNX file ({str(error).splitlines()[0]})") from error
