from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from raysweep.errors import ModelError
from raysweep.models.architectures import MobileFaceNet, build, with_features
from raysweep.models.loading import OnnxSession, file_digest, load_into, read_header, read_state


class _Marker:
    """A pickle that would create a file if it ever ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch {self.path}",)


def raw_safetensors(path: Path, header: object, payload: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + payload)
    return path


def tensor(start: int, stop: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]}


class TestSafetensors:
    def test_round_trip_with_metadata(self, tmp_path: Path) -> None:
        save_file({"w": torch.arange(6.0)}, str(tmp_path / "a.safetensors"), {"architecture": "x"})
        state, metadata = read_state(tmp_path / "a.safetensors")
        assert torch.equal(state["w"], torch.arange(6.0))
        assert metadata == {"architecture": "x"}

    @pytest.mark.parametrize(
        ("header", "payload", "message"),
        [
            ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, "'b' at 4..12 overlaps"),
            ({"a": tensor(0, 4), "b": tensor(8, 12)}, 12, "leaves a gap"),
            ({"a": tensor(0, 8)}, 4, "end at byte 8 of 4"),
            ({"a": tensor(0, 4)}, 400, "end at byte 4 of 400"),
            ({"a": {"dtype": "F32"}}, 0, "no valid data_offsets"),
            ([1], 0, "not an object"),
        ],
    )
    def test_crafted_headers_are_refused(self, tmp_path: Path, header: object, payload: int, message: str) -> None:
        path = raw_safetensors(tmp_path / "a.safetensors", header, bytes(payload))
        with pytest.raises(ModelError, match=message):
            read_state(path)

    def test_a_huge_header_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
        with pytest.raises(ModelError, match="header of 1099511627776 bytes"):
            read_header(path)

    @pytest.mark.parametrize("content", [b"", b"abc", b"\x05\0\0\0\0\0\0\0hello"])
    def test_noise_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.safetensors"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="safetensors"):
            read_state(path)


class TestTorchFiles:
    def test_a_pickle_that_runs_code_is_refused_and_never_run(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        torch.save({"w": _Marker(marker)}, tmp_path / "evil.pt")
        (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Marker(marker)))
        for name in ("evil.pt", "plain.pt"):
            with pytest.raises(ModelError, match="not a plain file of tensors"):
                read_state(tmp_path / name)
        assert not marker.exists()

    def test_key_and_prefix(self, tmp_path: Path) -> None:
        torch.save(
            {"state_dict": {"generator.w": torch.ones(2), "other.w": torch.zeros(2)}, "epoch": 3}, tmp_path / "a.ckpt"
        )
        state, _ = read_state(tmp_path / "a.ckpt", key="state_dict", prefix="generator.")
        assert list(state) == ["w"]
        with pytest.raises(ModelError, match="no entry 'weights'; it has epoch, state_dict"):
            read_state(tmp_path / "a.ckpt", key="weights")
        with pytest.raises(ModelError, match="name the entry of the weights"):
            read_state(tmp_path / "a.ckpt")
        with pytest.raises(ModelError, match=r"starts with 'decoder.'"):
            read_state(tmp_path / "a.ckpt", key="state_dict", prefix="decoder.")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no such file"):
            read_state(tmp_path / "none.pt")


class TestLoadInto:
    def network(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))

    def test_half_precision_becomes_float_without_gradients(self) -> None:
        state = {k: v.half() if v.is_floating_point() else v for k, v in self.network().state_dict().items()}
        loaded = load_into(self.network(), state, "x")
        assert not loaded.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("0.weight"), "1 missing, first: 0.weight"),
            (lambda s: s.update(extra=torch.ones(1)), "1 unexpected, first: extra"),
            (
                lambda s: s.update({"0.weight": torch.ones(3, 3)}),
                r"first: 0.weight is \(3, 3\), the network has \(2, 3\)",
            ),
            (lambda s: s["0.weight"].fill_(float("nan")), "0.weight holds NaN"),
        ],
    )
    def test_the_first_mismatch_is_named(
        self, change: Callable[[dict[str, torch.Tensor]], object], message: str
    ) -> None:
        state = {k: v.clone() for k, v in self.network().state_dict().items()}
        change(state)
        with pytest.raises(ModelError, match=message):
            load_into(self.network(), state, "x")


class TestArchitectures:
    def test_unknown_name_has_a_hint(self) -> None:
        with pytest.raises(ModelError, match="did you mean 'mobilefacenet'"):
            build("mobilfacenet", {})

    def test_unknown_argument(self) -> None:
        with pytest.raises(ModelError, match="cannot be built"):
            build("resnet18-7", {"depth": 4})

    def test_mobilefacenet_has_the_public_shape(self) -> None:
        network = MobileFaceNet().eval()
        assert len(network.state_dict()) == 307  # as counted in the public file
        assert network(torch.zeros(2, 3, 112, 112)).shape == (2, 128)

    def test_features_are_what_the_last_linear_layer_sees(self) -> None:
        network = build("resnet18-7", {})
        logits, features = with_features(network)(torch.zeros(2, 3, 64, 64))
        assert features.shape == (2, 512)
        assert torch.allclose(network.fc(features), logits)


class TestOnnx:
    def test_runs_and_serves_a_fixed_batch_by_padding(self, tmp_path: Path, make_onnx: Callable[..., Path]) -> None:
        x = torch.rand(5, 3, 8, 8)
        free = OnnxSession(make_onnx(tmp_path / "free.onnx"), shape=(3, 8, 8))
        fixed = OnnxSession(make_onnx(tmp_path / "fixed.onnx", batch=2), shape=(3, 8, 8))
        assert (free.batch, fixed.batch) == (None, 2)
        assert free.provider == "CPUExecutionProvider"
        np.testing.assert_allclose(fixed.run(x)[0], free.run(x)[0], atol=1e-6)
        assert fixed.run(x)[0].shape == (5, 4)

    def test_another_input_shape_is_refused(self, tmp_path: Path, make_onnx: Callable[..., Path]) -> None:
        path = make_onnx(tmp_path / "a.onnx")
        with pytest.raises(ModelError, match="axis 2 of its input is 8, the input specification says 112"):
            OnnxSession(path, shape=(3, 112, 112))
        with pytest.raises(ModelError, match="axis 1 of its input is 3, the input specification says 1"):
            OnnxSession(path, shape=(1, 8, 8))

    @pytest.mark.parametrize(
        "location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "..\\secret.bin", "C:\\x"]
    )
    def test_external_data_outside_the_folder_is_refused(
        self, tmp_path: Path, external_onnx: Callable[[Path, str], Path], location: str
    ) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        (tmp_path / "secret.bin").write_bytes(bytes(4 * 3 * 64 * 4))
        with pytest.raises(ModelError, match="outside its own folder"):
            OnnxSession(external_onnx(inner / "a.onnx", location))

    def test_a_link_that_leads_out_is_refused(self, tmp_path: Path, external_onnx: Callable[[Path, str], Path]) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        (tmp_path / "secret.bin").write_bytes(bytes(3072))
        (inner / "w.bin").symlink_to(tmp_path / "secret.bin")
        with pytest.raises(ModelError, match="outside its own folder"):
            OnnxSession(external_onnx(inner / "a.onnx", "w.bin"))

    def test_external_data_beside_the_file_is_read(
        self, tmp_path: Path, external_onnx: Callable[[Path, str], Path]
    ) -> None:
        path = external_onnx(tmp_path / "a.onnx", "w.bin")
        with pytest.raises(ModelError, match=r"'w.bin', which is not in"):
            OnnxSession(path)
        (tmp_path / "w.bin").write_bytes(np.ones((192, 4), np.float32).tobytes())
        np.testing.assert_allclose(OnnxSession(path).run(torch.ones(1, 3, 8, 8))[0], 192)

    def test_external_data_hidden_in_a_node_is_found(self, tmp_path: Path) -> None:
        value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
        value.ClearField("float_data")
        value.data_location = TensorProto.EXTERNAL
        item = value.external_data.add()
        item.key, item.value = "location", "../x"
        inner = helper.make_graph(
            [helper.make_node("Constant", [], ["c"], value=value)],
            "g",
            [],
            [helper.make_tensor_value_info("c", 1, [1])],
        )
        node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        graph = helper.make_graph(
            [node], "t", [helper.make_tensor_value_info("x", 9, [1])], [helper.make_tensor_value_info("y", 1, [1])]
        )
        (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
        with pytest.raises(ModelError, match="outside its own folder"):
            OnnxSession(tmp_path / "a.onnx")

    @pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x07"])
    def test_noise_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ModelError, match="not an ONNX file"):
            OnnxSession(tmp_path / "a.onnx")

    def test_a_truncated_network_is_refused(self, tmp_path: Path, make_onnx: Callable[..., Path]) -> None:
        path = make_onnx(tmp_path / "a.onnx")
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ModelError, match=r"a.onnx"):
            OnnxSession(path)

    def test_two_inputs_are_refused(self, tmp_path: Path) -> None:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in ("a", "b", "c")]
        graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", values[:2], values[2:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(tmp_path / "a.onnx"))
        with pytest.raises(ModelError, match="expected one float image input"):
            OnnxSession(tmp_path / "a.onnx")


def test_the_digest_follows_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = file_digest(path)
    path.write_bytes(b"three")
    assert file_digest(path) != first
