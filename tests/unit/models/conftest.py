"""Tiny networks and entries for the tests of the models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from raysweep.models.entry import Entry
from raysweep.models.zoo import Found


def tiny_onnx(
    path: Path,
    outputs: int = 4,
    channels: int = 3,
    side: int = 8,
    batch: int | str = "n",
    softmax: bool = False,
    seed: int = 0,
) -> Path:
    """A linear map of all pixels: sensitive to layout, colour order and normalisation."""
    weight = np.random.default_rng(seed).standard_normal((channels * side * side, outputs)).astype(np.float32)
    weight /= np.sqrt(len(weight))
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["y" if not softmax else "raw"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["raw"], ["y"], axis=1))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, outputs])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def entry_of(name: str = "mine", **fields: Any) -> Entry:
    base: dict[str, Any] = {
        "name": name,
        "task": "embedder",
        "file": f"{name}.onnx",
        "licence": "MIT",
        "format": "onnx",
        "input": {"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]},
    }
    return Entry.model_validate(base | fields)


def found_of(path: Path, **fields: Any) -> Found:
    return Found(entry_of(file=path.name, **fields), path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def make_onnx() -> Callable[..., Path]:
    return tiny_onnx


@pytest.fixture
def make_found() -> Callable[..., Found]:
    return found_of


@pytest.fixture
def write_models_yaml() -> Callable[[Path, list[dict[str, Any]]], Path]:
    def write(folder: Path, entries: list[dict[str, Any]]) -> Path:
        path = folder / "models.yaml"
        path.write_text(yaml.safe_dump({"entries": entries}))
        return path

    return write


@pytest.fixture
def external_onnx() -> Callable[[Path, str], Path]:
    """An ONNX file whose weight says that it lies in another file."""

    def make(path: Path, location: str) -> Path:
        tiny_onnx(path)
        model = onnx.load(str(path))
        tensor = model.graph.initializer[0]
        raw = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("length", str(len(raw)))):
            item = tensor.external_data.add()
            item.key, item.value = key, value
        path.write_bytes(model.SerializeToString())
        return path

    return make
