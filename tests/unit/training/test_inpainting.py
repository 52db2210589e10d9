"""Training of the small inpainting generator: what each loss says, what a step changes, and that it continues to the last bit."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from raysweep.anonymizers.base import FitContext, Teachers
from raysweep.anonymizers.deepprivacy2.anonymizer import DeepPrivacy2
from raysweep.anonymizers.deepprivacy2.conditioning import face_boxes
from raysweep.anonymizers.deepprivacy2.network import Architecture, Generator
from raysweep.anonymizers.deepprivacy2.weights import shipped
from raysweep.data.synthetic import DRAWING_VERSION
from raysweep.schema import AlignedFaces
from raysweep.testing.anonymizer import example_batch, example_faces
from raysweep.training.generator import Recipe as Faces
from raysweep.training.generator import draw_training_faces
from raysweep.training.inpainting import (
    ASSET,
    Discriminator,
    FaceWindows,
    InpaintingObjective,
    InpaintingTrainer,
    Recipe,
    main,
    painted_difference,
    pretrain,
    sameness,
    trainer_of,
    write,
)
from raysweep.training.trainer import Batch, Examples, Trainer

CPU = torch.device("cpu")
TINY = Architecture(side=16, width=4, widest=2, lowest=8, latent=8)
SMALL = Recipe(architecture=TINY, discriminator_width=4, identities=6, images=2, steps=4, batch=4, centres=2)


def trainer(seed: int = 0, **objective: float) -> InpaintingTrainer:
    return InpaintingTrainer(
        TINY, discriminator_width=4, objective=InpaintingObjective(**objective), learning_rate=0.01, seed=seed
    )


def batches(count: int) -> list[Batch]:
    windows = FaceWindows.of(example_faces(15, "G"), TINY)
    random = torch.Generator().manual_seed(0)
    return [windows.batch(torch.arange(number, number + 8), random) for number in range(count)]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# ---------------------------------------------------------------- losses
def test_the_difference_counts_painted_pixels_only() -> None:
    one, other = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    mask = torch.ones(2, 1, 4, 4)
    mask[0, 0, :2, :2] = 0
    mask[1, 0, 0, 0] = 0
    other[1, :, 0, 0] = torch.tensor([1.0, 2.0, 3.0])
    assert painted_difference(one, other, mask).tolist() == [0.5, 2.0]


def test_sameness_is_bounded_on_both_sides() -> None:
    one, other = torch.zeros(3, 4), torch.ones(3, 4) * torch.tensor([[1.0], [2.0], [1.0]])
    value = sameness(torch.tensor([0.0, 0.04, 7.0]), one, other)
    assert value.item() == pytest.approx((0.05 + 0.03 + 0.0) / 3)


def test_losses_are_those_of_the_networks_before_the_update() -> None:
    tutor, batch = trainer(adversarial=1.0, r1=0.0, reconstruction=3.0, diversity=0.0), batches(1)[0]
    generator, discriminator = copy.deepcopy(tutor.generator), copy.deepcopy(tutor.discriminator)
    told = tutor.step(batch)
    given = batch["picture"] * batch["mask"]
    with torch.no_grad():
        face = generator(given, batch["mask"], generator.style(batch["z"]))
        drawn = discriminator(face, given, batch["mask"])
        real = discriminator(batch["picture"], given, batch["mask"])
    assert told["adversarial"] == pytest.approx(torch.log1p(torch.exp(-drawn)).mean().item(), rel=1e-4)
    expected = torch.log1p(torch.exp(-real)).mean() + torch.log1p(torch.exp(drawn)).mean()
    assert told["discriminator"] == pytest.approx(expected.item(), rel=1e-4)
    outside = batch["mask"].expand_as(face) == 1
    assert torch.equal(face[outside], given[outside])
    expected = (face - batch["picture"])[~outside].abs().mean()
    assert told["reconstruction"] == pytest.approx(expected.item(), rel=0.05)  # boxes differ in size: a mean of means


def test_the_penalty_is_the_squared_gradient_on_real_faces() -> None:
    """By finite differences along random directions: E[(g.v)^2] = |g|^2 for v of unit variance."""
    tutor, batch = trainer(), batches(1)[0]
    given = batch["picture"] * batch["mask"]
    tutor.discriminator.double()
    picture, mask = batch["picture"].double(), batch["mask"].double()
    penalty = tutor._penalty(picture, given.double(), mask).item()
    watched = picture.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(tutor.discriminator(watched, given.double(), mask).sum(), watched)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        up, down = (
            tutor.discriminator(picture + step * direction, given.double(), mask).sum() for step in (1e-5, -1e-5)
        )
    slope = ((up - down) / 2e-5).item()
    assert penalty == pytest.approx(slope**2 / len(picture), rel=1e-4)


def test_r1_is_lazy() -> None:
    tutor = trainer()
    told = [tutor.step(batch) for batch in batches(2) * 9]
    assert [step for step, terms in enumerate(told) if "r1" in terms] == [0, 16]


def test_the_discriminator_sees_that_all_faces_are_one() -> None:
    network = trainer().discriminator
    picture, mask = torch.randn(4, 3, 16, 16), torch.zeros(4, 1, 16, 16)
    given = torch.zeros_like(picture)
    alone = network(picture[:1].expand(4, -1, -1, -1), given, mask)
    with torch.no_grad():
        assert (network(picture, given, mask)[0] - alone[0]).abs() > 1e-4
    with pytest.raises(ValueError, match="side 20"):
        Discriminator(20, 4)


# ---------------------------------------------------------------- steps
def test_it_is_a_trainer_and_its_windows_are_examples() -> None:
    assert isinstance(trainer(), Trainer)
    windows: Examples = FaceWindows.of(example_faces(6, "G"), TINY)
    assert len(windows) == 6


def test_each_network_moves_and_the_average_follows() -> None:
    tutor = trainer()
    before = {name: copy.deepcopy(module.state_dict()) for name, module in tutor.modules().items()}
    tutor.step(batches(1)[0])
    for name, module in tutor.modules().items():
        assert not same(before[name], dict(module.state_dict())), name
    key = "to_rgb.weight"
    old, new = before["generator"][key], tutor.generator.state_dict()[key]
    mean = tutor.averaged.state_dict()[key]
    assert torch.allclose(mean, old + (1 - 0.5 ** (1 / 1.05)) * (new - old), atol=1e-6)


def test_the_warm_up_leaves_the_discriminator_alone() -> None:
    tutor = trainer(warm_up=2)
    before = copy.deepcopy(tutor.discriminator.state_dict())
    told = [tutor.step(batch) for batch in batches(2)]
    assert same(dict(before), dict(tutor.discriminator.state_dict()))
    assert all(set(terms) == {"reconstruction"} for terms in told)
    assert "discriminator" in tutor.step(batches(1)[0])


def test_it_continues_to_the_last_bit() -> None:
    through = trainer()
    steps = batches(6)
    for batch in steps[:3]:
        through.step(batch)
    kept = io.BytesIO()
    torch.save(through.state_dict(), kept)
    told = [through.step(batch) for batch in steps[3:]]
    kept.seek(0)
    resumed = trainer(seed=99)
    resumed.load_state_dict(torch.load(kept, weights_only=True))
    assert [resumed.step(batch) for batch in steps[3:]] == told
    assert same(resumed.state_dict(), through.state_dict())


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tutor = trainer()
    tutor.step(batches(1)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_reconstruction_alone_learns() -> None:
    tutor = trainer(adversarial=0.0, reconstruction=1.0, diversity=0.0)
    told = [tutor.step(batch)["reconstruction"] for batch in batches(2) * 15]
    assert np.mean(told[-6:]) < 0.7 * np.mean(told[:2])


def test_diversity_drives_latents_apart() -> None:
    """From latents of almost no influence: only this term can give them one."""
    tutor = InpaintingTrainer(
        TINY,
        discriminator_width=4,
        objective=InpaintingObjective(adversarial=0.0, reconstruction=0.0, diversity=1.0),
        learning_rate=0.02,
        style=0.001,
    )
    told = [tutor.step(batch)["diversity"] for batch in batches(2) * 12]
    assert told[0] > 0.04
    assert np.mean(told[-2:]) < 0.01


# ---------------------------------------------------------------- windows
def test_windows_are_mirrored_with_their_masks() -> None:
    faces = example_faces(6, "G")
    windows = dataclasses.replace(FaceWindows.of(faces, TINY), scales=(1.0, 1.0))
    rows = torch.arange(6)
    plain = dataclasses.replace(windows, flip=0.0).batch(rows, torch.Generator().manual_seed(0))
    turned = dataclasses.replace(windows, flip=1.0).batch(rows, torch.Generator().manual_seed(0))
    for name in ("picture", "mask"):
        assert torch.equal(plain[name].flip(3), turned[name]), name
    assert plain["picture"].abs().max() <= 1
    assert plain["z"].shape == plain["other"].shape == (6, 8)
    box = face_boxes(faces.points)[0]
    share = 1 - plain["mask"][0].mean().item()
    height = min(box[3], 112) - box[1]
    assert share == pytest.approx((box[2] - box[0]) * height / (1.4 * height) ** 2, abs=0.15)


# ---------------------------------------------------------------- the shipped weights
@pytest.fixture(scope="module")
def faces() -> AlignedFaces:
    return draw_training_faces(Faces(identities=8, images=7, seed=12))


def painted(faces: AlignedFaces, **setting: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Clear and anonymized crops."""
    anonymizer = DeepPrivacy2(**setting)
    context = FitContext(faces, {}, Teachers(), CPU, 0, lambda numbers: None)
    anonymizer.load(anonymizer.fit(context), CPU)
    batch = example_batch(faces, CPU)
    return batch.image, anonymizer.anonymize(batch)


def test_the_shipped_weights_are_small_and_made_for_the_current_drawings() -> None:
    found = shipped()
    assert found.path.stat().st_size <= 800_000
    with safe_open(found.path, framework="pt") as file:
        made = json.loads(file.metadata()["made"])
    remake = "remake it: python -m raysweep.training.inpainting --out raysweep/assets"
    assert made["drawing_version"] == DRAWING_VERSION, remake
    assert made["recipe"] == dataclasses.asdict(Recipe()), remake
    assert found.entry.arguments == dataclasses.asdict(Recipe().architecture)


def test_the_shipped_weights_paint_faces(faces: AlignedFaces) -> None:
    """Nearer to faces than one colour is, and with their light and dark in the right places."""
    clear, out = painted(faces)
    x0, y0, x1, y1 = face_boxes(faces.frame.points[None]).clip(0, 112)[0].astype(int)
    box = (slice(None), slice(None), slice(y0 + 4, y1 - 4), slice(x0 + 4, x1 - 4))
    face, drawn = clear[box].float(), out[box].float()
    plain = clear.float().mean()
    assert (drawn - face).abs().mean() < 0.8 * (plain - face).abs().mean()
    mean_face, mean_drawn = (pictures.mean((0, 1)).flatten() for pictures in (face, drawn))
    assert torch.corrcoef(torch.stack([mean_face, mean_drawn]))[0, 1] > 0.6


def test_the_shipped_weights_use_their_latents(faces: AlignedFaces) -> None:
    _, mean = painted(faces)
    _, own = painted(faces, truncation=1.0)
    _, modes = painted(faces, truncate_to="modes")
    assert (own.float() - mean.float()).abs().mean() > 1.0
    assert (modes.float() - mean.float()).abs().mean() > 0.5


@pytest.mark.slow
def test_what_is_written_is_what_was_trained(tmp_path: Path) -> None:
    tutor, told = trainer_of(SMALL), []
    pretrain(SMALL, tutor, told.append)
    assert told[-1]["step"] == 4
    path = write(SMALL, tutor.averaged, tmp_path)
    assert path.name == ASSET
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        centres = file.get_tensor("style_net.w_centers")
        mean = file.get_tensor("style_net.w_avg").float()
        kept = file.get_tensor("from_rgb.weight").float()
    wanted = {name for name in Generator(TINY).state_dict() if not name.endswith("resample_filter")}
    assert names == wanted | {"style_net.w_centers"}
    assert centres.shape == (2, 8)
    assert torch.allclose(kept, tutor.averaged.from_rgb.weight, rtol=1e-3, atol=1e-3)
    z = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(tutor.averaged.style(z).mean(0), mean, atol=5 / math.sqrt(20_000))


@pytest.mark.slow
def test_the_command_gives_the_same_file_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one", "two"):
        assert main(["--out", str(tmp_path / folder), "--steps", "3"]) == 0
    assert (tmp_path / "one" / ASSET).read_bytes() == (tmp_path / "two" / ASSET).read_bytes()
    assert "step 3/3" in capsys.readouterr().out
