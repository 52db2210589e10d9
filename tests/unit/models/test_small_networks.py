"""The small networks: shapes, gradients, batch independence, loading, refusals."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from raysweep.errors import ModelError
from raysweep.models.small import SmallEmbedder, SmallExpressionNet, build_small, load_small


@pytest.mark.parametrize("block", ["residual", "depthwise"])
@pytest.mark.parametrize("size", [56, 112, 160])
def test_embedder_gives_unit_rows_at_any_size(block, size):
    network = build_small("small-embedder", {"dim": 32, "width": 8, "block": block, "side": 56})
    out = network(torch.rand(3, 3, size, size) * 2 - 1)
    assert out.shape == (3, 32)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(3))


def test_expression_net_classifies_its_features():
    network = build_small("small-expression", {"width": 8, "hidden": 24})
    assert isinstance(network, SmallExpressionNet)
    faces = torch.rand(2, 3, 112, 112)
    features = network.features(faces)
    assert features.shape == (2, 24)
    assert (features >= 0).all()
    torch.testing.assert_close(network(faces), network.classify(features))
    assert network(faces).shape == (2, 7)


@pytest.mark.parametrize("name", ["small-embedder", "small-expression"])
def test_gradients_reach_every_pixel(name):
    network = build_small(name, {"width": 16}).train()
    faces = torch.rand(8, 3, 112, 112, requires_grad=True)
    network(faces)[:, 0].square().sum().backward()
    assert (faces.grad.abs().sum(dim=(0, 1)) > 0).float().mean() > 0.99


def test_a_face_alone_or_in_a_batch_gives_the_same_row():
    network = build_small("small-embedder", {"width": 8})
    faces = torch.rand(5, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(network(faces)[3:4], network(faces[3:4]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("small-embeder", {}, "small-embedder"),
        ("small-embedder", {"colour": 3}, "colour"),
        ("small-embedder", {"block": "residul"}, "residual"),
        ("small-expression", {"side": 50}, "multiple of 8"),
    ],
)
def test_what_cannot_be_built_is_refused(name, kwargs, message):
    with pytest.raises(ModelError, match=message):
        build_small(name, kwargs)


def test_save_and_load(tmp_path):
    kwargs = {"dim": 16, "width": 8}
    network = SmallEmbedder(**kwargs).eval()
    path = tmp_path / "net.safetensors"
    save_file(
        network.state_dict(), path, {"architecture": "small-embedder", "kwargs": json.dumps(kwargs), "name": "net"}
    )
    loaded, metadata = load_small(path)
    faces = torch.rand(2, 3, 112, 112)
    torch.testing.assert_close(loaded(faces), network(faces))
    assert metadata["name"] == "net"
    assert not loaded.training


def test_unfit_files_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(ModelError, match="cannot be read"):
        load_small(path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(ModelError, match="cannot be read"):
        load_small(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ModelError, match="architecture"):
        load_small(path)
    save_file({"a": torch.ones(2)}, path, {"architecture": "small-embedder", "kwargs": "{}"})
    with pytest.raises(ModelError, match="do not fit"):
        load_small(path)
