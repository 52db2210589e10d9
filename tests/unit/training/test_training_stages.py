"""A training that stops and goes on is the training that never stopped: weights, curves, and nothing left over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raysweep.anonymizers.base import Anonymizer, FitContext, State, Teachers
from raysweep.anonymizers.ciagan.anonymizer import CIAGAN
from raysweep.anonymizers.ganonymization.anonymizer import GANonymization
from raysweep.data.synthetic import SyntheticFaces
from raysweep.errors import ModelError, TrialError
from raysweep.preprocess.align import similarity, transform_points
from raysweep.schema import AlignedFaces
from raysweep.testing.anonymizer import example_batch, example_context
from raysweep.training.stages import PAUSED, go_on

CPU = torch.device("cpu")
Report = dict[str, float]


class Tiny(nn.Module):
    """A frozen random network as a teacher."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(8, 3, 5, 5, generator=random))
        self.second = nn.Parameter(torch.randn(7, 8, generator=random))

    def features(self, crops: torch.Tensor) -> torch.Tensor:
        return torch.tanh(nn.functional.conv2d(crops - 0.5, self.first, stride=4)).mean((2, 3))

    def identity(self, crops: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.features(crops), dim=1)

    def expression(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(crops)
        return 5 * features @ self.second.T, features


TEACHER = Tiny()
GAN: dict[str, Any] = {
    "init": "scratch", "size": 32, "width": 8, "depth": 4, "discriminator_width": 4, "batch_size": 4, "steps": 7,
    "identity": 1.0, "expression_loss": "kd_logit", "shape_mix": 0.5, "landmark_noise": 0.01,
}  # fmt: skip
CIA: dict[str, Any] = {
    "init": "scratch", "size": 64, "width": 4, "classes": 6, "batch_size": 2, "steps": 3, "reconstruction": 1.0, "augment": True,
}  # fmt: skip


def ibug(faces: AlignedFaces) -> AlignedFaces:
    """The same pictures with landmarks that CIAGAN can read."""
    drawn = SyntheticFaces(identities=1, images_per_identity=1, seed=5).draw(
        np.zeros(1, np.int64), np.zeros(1, np.int64)
    )
    points = transform_points(drawn.landmarks, similarity(drawn.points, faces.frame.points))
    noise = np.random.default_rng(len(faces)).normal(0, 1.5, (len(faces), 68, 2))
    return dataclasses.replace(faces, landmarks=(points + noise).astype(np.float32))


def context(anonymizer: type[Anonymizer]) -> FitContext:
    made = example_context(CPU, size=48)
    if anonymizer is CIAGAN:
        return dataclasses.replace(made, background=ibug(made.background))
    return dataclasses.replace(made, teachers=Teachers(identity=TEACHER.identity, expression=TEACHER.expression))


def stages(
    anonymizer: type[Anonymizer], setting: Mapping[str, Any], shares: Sequence[float]
) -> tuple[list[State], list[Report]]:
    """The state after each stage, each learned by a fresh instance, and all reports."""
    reports: list[Report] = []
    found: list[State] = []
    for share in shares:
        # What crosses a process border is a copy.
        earlier = {name: tensor.clone() for name, tensor in found[-1].items()} if found else None
        given = dataclasses.replace(
            context(anonymizer), share=share, earlier=earlier, report=lambda numbers: reports.append(dict(numbers))
        )
        found.append(anonymizer(**setting).fit(given))
    return found, reports


@pytest.mark.parametrize(("anonymizer", "setting"), [(GANonymization, GAN), (CIAGAN, CIA)])
def test_a_training_in_stages_ends_as_one_in_one_go(
    anonymizer: type[Anonymizer], setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ganonymization", "ciagan"):
        monkeypatch.setattr(f"raysweep.training.{module}.REPORT_EVERY", 2)
    steps = setting["steps"]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert anonymizer(**setting).resumable_steps() == steps
    (whole,), curve = stages(anonymizer, setting, [1.0])
    assert [row["step"] for row in curve] == [*range(2, steps + 1, 2), steps]
    (first, second, last), pieces = stages(anonymizer, setting, [1 / 9, 0.6, 1.0])
    assert pieces == curve
    assert last.keys() == whole.keys()
    assert all(torch.equal(last[name], whole[name]) for name in whole)
    assert torch.equal(torch.get_rng_state(), before), "torch's own random numbers are left alone"
    # What is not over can be drawn with, differs, and carries what the end has not.
    assert [state["trained"][1].item() for state in (first, second, last)] == [1, round(0.6 * steps), steps]
    for state in (first, second):
        assert state.keys() == whole.keys() | {PAUSED}
        assert state[PAUSED].dtype == torch.uint8
        assert any(not torch.equal(state[name], whole[name]) for name in whole)
    made = anonymizer(**setting)
    made.load(first, CPU)
    release = context(anonymizer).releases["E/probe"]
    batch = example_batch(ibug(release) if anonymizer is CIAGAN else release, CPU, [0, 4])
    assert made.anonymize(batch).shape == batch.image.shape


@pytest.mark.parametrize("forgotten", ["random", "optimizers", "order"])
def test_dropout_optimizers_and_order_go_on_where_they_were(monkeypatch: pytest.MonkeyPatch, forgotten: str) -> None:
    """The test above could not fail if nothing random or remembered took part."""
    anonymizer, short = (CIAGAN, {**CIA, "steps": 2}) if forgotten == "order" else (GANonymization, {**GAN, "steps": 4})
    name = "ciagan" if forgotten == "order" else "ganonymization"
    (whole,), _ = stages(anonymizer, short, [1.0])

    def forgetful(state: State | None, trainer: Any, order: torch.Generator, drawing: Any = None) -> None:
        random, drawn, fresh = torch.get_rng_state(), order.get_state(), trainer.state_dict()
        go_on(state, trainer, order, drawing)
        if forgotten == "random":
            torch.set_rng_state(random)
        elif forgotten == "order":
            order.set_state(drawn)
        else:
            kept = {part: fresh[part] for part in ("optimise_drawing", "optimise_judging")}
            trainer.load_state_dict({**trainer.state_dict(), **kept})

    monkeypatch.setattr(f"raysweep.training.{name}.go_on", forgetful)
    states, _ = stages(anonymizer, short, [0.5, 1.0])
    assert any(not torch.equal(states[-1][key], whole[key]) for key in whole)


def test_a_stage_may_hold_all_steps_already() -> None:
    short = {**GAN, "steps": 1}
    (whole,), curve = stages(GANonymization, short, [1.0])
    (early, last), pieces = stages(GANonymization, short, [1 / 3, 1.0])
    assert PAUSED in early
    assert pieces == curve
    assert last.keys() == whole.keys()
    assert all(torch.equal(last[name], whole[name]) for name in whole)


def test_without_steps_there_are_no_stages() -> None:
    for anonymizer, setting in ((GANonymization, GAN), (CIAGAN, CIA)):
        assert anonymizer(**{**setting, "steps": 0}).resumable_steps() == 0
    (state,), reports = stages(GANonymization, {**GAN, "steps": 0, "identity": 0.0, "expression_loss": "none"}, [1.0])
    assert PAUSED not in state
    assert reports == []


def test_a_stage_that_diverges_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {**GAN, "expression_loss": "none", "identity": 0.0, "steps": 4}
    half = dataclasses.replace(context(GANonymization), share=0.5)
    place = "raysweep.training.ganonymization.reconstruction_loss"
    monkeypatch.setattr(place, lambda face, target: face.mean() * torch.nan)
    with pytest.raises(TrialError, match=r"diverged at step 2: reconstruction.* is not finite"):
        GANonymization(**made).fit(half)


def test_a_state_that_cannot_go_on_is_refused() -> None:
    short = {**GAN, "steps": 4}
    (half,), _ = stages(GANonymization, short, [0.5])
    over = {name: tensor for name, tensor in half.items() if name != PAUSED}
    with pytest.raises(ModelError, match="training that is over cannot go on"):
        GANonymization(**short).fit(dataclasses.replace(context(GANonymization), earlier=over))
    other = GANonymization(**{**short, "width": 12})
    with pytest.raises(ModelError, match="cannot go on from this state"):
        other.fit(dataclasses.replace(context(GANonymization), earlier=half))


@pytest.mark.parametrize(
    ("share", "steps", "until"),
    [(1.0, 90, 90), (1 / 9, 90, 10), (1 / 3, 2, 1), (1 / 81, 9, 1), (0.5, 0, 0), (0.999, 3, 3)],
)
def test_steps_of_a_share(share: float, steps: int, until: int) -> None:
    assert dataclasses.replace(example_context(CPU, 16), share=share).until(steps) == until
