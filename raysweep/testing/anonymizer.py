"""The contract of an anonymizer as a test class: inherit it, name your class in one fixture, run pytest.

from raysweep.testing.anonymizer import AnonymizerContract

class TestMyBlur(AnonymizerContract):
    @pytest.fixture
    def anonymizer_class(self):
        return MyBlur
"""

# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raysweep.anonymizers.base import Anonymizer, FitContext, State, Teachers
from raysweep.errors import ConfigError
from raysweep.schema import ARCFACE_POINTS, EXPRESSIONS, AlignedFaces, FaceBatch, FaceTable, Frame
from raysweep.search.parameters import Bool, Categorical, Float, Int, Parameter, Value

__all__ = ["AnonymizerContract", "example_batch", "example_context", "example_faces"]


def example_faces(count: int, role: str = "G", side: str = "", size: int = 112, seed: int = 0) -> AlignedFaces:
    """Smooth random pictures with points, landmarks and a mask, three to a person: enough for a contract, no faces.

    Args:
        count: how many; a multiple of 3 gives whole persons.
        role, side: as in `FaceTable`; persons of different roles differ, those of the sides of a role are the same.
        size: side of the crop in pixels.
        seed: of the pictures.
    """
    random = np.random.default_rng([seed, sum(map(ord, role + side)), count])
    person = np.arange(count) // 3
    names = tuple(f"{role}{number}" for number in range(int(person.max(initial=-1)) + 1))
    frame = Frame(size=size)
    base = np.random.default_rng([seed, sum(map(ord, role))]).uniform(0, 255, (len(names), 7, 7, 3))
    coarse = np.clip(base[person] + random.normal(0, 25, (count, 7, 7, 3)), 0, 255)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse).permute(0, 3, 1, 2), size=(size, size), mode="bilinear", align_corners=False
    )
    crop = smooth.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()
    points = frame.from_template(ARCFACE_POINTS[None] + random.normal(0, 1, (count, 5, 2)).astype(np.float32))
    landmarks = frame.from_template(random.uniform(10, 100, (1, 30, 2)).astype(np.float32)) + random.normal(
        0, 1.5, (count, 30, 2)
    )
    mask = np.zeros((count, size, size), dtype=np.uint8)
    mask[:, size // 8 : -size // 8, size // 5 : -size // 5] = 1
    mask[:, size // 2 : size // 2 + size // 8, size // 2 - 2 : size // 2 + 2] = 10
    table = FaceTable(
        face_id=np.array([f"{role}/{side}/{number}" for number in range(count)], dtype=np.str_),
        identity=person.astype(np.int64),
        expression=(np.arange(count) % len(EXPRESSIONS)).astype(np.int64),
        role=np.full(count, role, dtype=np.str_),
        side=np.full(count, side, dtype=np.str_),
        identity_names=names,
    )
    return AlignedFaces(
        table=table,
        frame=frame,
        crop=crop,
        points=points.astype(np.float32),
        landmarks=landmarks.astype(np.float32),
        mask=mask,
        synthetic=True,
    )


def example_batch(faces: AlignedFaces, device: torch.device, rows: list[int] | None = None) -> FaceBatch:
    """The same faces as an anonymizer sees them, all or some rows in the order given."""
    pick = np.arange(len(faces)) if rows is None else np.asarray(rows, dtype=np.int64)
    chosen = faces.take(pick)
    return FaceBatch(
        image=torch.from_numpy(np.ascontiguousarray(chosen.crop.transpose(0, 3, 1, 2))).to(device),
        points=torch.from_numpy(chosen.points).to(device),
        landmarks=None if chosen.landmarks is None else torch.from_numpy(chosen.landmarks).to(device),
        mask=None if chosen.mask is None else torch.from_numpy(chosen.mask).to(device),
        face_id=tuple(str(face) for face in chosen.table.face_id),
        seed=pick.astype(np.int64) + 1000,
        frame=chosen.frame,
        identity=chosen.table.identity,
    )


def example_context(device: torch.device, size: int = 112, seed: int = 0) -> FitContext:
    """Background of 24 and releases of 18 faces each, no teachers."""
    return FitContext(
        background=example_faces(24, "G", size=size),
        releases={
            name: example_faces(18, name.partition("/")[0], name.partition("/")[2], size)
            for name in ("T", "S/enrol", "S/probe", "E/enrol", "E/probe")
        },
        teachers=Teachers(),
        device=device,
        seed=seed,
        report=lambda numbers: None,
    )


def _outside(parameter: Parameter) -> list[object]:
    """Values that a parameter must refuse."""
    match parameter:
        case Float() | Int():
            return [parameter.low - 1, parameter.high + 1, "wrong", True, float("nan"), None]
        case Categorical():
            return ["no such choice", True, None]
        case Bool():
            return ["true", 1, None]


def _edges(parameter: Parameter) -> list[Value]:
    """Values that a parameter must accept."""
    match parameter:
        case Float() | Int():
            return [parameter.low, parameter.high, parameter.default]
        case Categorical():
            return list(parameter.choices)
        case Bool():
            return [True, False]


class AnonymizerContract:
    """What every anonymizer promises. Override `anonymizer_class`; `setting` too, when the defaults are slow to fit."""

    size = 112

    @pytest.fixture
    def anonymizer_class(self) -> type[Anonymizer]:
        """The class under test."""
        raise NotImplementedError("override the fixture anonymizer_class")

    @pytest.fixture
    def setting(self) -> Mapping[str, Value]:
        """A setting that fits quickly; the defaults unless overridden."""
        return {}

    @pytest.fixture(params=["cpu", "cuda"])
    def device(self, request: pytest.FixtureRequest) -> torch.device:
        """Each device at hand."""
        if request.param == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        return torch.device(request.param)

    @pytest.fixture
    def context(self, device: torch.device) -> FitContext:
        """What `fit` is given."""
        return example_context(device, self.size)

    @pytest.fixture
    def state(self, anonymizer_class: type[Anonymizer], setting: Mapping[str, Value], context: FitContext) -> State:
        """What `fit` returned."""
        return anonymizer_class(**setting).fit(context)

    @pytest.fixture
    def ready(
        self, anonymizer_class: type[Anonymizer], setting: Mapping[str, Value], state: State, device: torch.device
    ) -> Anonymizer:
        """A fresh instance with the state loaded, as in a worker."""
        anonymizer = anonymizer_class(**setting)
        anonymizer.load(state, device)
        return anonymizer

    @pytest.fixture
    def batch(self, context: FitContext, device: torch.device) -> FaceBatch:
        """Faces of one release."""
        return example_batch(context.releases["E/probe"], device)

    def test_it_declares_what_it_is(self, anonymizer_class: type[Anonymizer]) -> None:
        """Name, needs, releases and parameters are of the allowed kinds."""
        assert re.fullmatch(r"[a-z0-9_.-]+(/[a-z0-9_.-]+)?", anonymizer_class.name)
        assert anonymizer_class.releases in ("per_image", "group")
        assert anonymizer_class.needs <= {"landmarks", "mask", "identity", "background"}
        assert isinstance(anonymizer_class.trains, bool)
        assert anonymizer_class.licence
        for parameter in anonymizer_class.parameters.values():
            assert isinstance(parameter, Float | Int | Categorical | Bool)
            if isinstance(parameter, Float | Int) and parameter.log:
                assert parameter.low > 0, "a logarithmic scale needs a lower bound above 0"

    def test_the_default_setting_is_allowed(self, anonymizer_class: type[Anonymizer]) -> None:
        """Defaults lie within their own bounds and `setting` is complete."""
        anonymizer = anonymizer_class()
        assert set(anonymizer.setting) == set(anonymizer_class.parameters)
        for key, parameter in anonymizer_class.parameters.items():
            assert parameter.problem(parameter.default) is None, key

    def test_values_at_the_edge_are_allowed_on_their_own(self, anonymizer_class: type[Anonymizer]) -> None:
        """No declared bound is refused by its own parameter."""
        for key, parameter in anonymizer_class.parameters.items():
            for value in _edges(parameter):
                assert parameter.problem(value) is None, (key, value)

    def test_bad_values_are_all_named(self, anonymizer_class: type[Anonymizer]) -> None:
        """Each bad value gives a `ConfigError` that names the parameter; an unknown key gives one as well."""
        for key, parameter in anonymizer_class.parameters.items():
            for value in _outside(parameter):
                with pytest.raises(ConfigError, match=re.escape(key)):
                    anonymizer_class(**{key: value})  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="no_such_parameter"):
            anonymizer_class(no_such_parameter=1)

    def test_fit_returns_tensors_that_can_be_stored(
        self,
        anonymizer_class: type[Anonymizer],
        setting: Mapping[str, Value],
        state: State,
        batch: FaceBatch,
        ready: Anonymizer,
        device: torch.device,
        tmp_path: Path,
    ) -> None:
        """CPU tensors only; after a round trip through safetensors the same images come out."""
        assert all(isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in state.values())
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "state.safetensors")
        again = anonymizer_class(**setting)
        again.load(load_file(tmp_path / "state.safetensors"), device)
        assert torch.equal(again.anonymize(batch), ready.anonymize(batch))

    def test_output_is_like_the_input(self, ready: Anonymizer, batch: FaceBatch, device: torch.device) -> None:
        """Same shape, uint8, same device; the input is left alone."""
        before = batch.image.clone()
        out = ready.anonymize(batch)
        assert out.shape == batch.image.shape
        assert out.dtype == torch.uint8
        assert out.device.type == device.type
        assert torch.equal(batch.image, before)

    def test_one_face_at_a_time_gives_the_same(
        self, ready: Anonymizer, batch: FaceBatch, context: FitContext, device: torch.device
    ) -> None:
        """Bit for bit the same image alone and in a batch."""
        together = ready.anonymize(batch)
        for row in range(0, len(batch), 5):
            alone = ready.anonymize(example_batch(context.releases["E/probe"], device, [row]))
            assert torch.equal(alone[0], together[row]), row

    def test_order_and_batch_size_do_not_matter(
        self, ready: Anonymizer, batch: FaceBatch, context: FitContext, device: torch.device
    ) -> None:
        """A shuffled part of the batch gives the same images, in the shuffled order."""
        together = ready.anonymize(batch)
        rows = [11, 2, 7, 7, 0, 16, 3]
        some = ready.anonymize(example_batch(context.releases["E/probe"], device, rows))
        assert torch.equal(some, together[torch.tensor(rows, device=device)])

    def test_it_is_deterministic(
        self,
        anonymizer_class: type[Anonymizer],
        setting: Mapping[str, Value],
        context: FitContext,
        batch: FaceBatch,
        ready: Anonymizer,
        device: torch.device,
    ) -> None:
        """Fitted again with the same seed, the same images; global random state is neither used nor changed."""
        if device.type != "cpu" and anonymizer_class.trains:
            pytest.skip("training on an accelerator is equal within a tolerance only")
        first = ready.anonymize(batch)
        torch.manual_seed(99)
        before = torch.get_rng_state()
        again = anonymizer_class(**setting)
        again.load(again.fit(context), device)
        assert torch.equal(again.anonymize(batch), first)
        assert torch.equal(torch.get_rng_state(), before)

    def test_training_in_stages_is_training_at_once(
        self,
        anonymizer_class: type[Anonymizer],
        setting: Mapping[str, Value],
        context: FitContext,
        batch: FaceBatch,
        state: State,
        ready: Anonymizer,
        device: torch.device,
    ) -> None:
        """Stopped half-way and gone on with by another instance: the same state, nothing left over; what there is half-way draws already."""
        if not anonymizer_class(**setting).resumable_steps():
            pytest.skip("this setting is not trained in stages")
        half = anonymizer_class(**setting).fit(dataclasses.replace(context, share=0.5))
        assert all(isinstance(value, torch.Tensor) and value.device.type == "cpu" for value in half.values())
        early = anonymizer_class(**setting)
        early.load(half, device)
        assert early.anonymize(batch).shape == batch.image.shape
        copied = {name: tensor.clone() for name, tensor in half.items()}
        whole = anonymizer_class(**setting).fit(dataclasses.replace(context, earlier=copied))
        assert whole.keys() == state.keys(), "of what going on needs, nothing may stay when the training is over"
        if device.type == "cpu":
            assert all(torch.equal(whole[name], state[name]) for name in state)
            late = anonymizer_class(**setting)
            late.load(whole, device)
            assert torch.equal(late.anonymize(batch), ready.anonymize(batch))

    def test_faces_without_extras(self, ready: Anonymizer, batch: FaceBatch) -> None:
        """Landmarks and mask may be missing when they are not in `needs`."""
        if "landmarks" in ready.needs or "mask" in ready.needs:
            pytest.skip("needs landmarks or a mask")
        bare = dataclasses.replace(batch, landmarks=None, mask=None)
        assert torch.equal(ready.anonymize(bare), ready.anonymize(batch))
