"""The anonymizer around the generator: what each parameter does, which weights it takes, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raysweep.anonymizers.base import FitContext
from raysweep.anonymizers.deepprivacy2.anonymizer import DeepPrivacy2
from raysweep.anonymizers.deepprivacy2.conditioning import face_boxes
from raysweep.anonymizers.deepprivacy2.network import Architecture, Generator, build
from raysweep.errors import ConfigError, ModelError
from raysweep.faces import check_needs
from raysweep.models.entry import Entry
from raysweep.models.loading import file_digest
from raysweep.models.zoo import Found, open_zoo
from raysweep.schema import FaceBatch, Frame
from raysweep.search.parameters import Categorical
from raysweep.search.space import Arm, Space
from raysweep.testing.anonymizer import example_batch, example_context, example_faces

CPU = torch.device("cpu")
TINY = Architecture(side=32, width=4, widest=2, lowest=8, latent=16)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A checkpoint as published, of a tiny network with random weights."""
    random = torch.Generator().manual_seed(3)
    network = build(lambda: Generator(TINY), random)
    network.style_net.w_avg.copy_(torch.randn(16, generator=random))
    path = tmp_path_factory.mktemp("published") / "tiny.pth"
    torch.save({"EMA_generator": network.state_dict(), "w_centers": torch.randn(3, 16, generator=random)}, path)
    entry = Entry(
        name="tiny",
        task="generator",
        family="deepprivacy2",
        file=path.name,
        licence="MIT",
        format="torch-state-dict",
        architecture="deepprivacy2",
        arguments=dataclasses.asdict(TINY),
        key="EMA_generator",
    )
    return Found(entry, path, file_digest(path))


def photographs(seed: int = 0) -> FitContext:
    context = example_context(CPU, size=112, seed=seed)
    return dataclasses.replace(context, background=dataclasses.replace(context.background, synthetic=False))


def loaded(published: Found, trial: int = 0, **setting: Any) -> DeepPrivacy2:
    anonymizer = DeepPrivacy2(**setting)
    anonymizer.for_faces(synthetic=False)
    anonymizer.use_weights({"deepprivacy2": published})
    anonymizer.load(anonymizer.fit(photographs(trial)), CPU)
    return anonymizer


def same_face(count: int) -> FaceBatch:
    """One face several times, each with a seed of its own."""
    batch = example_batch(example_faces(3, "E"), CPU, [0] * count)
    return dataclasses.replace(batch, seed=np.arange(count, dtype=np.int64))


def test_only_the_box_changes(published: Found) -> None:
    batch = example_batch(example_faces(6, "E"), CPU)
    out = loaded(published).anonymize(batch)
    changed = (out != batch.image).any(dim=1)
    for row, (x0, y0, x1, y1) in enumerate(face_boxes(batch.points.numpy())):
        # A pixel of the generator's 32 covers up to 5 of the crop.
        inner = (slice(int(y0) + 5, min(int(y1) - 5, 107)), slice(int(x0) + 5, int(x1) - 5))
        assert changed[row][inner].float().mean() > 0.95
        outside = changed[row].clone()
        outside[max(int(y0) - 5, 0) : int(y1) + 6, max(int(x0) - 5, 0) : int(x1) + 6] = False
        assert not outside.any()


def test_the_face_itself_never_counts(published: Found) -> None:
    """Another face within the box, the same surroundings: the same result there."""
    batch = example_batch(example_faces(3, "E"), CPU)
    other = batch.image.clone()
    # The generator's pixels are 5 of the crop wide, and the rectangle is truncated to them.
    for row, (x0, y0, x1, y1) in enumerate(face_boxes(batch.points.numpy()).clip(0, 112).astype(int)):
        inner = (row, slice(None), slice(y0 + 5, y1 - 10), slice(x0 + 5, x1 - 10))
        other[inner] = 255 - other[inner]
    anonymizer = loaded(published)
    before, after = anonymizer.anonymize(batch), anonymizer.anonymize(dataclasses.replace(batch, image=other))
    assert torch.equal(before[other != batch.image], after[other != batch.image])


def test_truncation_decides_whether_styles_differ(published: Found) -> None:
    batch = same_face(4)
    mean = loaded(published, truncation=0.0).anonymize(batch)
    assert all(torch.equal(mean[0], face) for face in mean)
    own = loaded(published, truncation=1.0).anonymize(batch)
    assert all(not torch.equal(own[0], face) for face in own[1:])
    half = loaded(published, truncation=0.5).anonymize(batch)
    assert not torch.equal(half, own)
    assert not torch.equal(half, mean)


def test_modes_are_chosen_by_the_latent(published: Found) -> None:
    out = loaded(published, truncate_to="modes").anonymize(same_face(7))
    assert torch.equal(out[0], out[3])
    assert torch.equal(out[1], out[4])
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out[1], out[2])


def test_a_fixed_latent_is_the_trials_own(published: Found) -> None:
    batch = same_face(3)
    one = loaded(published, trial=5, truncation=1.0, latent="fixed").anonymize(batch)
    assert torch.equal(one[0], one[1])
    again = loaded(published, trial=5, truncation=1.0, latent="fixed").anonymize(batch)
    other = loaded(published, trial=6, truncation=1.0, latent="fixed").anonymize(batch)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_larger_box_removes_more(published: Found) -> None:
    batch = example_batch(example_faces(6, "E", size=160), CPU)
    batch = dataclasses.replace(
        batch, frame=Frame(160, 24), points=torch.from_numpy(np.repeat(Frame(160, 24).points[None], 6, axis=0))
    )
    removed = [
        (loaded(published, box_scale=scale).anonymize(batch) != batch.image).any(dim=1).float().mean().item()
        for scale in (0.5, 0.75, 1.0, 1.25)
    ]
    area = 80 * 109 / 160**2
    for scale, share in zip((0.5, 0.75, 1.0, 1.25), removed, strict=True):
        assert share == pytest.approx(area * scale**2, rel=0.12)


def test_half_precision_is_for_cuda(published: Found) -> None:
    batch = same_face(2)
    full, half = loaded(published), loaded(published, precision="float16")
    assert torch.equal(full.anonymize(batch), half.anonymize(batch))
    assert half.guarantee["precision"] == "float32"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_half_precision_on_cuda_stays_close(published: Found) -> None:
    device = torch.device("cuda")
    batch = example_batch(example_faces(9, "E"), device)
    faces = []
    for precision in ("float32", "float16"):
        anonymizer = DeepPrivacy2(precision=precision, truncation=1.0)
        anonymizer.use_weights({"deepprivacy2": published})
        anonymizer.load(anonymizer.fit(photographs()), device)
        faces.append(anonymizer.anonymize(batch).int())
    assert (faces[0] - faces[1]).abs().float().mean() < 1.0


def test_an_empty_batch(published: Found) -> None:
    batch = example_batch(example_faces(3, "E"), CPU, [])
    assert loaded(published).anonymize(batch).shape == (0, 3, 112, 112)


# ---------------------------------------------------------------- which weights
@pytest.mark.parametrize(
    ("init", "synthetic", "family"),
    [
        ("auto", True, "deepprivacy2-small"),
        ("auto", False, "deepprivacy2"),
        ("published", True, "deepprivacy2"),
        ("published", False, "deepprivacy2"),
        ("small", True, "deepprivacy2-small"),
    ],
)
def test_which_weights(init: str, synthetic: bool, family: str) -> None:
    anonymizer = DeepPrivacy2(init=init)
    anonymizer.for_faces(synthetic)
    assert anonymizer.weights_needed() == {family}


def test_the_record_says_which(published: Found) -> None:
    assert loaded(published).guarantee == {
        "init": "published",
        "weights": "tiny",
        "sha256": published.sha256,
        "precision": "float32",
    }


def test_the_small_generator_is_not_for_photographs() -> None:
    with pytest.raises(ConfigError, match="not for photographs"):
        DeepPrivacy2(init="small").for_faces(synthetic=False)
    with pytest.raises(ConfigError, match="not for photographs"):
        DeepPrivacy2(init="small").fit(photographs())


def test_published_weights_must_be_given() -> None:
    for anonymizer in (DeepPrivacy2(), DeepPrivacy2(init="published")):
        with pytest.raises(ModelError, match="needs the weights of 'deepprivacy2"):
            anonymizer.fit(photographs())


def test_modes_need_centres(published: Found, tmp_path: Path) -> None:
    state = torch.load(published.path, weights_only=True)
    path = tmp_path / "plain.pth"
    torch.save({"EMA_generator": state["EMA_generator"]}, path)
    plain = Found(published.entry, path, file_digest(path))
    with pytest.raises(ModelError, match="has no centres"):
        loaded(plain, truncate_to="modes")


def refusal(arm: Arm, models: Path, synthetic: bool) -> str:
    loaded_faces = dataclasses.replace(example_faces(6, "G"), synthetic=synthetic)
    faces: Any = SimpleNamespace(
        references=SimpleNamespace(faces=loaded_faces),
        source=SimpleNamespace(name="faces"),
        zoo=open_zoo(models).for_data(synthetic=synthetic, needs=()),
    )
    with pytest.raises(ConfigError) as caught:
        check_needs(Space("x", "", (arm,), {}), faces)
    return str(caught.value)


def test_a_sweep_without_the_weights_does_not_start(tmp_path: Path) -> None:
    said = refusal(Arm("deepprivacy2", fixed={"init": "auto"}), tmp_path, synthetic=False)
    assert "no deepprivacy2 weights at hand" in said
    assert "deepprivacy2_fdf256.pth" in said
    choice = Categorical(("auto", "published"), "auto")
    said = refusal(Arm("deepprivacy2", ranges={"init": choice}), tmp_path, synthetic=True)
    assert "with init=published" in said
    said = refusal(Arm("deepprivacy2", fixed={"init": "small"}), tmp_path, synthetic=False)
    assert "not for photographs" in said
