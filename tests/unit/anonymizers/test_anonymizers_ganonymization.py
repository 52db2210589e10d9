from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from raysweep.anonymizers.base import FitContext, State, Teachers
from raysweep.anonymizers.ganonymization.anonymizer import PUBLISHED, GANonymization
from raysweep.anonymizers.ganonymization.conditioning import condition, condition_channels, draw_landmarks, resize_mask
from raysweep.anonymizers.ganonymization.network import Discriminator, Generator
from raysweep.anonymizers.ganonymization.picture import FACE, cut, place, shares
from raysweep.anonymizers.ganonymization.shape import ShapeSpace, jitter
from raysweep.errors import ConfigError, ModelError, TrialError
from raysweep.schema import Frame
from raysweep.testing.anonymizer import example_batch, example_context
from raysweep.training.ganonymization import Advice, Objective, generator_losses
from raysweep.training.pairs import Pairs, mask_of_picture

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "size": 32,
    "width": 8,
    "depth": 3,
    "discriminator_width": 4,
    "init": "scratch",
    "batch_size": 4,
}


class TinyTeacher(nn.Module):
    """A frozen random network: enough to see where gradients go."""

    def __init__(self, seed: int, grey: float) -> None:
        super().__init__()
        self.grey = grey
        random = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(8, 3, 5, 5, generator=random))
        self.second = nn.Parameter(torch.randn(7, 8, generator=random))

    def features(self, crops: torch.Tensor) -> torch.Tensor:
        return torch.tanh(nn.functional.conv2d(crops - self.grey, self.first, stride=4)).mean((2, 3))

    def identity(self, crops: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.features(crops), dim=1)

    def expression(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(crops)
        return 5 * features @ self.second.T, features


WHO, HOW = TinyTeacher(1, grey=0.0), TinyTeacher(2, grey=0.5)
TAUGHT = Teachers(identity=WHO.identity, expression=HOW.expression)


def taught(seed: int = 0) -> FitContext:
    return dataclasses.replace(example_context(CPU, size=48, seed=seed), teachers=TAUGHT)


def fit(context: FitContext, **setting: Any) -> State:
    return GANonymization(**{**SMALL, **setting}).fit(context)


def loaded(context: FitContext, **setting: Any) -> GANonymization:
    anonymizer = GANonymization(**{**SMALL, **setting})
    anonymizer.load(anonymizer.fit(context), CPU)
    return anonymizer


# ---------------------------------------------------------------- conditioning
def test_a_dot_is_a_plus_of_224() -> None:
    picture = draw_landmarks(torch.tensor([[[0.5, 0.25]]]), 16)[0]
    lit = {(int(y), int(x)) for y, x in picture.nonzero()}
    assert lit == {(4, 8), (4, 7), (4, 9), (3, 8), (5, 8)}
    assert set(picture.unique().tolist()) == {0, 224}


def test_dots_at_the_edge_and_outside() -> None:
    points = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [-0.01, 0.5], [0.5, 1.01], [float("nan"), 0.5]]])
    lit = {(int(y), int(x)) for y, x in draw_landmarks(points, 8)[0].nonzero()}
    assert lit == {(0, 0), (0, 1), (1, 0), (7, 7), (7, 6), (6, 7)}


def test_no_points_no_light() -> None:
    assert draw_landmarks(torch.full((2, 5, 2), -1.0), 8).sum() == 0


def test_crop_pixels_become_shares() -> None:
    # The centre of the first of four pixels lies an eighth into the picture.
    assert shares(torch.tensor([[0.0, 3.0]]), Frame(4), "crop").tolist() == [[0.125, 0.875]]


def test_condition_channels_and_values() -> None:
    points, mask = torch.rand(2, 9, 2), torch.randint(0, 19, (2, 40, 40), dtype=torch.uint8)
    for kind in ("landmarks", "mask", "landmarks+mask"):
        assert condition(points, mask, 16, kind).shape == (2, condition_channels(kind), 16, 16)
    dots = condition(points, None, 128, "landmarks")
    assert dots.unique().tolist() == pytest.approx([-1.0, 224 / 127.5 - 1])
    assert torch.equal(dots[:, 0], dots[:, 2])
    parts = condition(None, mask, 16, "mask")
    assert torch.equal(parts.argmax(1).to(torch.uint8), resize_mask(mask, 16))
    assert ((parts + 1) / 2).sum(1).unique().tolist() == [1.0]
    with pytest.raises(ValueError, match="needs landmarks"):
        condition(None, mask, 16, "landmarks")
    with pytest.raises(ValueError, match="parsing mask"):
        condition(points, None, 16, "mask")


def test_mask_is_resized_by_pixel_centres() -> None:
    mask = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    assert resize_mask(mask, 2).tolist() == [[[5, 7], [13, 15]]]
    assert torch.equal(resize_mask(mask, 8)[:, ::2, ::2], mask)


@pytest.mark.parametrize("side", [256, 512])
def test_dots_are_those_of_a_circle_of_radius_one_with_its_centre(side: int) -> None:
    # What MediaPipe's drawing of 478 points comes to, drawn by OpenCV as an independent witness.
    points = np.random.default_rng(0).uniform(0.02, 0.98, (478, 2))
    expected = np.zeros((side, side), np.uint8)
    for x, y in np.floor(points * side).astype(int).tolist():
        cv2.circle(expected, (x, y), 1, 224, 1)
        expected[y, x] = 224
    drawn = draw_landmarks(torch.from_numpy(points)[None].float(), side)[0].numpy()
    assert np.array_equal(drawn, expected)


# ---------------------------------------------------------------------- picture
FRAMES = (Frame(160, 24), Frame(112, 0), Frame(80, 24))


@pytest.mark.parametrize("frame", FRAMES)
def test_the_face_picture_agrees_with_its_landmarks_and_its_way_back(frame: Frame) -> None:
    """A spot in the crop stays at its landmark in the picture, and comes back to its place."""
    spot = frame.from_template(np.array([40.0, 60.0], np.float32))
    y, x = np.mgrid[: frame.size, : frame.size]
    radius = 5 * frame.scale
    crop = 255 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * radius**2))
    crops = np.repeat(crop.round().astype(np.uint8)[None, :, :, None], 3, axis=3)
    picture = cut(crops, frame, "face", 256)
    share = shares(torch.from_numpy(spot)[None, None], frame, "face")[0, 0]
    place_in_picture = divmod(int(picture[0, 0].argmax()), 256)
    assert abs(place_in_picture[1] + 0.5 - 256 * share[0]) < 2.5
    assert abs(place_in_picture[0] + 0.5 - 256 * share[1]) < 2.5
    back = place(picture.float() / 127.5 - 1, frame, "face")[0, 0].numpy()
    assert np.abs(back.astype(int) - crops[0, :, :, 0]).max() <= 12


def test_beyond_the_face_picture_the_result_is_black() -> None:
    frame = Frame(160, 24)
    white = place(torch.ones(1, 3, 256, 256), frame, "face")[0, 0]
    x0, y0, x1, y1 = (edge + frame.margin for edge in FACE)
    assert white[int(y0) + 2 : int(y1) - 2, int(x0) + 2 : int(x1) - 2].min() == 255
    assert white[: int(y0) - 1].max() == 0
    assert white[:, : int(x0) - 1].max() == 0
    assert white[:, int(x1) + 2 :].max() == 0


def test_masks_follow_the_picture() -> None:
    frame = Frame(160, 24)
    mask = torch.zeros(1, 160, 160, dtype=torch.uint8)
    mask[:, 60:100, 50:110] = 3
    cut_mask = mask_of_picture(mask, frame, "face", 218)  # two pixels of the picture to one of the template
    x0, y0, _, _ = (edge + frame.margin for edge in FACE)
    lit = cut_mask[0].nonzero()
    for seen, wanted in ((lit[:, 1], (50 - x0, 110 - x0)), (lit[:, 0], (60 - y0, 100 - y0))):
        assert abs(int(seen.min()) - 2 * wanted[0]) <= 2
        assert abs(int(seen.max()) + 1 - 2 * wanted[1]) <= 2
    assert set(cut_mask.unique().tolist()) == {0, 3}
    assert torch.equal(mask_of_picture(mask, frame, "crop", 160), mask)


def test_training_and_drawing_use_the_same_picture() -> None:
    context = taught()
    batch = example_batch(context.background, CPU, [0, 1])
    face = loaded(context, picture="face", steps=0)
    crop = loaded(context, picture="crop", steps=0)
    assert not torch.equal(face.anonymize(batch), crop.anonymize(batch))
    pairs = Pairs.of(context.background, 32, "landmarks+mask", "face")
    assert not torch.equal(pairs.target, Pairs.of(context.background, 32, "landmarks+mask").target)
    fit(context, picture="face", steps=2, identity=1.0, conditioning="landmarks+mask")


# ----------------------------------------------------------------------- shape
def shapes(persons: int = 30, each: int = 14) -> tuple[Any, Any, Any, Any]:
    """Persons x expressions in 2 x 10 coordinates, with the true expression directions."""
    random = np.random.default_rng(0)
    who = np.repeat(np.arange(persons), each)
    how = np.tile(np.arange(each) % 7, persons)
    bone, moves = random.normal(0, 0.05, (persons, 20)), random.normal(0, 0.05, (7, 20))
    points = 0.5 + bone[who] + moves[how] + random.normal(0, 0.002, (len(who), 20))
    return points.reshape(-1, 10, 2).astype(np.float32), who, how, moves


def between(landmarks: torch.Tensor, label: Any) -> float:
    """Mean distance between the class means."""
    rows = landmarks.double().flatten(1)
    means = torch.stack([rows[torch.from_numpy(label == one)].mean(0) for one in np.unique(label)])
    return float(torch.cdist(means, means).mean())


def test_mixing_removes_bone_structure_and_keeps_expression() -> None:
    points, who, how, _ = shapes()
    space = ShapeSpace.learn(points, who, how)
    before = torch.from_numpy(points)
    after = space.mix(before, 1.0)
    assert space.basis.shape == (6, 20)
    # Of 20 directions 6 carry expression; bone structure that happens to lie along those stays.
    assert between(after, who) < 0.7 * between(before, who)
    assert between(after, how) == pytest.approx(between(before, how), rel=0.02)
    half = space.mix(before, 0.5)
    assert between(after, who) < between(half, who) < between(before, who)
    assert space.mix(before, 0.0) is before


def test_without_expression_labels_everything_moves_to_the_mean() -> None:
    points, who, how, _ = shapes()
    space = ShapeSpace.learn(points, who, np.full_like(how, -1))
    assert space.basis.shape == (0, 20)
    assert between(space.mix(torch.from_numpy(points), 1.0), how) == pytest.approx(0.0, abs=1e-6)


def test_unknown_persons_are_compared_with_the_mean_of_all() -> None:
    points, who, how, _ = shapes()
    space = ShapeSpace.learn(points, np.full_like(who, -1), how)
    assert between(space.mix(torch.from_numpy(points), 1.0), how) > 0.9 * between(torch.from_numpy(points), how)


def test_jitter_belongs_to_the_face_not_to_the_batch() -> None:
    points = torch.rand(3, 9, 2)
    seed = np.array([5, 6, 7])
    moved = jitter(points, seed, 0.01)
    assert torch.equal(jitter(points[1:2], seed[1:2], 0.01)[0], moved[1])
    assert 0.005 < (moved - points).std().item() < 0.015
    assert jitter(points, seed, 0.0) is points


# -------------------------------------------------------------------- networks
@pytest.mark.parametrize(("size", "depth"), [(32, 5), (64, 6), (64, 4), (128, 3)])
def test_any_size_and_depth(size: int, depth: int) -> None:
    network = Generator(inputs=4, width=8, halvings=depth).eval()
    assert network(torch.zeros(1, 4, size, size)).shape == (1, 3, size, size)


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        Generator(width=8, halvings=3)(torch.zeros(1, 3, 36, 32))
    with pytest.raises(ValueError, match="2 halvings"):
        Generator(halvings=1)


def test_the_published_setting_is_the_published_network() -> None:
    anonymizer = GANonymization(**PUBLISHED)
    assert {name: tuple(value.shape) for name, value in anonymizer._network().state_dict().items()} == {
        name: tuple(value.shape) for name, value in Generator().state_dict().items()
    }


# ------------------------------------------------------------------- gradients
def gradients(objective: Objective, seed: int = 0) -> torch.Tensor:
    """The generator's gradient for one batch, all weights in one vector."""
    from raysweep.anonymizers.ganonymization.network import build

    context = taught()
    pairs = Pairs.of(context.background, 32, "landmarks")
    generator = build(lambda: Generator(3, 8, 3), torch.Generator().manual_seed(0))
    discriminator = build(lambda: Discriminator(6, 4), torch.Generator().manual_seed(1))
    rows = torch.arange(4)
    given = pairs.condition(rows, CPU)
    face = generator(given)
    verdict = discriminator(face, given) if objective.adversarial > 0 else None
    advice = Advice(pairs, rows, TAUGHT, objective, CPU).losses(face, rows, objective)
    total, _ = generator_losses(face, pairs.targets(rows, CPU), verdict, advice, objective)
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(total, list(generator.parameters()))])


BASE = Objective(adversarial=1.0, reconstruction=10.0)


@pytest.mark.parametrize(
    "change",
    [
        {"adversarial": 2.0},
        {"adversarial": 0.0},
        {"reconstruction": 20.0},
        {"reconstruction": 0.0},
        {"identity": 5.0},
        {"expression": 5.0, "expression_loss": "kd_logit"},
        {"expression": 5.0, "expression_loss": "feature"},
    ],
)
def test_every_weight_changes_the_gradient(change: Mapping[str, Any]) -> None:
    plain, changed = gradients(BASE), gradients(dataclasses.replace(BASE, **change))
    assert (changed - plain).norm() > 1e-3 * plain.norm()


def test_the_expression_arms_pull_in_different_directions() -> None:
    arms: dict[str, torch.Tensor] = {}
    for arm in ("none", "kd_logit", "feature"):
        objective = Objective(adversarial=0.0, reconstruction=1.0, expression=10.0, expression_loss=arm)
        arms[arm] = gradients(objective) - gradients(Objective(adversarial=0.0, reconstruction=1.0))
    assert arms["none"].abs().max() == 0
    assert arms["kd_logit"].norm() > 0
    assert arms["feature"].norm() > 0
    assert nn.functional.cosine_similarity(arms["kd_logit"], arms["feature"], dim=0).abs() < 0.95


def test_teachers_are_left_alone() -> None:
    fit(taught(), steps=3, identity=5.0, expression_loss="feature")
    assert all(parameter.grad is None for teacher in (WHO, HOW) for parameter in teacher.parameters())


# -------------------------------------------------------------------- training
def test_training_lowers_the_reconstruction_loss_and_reports_it() -> None:
    seen: list[Mapping[str, float]] = []
    context = dataclasses.replace(taught(), report=seen.append)
    fit(context, steps=60, learning_rate=2e-3, identity=1.0, expression_loss="kd_logit")
    assert [numbers["step"] for numbers in seen] == [10, 20, 30, 40, 50, 60]
    assert set(seen[0]) == {"step", "reconstruction", "adversarial", "identity", "expression", "discriminator"}
    assert seen[-1]["reconstruction"] < 0.7 * seen[0]["reconstruction"]


def test_the_trained_generator_draws_closer_faces_than_the_untrained() -> None:
    context = taught()
    batch = example_batch(context.background, CPU)
    target = Pairs.of(context.background, 32, "landmarks").target
    distance = {}
    for steps in (0, 60):
        out = loaded(context, steps=steps, learning_rate=2e-3).anonymize(batch)
        small = nn.functional.interpolate(out.float(), size=(32, 32), mode="area")
        distance[steps] = (small - target.float()).abs().mean().item()
    assert distance[60] < 0.7 * distance[0]


def test_more_identity_weight_means_less_likeness_for_the_teacher() -> None:
    context = taught()
    batch = example_batch(context.background, CPU)
    clear = WHO.identity(batch.image.float() / 255)
    likeness = {}
    for weight in (0.0, 10.0):
        out = loaded(
            context, steps=80, learning_rate=2e-3, reconstruction=1.0, adversarial=0.0, identity=weight
        ).anonymize(batch)
        likeness[weight] = (WHO.identity(out.float() / 255) * clear).sum(1).mean().item()
    assert likeness[10.0] < likeness[0.0] - 0.1


def test_the_seed_decides() -> None:
    context = taught()
    one, same = fit(context, steps=5, identity=1.0), fit(context, steps=5, identity=1.0)
    other = fit(dataclasses.replace(context, seed=1), steps=5, identity=1.0)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["generator.final.2.weight"], other["generator.final.2.weight"])


def test_conditioning_by_mask_needs_no_landmarks() -> None:
    context = taught()
    bare = dataclasses.replace(context, background=dataclasses.replace(context.background, landmarks=None))
    anonymizer = loaded(bare, conditioning="mask", steps=2)
    batch = dataclasses.replace(example_batch(context.background, CPU, [0, 1]), landmarks=None)
    assert anonymizer.anonymize(batch).shape == (2, 3, 48, 48)
    with pytest.raises(ConfigError, match="dense landmarks"):
        fit(bare, conditioning="landmarks+mask", steps=2)
    with pytest.raises(TrialError, match="parsing mask"):
        anonymizer.anonymize(dataclasses.replace(batch, mask=None))


def test_the_privacy_controls_change_what_is_drawn() -> None:
    context = taught()
    batch = example_batch(context.releases["E/probe"], CPU)
    plain = loaded(context, steps=20, learning_rate=2e-3).anonymize(batch)
    for control in ({"shape_mix": 1.0}, {"landmark_noise": 0.05}):
        assert not torch.equal(loaded(context, steps=20, learning_rate=2e-3, **control).anonymize(batch), plain)


def test_masked_background_is_learned_as_black() -> None:
    context = taught()
    pairs = Pairs.of(context.background, 32, "landmarks")
    assert context.background.mask is not None
    outside = resize_mask(torch.from_numpy(context.background.mask), 32) == 0
    assert pairs.target.permute(0, 2, 3, 1)[outside].max() == 0
    unmasked = Pairs.of(dataclasses.replace(context.background, mask=None), 32, "landmarks")
    assert unmasked.target.permute(0, 2, 3, 1)[outside].max() > 0


# ------------------------------------------------------------------- bad input
def test_a_missing_teacher_is_named() -> None:
    context = example_context(CPU, size=48)
    with pytest.raises(ConfigError) as caught:
        fit(context, steps=1, identity=1.0, expression_loss="kd_logit")
    assert len(caught.value.problems) == 2
    assert "needs a torch embedder" in caught.value.problems[0]
    assert "expression_loss=none" in caught.value.problems[1]
    fit(context, steps=1, identity=0.0, expression_loss="kd_logit", expression_weight=0.0)


def test_what_does_not_go_together_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="depth = 6 is too deep for size = 32"):
        GANonymization(size=32, depth=6)
    with pytest.raises(ConfigError, match="width = 16, not 32"):
        GANonymization(init="small", width=32)
    with pytest.raises(ConfigError, match="sees landmarks"):
        GANonymization(init="small", conditioning="mask")


def test_the_small_generator_is_refused_for_photographs_and_auto_starts_from_scratch() -> None:
    context = taught()
    photographs = dataclasses.replace(context, background=dataclasses.replace(context.background, synthetic=False))
    with pytest.raises(ConfigError, match="not for photographs"):
        GANonymization(init="small", steps=0).fit(photographs)
    anonymizer = GANonymization(init="auto", steps=0)
    anonymizer.load(anonymizer.fit(photographs), CPU)
    assert anonymizer.trained == {"init": "scratch", "steps": 0}


def test_no_background_at_all() -> None:
    context = taught()
    empty = dataclasses.replace(context, background=context.background.take(np.array([], dtype=np.int64)))
    with pytest.raises(TrialError, match="role G has no faces"):
        fit(empty)


def test_faces_without_landmarks() -> None:
    context = taught()
    anonymizer = loaded(context, steps=0)
    with pytest.raises(TrialError, match="dense landmarks"):
        anonymizer.anonymize(dataclasses.replace(example_batch(context.background, CPU), landmarks=None))


def test_weights_of_another_setting_are_refused() -> None:
    state = fit(taught(), steps=0)
    with pytest.raises(ModelError, match="do not fit"):
        GANonymization(**{**SMALL, "width": 9}).load(state, CPU)
