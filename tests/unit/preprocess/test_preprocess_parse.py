from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from raysweep.errors import ModelError
from raysweep.preprocess.parse import BiSeNet, OnnxParser, TorchParser, load_bisenet, open_parser


@pytest.fixture(scope="module")
def network() -> BiSeNet:
    torch.manual_seed(0)
    return BiSeNet().eval()


def test_key_names_are_the_public_ones(network: BiSeNet) -> None:
    state = network.state_dict()
    shapes = {
        "cp.resnet.conv1.weight": (64, 3, 7, 7),
        "cp.resnet.layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "cp.resnet.layer4.1.bn2.running_var": (512,),
        "cp.arm16.conv.conv.weight": (128, 256, 3, 3),
        "cp.arm32.conv_atten.weight": (128, 128, 1, 1),
        "cp.arm32.bn_atten.num_batches_tracked": (),
        "cp.conv_head16.bn.bias": (128,),
        "cp.conv_avg.conv.weight": (128, 512, 1, 1),
        "ffm.convblk.conv.weight": (256, 256, 1, 1),
        "ffm.conv1.weight": (64, 256, 1, 1),
        "conv_out.conv_out.weight": (19, 256, 1, 1),
        "conv_out16.conv.conv.weight": (64, 128, 3, 3),
        "conv_out32.conv_out.weight": (19, 64, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert {name.split(".")[0] for name in state} == {"cp", "ffm", "conv_out", "conv_out16", "conv_out32"}
    # ResNet-18 without its classifier has 120 tensors; 10 further blocks of conv + norm (6), 2 gates with norm (6), 2 gates, 3 outputs.
    assert len(state) == 120 + 10 * 6 + 2 * 6 + 2 + 3 - 6


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_come_back(network: BiSeNet, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"79999_iter.{ending}"
    if ending == "pth":
        torch.save(network.state_dict(), path)
    else:
        save_file(network.state_dict(), path)
    loaded = load_bisenet(path)
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        got, want = loaded(x), network(x)
    assert got.shape == (1, 19, 64, 96)
    assert torch.equal(got, want)


def test_a_batch_is_its_images(network: BiSeNet) -> None:
    rng = np.random.default_rng(1)
    heads = rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    parser = TorchParser(network)
    got = parser.parse(heads)
    assert got.shape == (2, 128, 128)
    assert got.dtype == np.uint8
    assert got.max() < 19
    np.testing.assert_array_equal(got[1:], parser.parse(heads[1:]))
    assert parser.parse(heads[:0]).shape == (0, 128, 128)


def test_wrong_files_have_a_message(network: BiSeNet, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no face parsing weights"):
        open_parser(tmp_path / "79999_iter.pth")
    state = network.state_dict()
    del state["ffm.conv1.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ModelError, match=r"ffm\.conv1\.weight"):
        open_parser(tmp_path / "short.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ModelError, match="cannot be read as plain weights"):
        open_parser(tmp_path / "page.pth")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"cp": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="cannot be read as plain weights"):
        open_parser(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_an_onnx_file_gives_the_same_labels(network: BiSeNet, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "parse.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 512, 512),), str(path), dynamo=False, opset_version=17)
    heads = np.random.default_rng(1).integers(0, 256, (1, 512, 512, 3), dtype=np.uint8)
    got = OnnxParser(path).parse(heads)
    assert (got == TorchParser(network).parse(heads)).mean() > 0.999
