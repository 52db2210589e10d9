"""The shipped generator: is it there, is it ours, does it fit, and is it made by the command that it names?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from raysweep.anonymizers.base import FitContext, Teachers
from raysweep.anonymizers.ganonymization.anonymizer import GANonymization
from raysweep.data.synthetic import DRAWING_VERSION
from raysweep.errors import ModelError
from raysweep.schema import AlignedFaces
from raysweep.testing.anonymizer import example_batch
from raysweep.training.generator import ASSET, Recipe, draw_training_faces, load_pretrained, main
from raysweep.training.shipped import asset_path

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def faces() -> AlignedFaces:
    return draw_training_faces(Recipe(identities=6, images=7, seed=11))


def context(faces: AlignedFaces) -> FitContext:
    return FitContext(faces, {}, Teachers(), CPU, 0, lambda numbers: None)


def loaded(faces: AlignedFaces, **setting: str | int | float) -> GANonymization:
    anonymizer = GANonymization(**setting)
    anonymizer.load(anonymizer.fit(context(faces)), CPU)
    return anonymizer


def test_it_is_small_and_made_for_the_current_drawings() -> None:
    assert asset_path(ASSET).stat().st_size < 1_500_000
    with safe_open(asset_path(ASSET), framework="pt") as file:
        made = json.loads(file.metadata()["made"])
    assert made["drawing_version"] == DRAWING_VERSION, (
        "remake it: python -m raysweep.training.generator --out raysweep/assets"
    )
    assert load_pretrained().recipe == Recipe()


def test_it_draws_faces_of_people_it_has_never_seen(faces: AlignedFaces) -> None:
    batch = example_batch(faces, CPU)
    clear = (
        torch.where(batch.mask[:, None] == 0, 0, batch.image).float() if batch.mask is not None else batch.image.float()
    )
    error = {
        init: (loaded(faces, init=init, steps=0).anonymize(batch).float() - clear).abs().mean().item()
        for init in ("small", "scratch")
    }
    assert error["small"] < 0.45 * error["scratch"]


def test_auto_takes_it_for_drawn_faces_only_where_it_fits(faces: AlignedFaces) -> None:
    assert loaded(faces, steps=0).trained == {"init": "small", "steps": 0}
    assert loaded(faces, steps=0, width=8).trained == {"init": "scratch", "steps": 0}
    assert loaded(faces, steps=0, conditioning="mask").trained == {"init": "scratch", "steps": 0}


def test_a_mask_has_no_influence_before_training(faces: AlignedFaces) -> None:
    batch = example_batch(faces, CPU, [0, 1])
    with_mask = loaded(faces, steps=0, conditioning="landmarks+mask").anonymize(batch)
    assert (with_mask.int() - loaded(faces, steps=0).anonymize(batch).int()).abs().max() <= 1


def test_no_photograph_gets_through(faces: AlignedFaces) -> None:
    """The output depends on the landmarks alone: other pixels, same face."""
    batch = example_batch(faces, CPU, [0, 1])
    other = dataclasses.replace(batch, image=255 - batch.image)
    anonymizer = loaded(faces, steps=0)
    assert torch.equal(anonymizer.anonymize(batch), anonymizer.anonymize(other))


def test_damaged_or_missing_weights_say_how_to_remake_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="remake it"):
        load_pretrained(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(asset_path(ASSET).read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read"):
        load_pretrained(tmp_path / "cut.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_pretrained(tmp_path / "other.safetensors")


def test_the_training_faces_are_aligned(faces: AlignedFaces) -> None:
    assert np.abs(faces.points - faces.frame.points).mean() < 3
    assert faces.landmarks is not None
    assert faces.landmarks.shape == (42, 68, 2)
    # Eyes and mouth of the iBUG order lie where the five points say.
    assert np.abs(faces.landmarks[:, 36:42].mean(1) - faces.points[:, 0]).max() < 3


@pytest.mark.slow
def test_the_command_gives_the_same_file_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one", "two"):
        assert main(["--out", str(tmp_path / folder), "--steps", "3"]) == 0
    assert (tmp_path / "one" / asset_path(ASSET).name).read_bytes() == (
        tmp_path / "two" / asset_path(ASSET).name
    ).read_bytes()
    assert "step 3/3" in capsys.readouterr().out
