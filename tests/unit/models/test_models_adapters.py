from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file
from scipy.special import softmax

from raysweep.anonymizers.base import Teachers
from raysweep.errors import ModelError
from raysweep.models.architectures import build
from raysweep.models.base import InputSpec
from raysweep.models.embedders import LEAST_COSINE, TorchEmbedder, check_answer, load_embedder, unit_rows
from raysweep.models.expression import TorchExpression, class_order, load_expression, to_probabilities
from raysweep.models.inputs import CHUNK, PROBE_FRAME, network_input, normalise, probe
from raysweep.models.measure import measure
from raysweep.models.teachers import check_lineage, teachers
from raysweep.models.zoo import Found, Zoo
from raysweep.schema import EXPRESSIONS, Frame

FRAME = Frame(size=24, margin=0)
SEVEN = list(EXPRESSIONS)
PROBE_SUM = 7398866  # of the drawing when it was made


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (CHUNK["onnx cpu"] + 3, 3, 24, 24), dtype=np.uint8)
    )


class TestInputs:
    def test_colour_order_mean_and_layout(self) -> None:
        crops = torch.tensor([[[[10.0]], [[20.0]], [[30.0]]]])
        spec = InputSpec(size=1, colour="bgr", mean=(1, 2, 3), std=(1, 2, 3))
        assert normalise(crops, spec).flatten().tolist() == [29.0, 9.0, pytest.approx(7 / 3)]
        assert normalise(crops, InputSpec(size=1, layout="nhwc")).shape == (1, 1, 1, 3)
        grey = normalise(crops, InputSpec(size=1, colour="grey", mean=(0.0,), std=(1.0,)))
        assert grey.item() == pytest.approx(0.299 * 10 + 0.587 * 20 + 0.114 * 30)

    def test_bytes_and_floats_are_fed_alike(self, images: torch.Tensor) -> None:
        spec = InputSpec(size=112, region=(0, 0, 112, 112))
        same = network_input(images, FRAME, spec) - network_input(images.float() / 255, FRAME, spec)
        assert same.abs().max() <= 0.5 / 127.5 + 1e-5  # uint8 is rounded once after resampling

    def test_the_probe_is_the_same_everywhere(self) -> None:
        image = probe()
        assert image.shape == (1, 3, PROBE_FRAME.size, PROBE_FRAME.size)
        assert int(image.astype(np.int64).sum()) == PROBE_SUM


class TestUnitRows:
    @given(
        hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(-1e6, 1e6, width=32))
    )
    def test_length_one_or_zero(self, rows: np.ndarray) -> None:
        lengths = np.linalg.norm(unit_rows(rows), axis=1)
        assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0))

    def test_what_cannot_be_embedded_is_zero(self) -> None:
        rows = unit_rows([[0, 0], [np.nan, 1], [np.inf, 1], [3, 4]])
        np.testing.assert_allclose(rows, [[0, 0], [0, 0], [0, 0], [0.6, 0.8]], atol=1e-7)


class TestProbabilities:
    def test_orders_are_mapped(self) -> None:
        classes = ["neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"]
        given_row = [[0.1, 0.2, 0.3, 0.05, 0.15, 0.12, 0.08]]
        expected = dict(zip(classes, given_row[0], strict=True))
        np.testing.assert_allclose(
            to_probabilities(given_row, classes, False)[0], [expected[n] for n in SEVEN], atol=1e-6
        )
        assert [classes[index] for index in class_order(classes)] == SEVEN

    @given(hnp.arrays(np.float64, (4, 8), elements=st.floats(-30, 30)))
    def test_contempt_is_dropped_and_the_rest_renormalised(self, logits: np.ndarray) -> None:
        classes = ["angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
        eight = softmax(logits, axis=1)
        expected = np.stack([eight[:, classes.index(name)] for name in SEVEN], axis=1)
        left = expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(to_probabilities(logits, classes, True), expected / left, atol=1e-5)

    def test_a_row_that_is_not_finite_becomes_uniform(self) -> None:
        rows = np.zeros((3, 7))
        rows[0, 2], rows[1] = np.nan, 1 / 7
        for logits in (True, False):
            np.testing.assert_allclose(to_probabilities(rows, SEVEN, logits), 1 / 7, atol=1e-6)


class TestOnnxAdapters:
    def test_embedder(
        self, tmp_path: Path, images: torch.Tensor, make_onnx: Callable[..., Path], make_found: Callable[..., Found]
    ) -> None:
        model = load_embedder(make_found(make_onnx(tmp_path / "a.onnx")))
        rows = model.embed(images, FRAME)
        assert (model.dim, model.provider, rows.dtype, rows.shape) == (
            4,
            "CPUExecutionProvider",
            np.float32,
            (len(images), 4),
        )
        alone = np.concatenate([model.embed(images[i : i + 1], FRAME) for i in range(len(images))])
        np.testing.assert_allclose(rows, alone, atol=1e-6)
        assert model.embed(images[:0], FRAME).shape == (0, 4)

    def test_equal_faces_give_equal_rows(
        self, tmp_path: Path, images: torch.Tensor, make_onnx: Callable[..., Path], make_found: Callable[..., Found]
    ) -> None:
        model = load_embedder(make_found(make_onnx(tmp_path / "a.onnx")))
        rows = model.embed(images[:1].expand(len(images), -1, -1, -1), FRAME)
        assert (rows == rows[0]).all()

    def test_another_dimension_is_refused(
        self, tmp_path: Path, make_onnx: Callable[..., Path], make_found: Callable[..., Found]
    ) -> None:
        with pytest.raises(ModelError, match=r"its output is \(1, 4\), the entry mine says \(n, 512\)"):
            load_embedder(make_found(make_onnx(tmp_path / "a.onnx"), output={"dim": 512}))

    def test_the_known_answer_catches_a_wrong_colour_order(
        self, tmp_path: Path, make_onnx: Callable[..., Path], make_found: Callable[..., Found]
    ) -> None:
        path = make_onnx(tmp_path / "a.onnx", outputs=8)
        answer = load_embedder(make_found(path)).embed(torch.from_numpy(probe()), PROBE_FRAME)[0]
        good = {"check": [float(value) for value in answer]}
        load_embedder(make_found(path, **good))
        for wrong in ({"colour": "bgr"}, {"mean": [127.5] * 3}, {"region": [10, 10, 102, 102]}):
            spec = {"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]} | wrong
            with pytest.raises(ModelError, match="another answer to the probe image"):
                load_embedder(make_found(path, input=spec, **good))

    def test_expression_and_its_logits(
        self, tmp_path: Path, images: torch.Tensor, make_onnx: Callable[..., Path], make_found: Callable[..., Found]
    ) -> None:
        # Inputs of order 1, so that softmax inside the file does not saturate.
        common: dict[str, Any] = {"task": "expression", "classes": SEVEN, "input": {"size": 8, "std": [255, 255, 255]}}
        raw, soft = (
            make_onnx(tmp_path / "raw.onnx", outputs=7),
            make_onnx(tmp_path / "soft.onnx", outputs=7, softmax=True),
        )
        a = load_expression(make_found(raw, output={"logits": True}, **common)).probabilities(images, FRAME)
        b = load_expression(make_found(soft, output={"logits": False}, **common)).probabilities(images, FRAME)
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(a.sum(axis=1), 1, atol=1e-5)
        with pytest.raises(ModelError, match="no probabilities"):
            load_expression(make_found(raw, output={"logits": False}, **common))
        with pytest.raises(ModelError, match="probabilities already"):
            load_expression(make_found(soft, output={"logits": True}, **common))
        with pytest.raises(ModelError, match="names 7 classes"):
            load_expression(make_found(make_onnx(tmp_path / "b.onnx", outputs=8), output={"logits": True}, **common))

    def test_measure_cuts_once_and_agrees(
        self,
        tmp_path: Path,
        images: torch.Tensor,
        make_onnx: Callable[..., Path],
        make_found: Callable[..., Found],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        import raysweep.models.measure as module

        models = [load_embedder(make_found(make_onnx(tmp_path / f"{n}.onnx", seed=n), name=f"m{n}")) for n in range(3)]
        calls: list[int] = []
        original = module.extract
        monkeypatch.setattr(module, "extract", lambda *a: calls.append(1) or original(*a))
        embeddings, probabilities = measure(images, FRAME, models, [])
        assert len(calls) == 1
        assert probabilities == {}
        for model in models:
            np.testing.assert_array_equal(embeddings[model.name], model.embed(images, FRAME))


@pytest.fixture
def torch_files(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    who, how = tmp_path / "who.safetensors", tmp_path / "how.safetensors"
    save_file(
        build("small-embedder", {"width": 8, "dim": 16}).state_dict(),
        str(who),
        {"architecture": "small-embedder", "kwargs": '{"width": 8, "dim": 16}'},
    )
    save_file(
        build("small-expression", {"width": 8}).state_dict(),
        str(how),
        {"architecture": "small-expression", "kwargs": '{"width": 8}'},
    )
    return who, how


INPUT = {"size": 112}


class TestTorchAdapters:
    frame = Frame(size=128, margin=8)

    def faces(self, n: int = 3) -> torch.Tensor:
        return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (n, 3, 128, 128), dtype=np.uint8))

    def recogniser(self, path: Path, make_found: Callable[..., Found]) -> TorchEmbedder:
        embedder = load_embedder(make_found(path, format="safetensors", input=INPUT))
        assert isinstance(embedder, TorchEmbedder)
        return embedder

    def test_half_precision_is_used_where_it_changes_no_answer(
        self, torch_files: tuple[Path, Path], make_found: Callable[..., Found]
    ) -> None:
        embedder, faces = self.recogniser(torch_files[0], make_found), self.faces()
        full = embedder.embed(faces, self.frame)
        cosine = embedder.use_half(faces, self.frame)
        assert LEAST_COSINE <= cosine < 1 + 1e-6
        assert embedder.precision == "half"
        half = embedder.embed(faces, self.frame)
        assert (full * half).sum(axis=1).min() >= LEAST_COSINE
        assert not np.array_equal(full, half)
        images = (faces.float() / 255).requires_grad_()
        assert embedder.differentiable(self.frame)(images).dtype == torch.float32
        assert embedder.with_network(embedder.network).precision == "single"

    def test_single_precision_is_kept_where_half_would_change_the_answers(
        self, torch_files: tuple[Path, Path], make_found: Callable[..., Found]
    ) -> None:
        embedder, faces = self.recogniser(torch_files[0], make_found), self.faces()
        with torch.no_grad():  # beyond what half precision holds: its sums overflow
            for weights in embedder.network.parameters():
                weights.mul_(1e3)
        full = embedder.embed(faces, self.frame)
        assert np.isfinite(full).all()
        assert not embedder.use_half(faces, self.frame) >= LEAST_COSINE
        assert embedder.precision == "single"
        np.testing.assert_array_equal(embedder.embed(faces, self.frame), full)

    def test_gradients_reach_the_crops_and_values_agree(
        self, torch_files: tuple[Path, Path], make_found: Callable[..., Found]
    ) -> None:
        who, how = torch_files
        faces = self.faces()
        images = (faces.float() / 255).requires_grad_()
        embedder = load_embedder(make_found(who, format="safetensors", input=INPUT))
        assert isinstance(embedder, TorchEmbedder)
        embedded = embedder.differentiable(self.frame)(images)
        np.testing.assert_allclose(embedded.detach().numpy(), embedder.embed(faces, self.frame), atol=1e-4)
        embedded[:, 0].sum().backward()
        assert images.grad is not None
        assert images.grad[:, :, 8:120, 8:120].abs().sum() > 0
        assert images.grad[:, :, :8].abs().sum() == 0  # outside the region

        classes = ["neutral", *SEVEN[:-1]]
        model = load_expression(
            make_found(
                how, format="safetensors", task="expression", classes=classes, output={"logits": True}, input=INPUT
            )
        )
        assert isinstance(model, TorchExpression)
        images = (faces.float() / 255).requires_grad_()
        logits, features = model.differentiable(self.frame)(images)
        assert features.shape == (3, 64)
        np.testing.assert_allclose(
            logits.softmax(1).detach().numpy(), model.probabilities(faces, self.frame), atol=1e-4
        )
        logits.sum().backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0

    def test_equal_faces_give_equal_rows_in_any_batch(
        self, torch_files: tuple[Path, Path], make_found: Callable[..., Found]
    ) -> None:
        model = load_embedder(make_found(torch_files[0], format="safetensors", input=INPUT))
        face = self.faces(1)
        sizes = (1, 2, 7, CHUNK["torch cpu"], CHUNK["torch cpu"] + 1)
        rows = [row.tobytes() for n in sizes for row in model.embed(face.expand(n, -1, -1, -1), self.frame)]
        assert len(rows) == sum(sizes)
        assert len(set(rows)) == 1

    def test_no_header_and_no_architecture(self, tmp_path: Path, make_found: Callable[..., Found]) -> None:
        save_file({"w": torch.ones(1)}, str(tmp_path / "a.safetensors"))
        with pytest.raises(ModelError, match="neither the entry mine nor the header"):
            load_embedder(make_found(tmp_path / "a.safetensors", format="safetensors"))

    def test_weights_of_another_architecture(
        self, torch_files: tuple[Path, Path], make_found: Callable[..., Found]
    ) -> None:
        with pytest.raises(ModelError, match=r"weights of another architecture: .* first: conv1.0.weight"):
            load_embedder(make_found(torch_files[0], format="safetensors", architecture="mobilefacenet"))

    def test_onnx_cannot_teach(
        self, tmp_path: Path, make_onnx: Callable[..., Path], make_found: Callable[..., Found]
    ) -> None:
        with pytest.raises(ModelError, match="holds no torch network"):
            TorchEmbedder(make_found(make_onnx(tmp_path / "a.onnx")))


class TestTeachers:
    def zoo(
        self,
        tmp_path: Path,
        torch_files: tuple[Path, Path],
        make_onnx: Callable[..., Path],
        make_found: Callable[..., Found],
        **teacher: Any,
    ) -> Zoo:
        who, how = torch_files
        items = [
            make_found(who, name="who", format="safetensors", input=INPUT, **teacher),
            make_found(make_onnx(tmp_path / "judge.onnx"), name="judge"),
            make_found(
                how,
                name="how",
                format="safetensors",
                task="expression",
                classes=SEVEN,
                output={"logits": True},
                input=INPUT,
            ),
            make_found(
                make_onnx(tmp_path / "x.onnx", outputs=7),
                name="x",
                task="expression",
                classes=SEVEN,
                output={"logits": True},
            ),
        ]
        return Zoo(tmp_path, tuple(item.entry for item in items), {item.name: item for item in items})

    def test_a_reserved_zoo_teaches_and_judges_apart(
        self,
        tmp_path: Path,
        torch_files: tuple[Path, Path],
        make_onnx: Callable[..., Path],
        make_found: Callable[..., Found],
    ) -> None:
        zoo = self.zoo(tmp_path, torch_files, make_onnx, make_found).for_data(False)
        assert zoo.reserved == {"how"}
        teaching = teachers(zoo, "cpu", FRAME)
        assert teaching.identity is not None
        assert teaching.expression is not None
        assert teaching.lineage == {"who", "how"}
        assert {item.name for item in zoo.judges("embedder")} == {
            "judge",
            "who",
        }  # a teacher may attack, beside another
        assert [item.name for item in zoo.judges("expression")] == ["x"]
        check_lineage(teaching, zoo.expression_models())

    def test_without_reserve_all_judge_and_none_may_teach(
        self,
        tmp_path: Path,
        torch_files: tuple[Path, Path],
        make_onnx: Callable[..., Path],
        make_found: Callable[..., Found],
    ) -> None:
        zoo = self.zoo(tmp_path, torch_files, make_onnx, make_found).for_data(False, reserve=False)
        assert len(zoo.judges("embedder")) == 2
        with pytest.raises(ModelError, match="how would judge what"):
            teachers(zoo, "cpu", FRAME)
        assert teachers(zoo, "cpu", FRAME, identity=False, expression=False) == Teachers()

    def test_the_last_judge_does_not_teach(
        self,
        tmp_path: Path,
        torch_files: tuple[Path, Path],
        make_onnx: Callable[..., Path],
        make_found: Callable[..., Found],
    ) -> None:
        zoo = self.zoo(tmp_path, torch_files, make_onnx, make_found).only(["who", "x", "how"]).for_data(False)
        assert teachers(zoo, "cpu", FRAME).identity is None
        assert [item.name for item in zoo.judges("embedder")] == ["who"]

    def test_shared_weights_under_another_name_are_refused(
        self,
        tmp_path: Path,
        torch_files: tuple[Path, Path],
        make_onnx: Callable[..., Path],
        make_found: Callable[..., Found],
    ) -> None:
        zoo = self.zoo(tmp_path, torch_files, make_onnx, make_found, lineage=["judge"], role="teacher").for_data(
            False, needs=()
        )
        assert zoo.reserved == {"how"}  # `who` is the judge's own weights, and the judge goes first
        teaching = Teachers(lineage=frozenset({"who", "judge"}))
        with pytest.raises(ModelError, match="judge may not judge this trial: a loss term was computed with judge"):
            check_lineage(teaching, zoo.embedders())


def test_check_answer_without_a_stored_one_passes(
    tmp_path: Path, make_onnx: Callable[..., Path], make_found: Callable[..., Found]
) -> None:
    check_answer(make_found(make_onnx(tmp_path / "a.onnx")), np.zeros(4, np.float32))
