"""The shipped generator: is it there, is it ours, and does it do what little so short a training can?"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open

from raysweep.anonymizers.base import FitContext, Teachers
from raysweep.anonymizers.ciagan.anonymizer import CIAGAN
from raysweep.data.synthetic import DRAWING_VERSION
from raysweep.models.small import load_small
from raysweep.schema import AlignedFaces
from raysweep.testing.anonymizer import example_batch
from raysweep.training.ciagan import ASSET, SmallRecipe, draw_people, load_small_ciagan
from raysweep.training.shipped import asset_path

CPU = torch.device("cpu")
PEOPLE, IMAGES = 12, 7


def test_it_is_small_and_made_for_the_current_drawings() -> None:
    assert asset_path(ASSET).stat().st_size <= 700_000
    with safe_open(asset_path(ASSET), framework="pt") as file:
        made = json.loads(file.metadata()["made"])
    assert made["drawing_version"] == DRAWING_VERSION, (
        "remake it: python -m raysweep.training.ciagan --out raysweep/assets"
    )
    small = load_small_ciagan()
    assert small.recipe == SmallRecipe()
    assert small.network().classes == 40


@pytest.fixture(scope="module")
def faces() -> AlignedFaces:
    return draw_people(SmallRecipe(targets=PEOPLE, images=IMAGES, others=0, seed=77))


def released(faces: AlignedFaces, **setting: Any) -> torch.Tensor:
    made = CIAGAN(**setting)
    made.load(made.fit(FitContext(faces, {}, Teachers(), CPU, 0, lambda numbers: None)), CPU)
    return made.anonymize(example_batch(faces, CPU))


def test_auto_takes_it_for_drawn_faces(faces: AlignedFaces) -> None:
    made = CIAGAN()
    made.load(made.fit(FitContext(faces, {}, Teachers(), CPU, 0, lambda numbers: None)), CPU)
    assert made.trained == {"init": "small", "steps": 0, "targets": 40}


def test_it_draws_skin_and_the_target_decides_which(faces: AlignedFaces) -> None:
    clear = example_batch(faces, CPU).image.float()
    error = {init: float((released(faces, init=init).float() - clear).abs().mean()) for init in ("small", "scratch")}
    assert error["small"] < 0.5 * error["scratch"]
    one, two = (released(faces, init="small", target="fixed", target_identity=k).float() for k in (0, 3))
    assert (one - two).abs().mean() > 1.0


def test_it_hides_who_it_is(faces: AlignedFaces) -> None:
    """Rank-1 of released faces among clear ones, other images of the same person being right."""
    who: Any = load_small(asset_path(ASSET).parent / "synthetic-id-a.safetensors")[0].requires_grad_(False)
    clear = example_batch(faces, CPU).image
    person = torch.arange(len(clear)) // IMAGES
    gallery = who((clear.float() - 127.5) / 127.5)
    itself = torch.eye(len(clear), dtype=torch.bool)

    def rank(image: torch.Tensor) -> float:
        near = (who((image.float() - 127.5) / 127.5) @ gallery.T).masked_fill(itself, -2.0).argmax(1)
        return float((person[near] == person).float().mean())

    assert rank(clear) > 0.9
    assert rank(released(faces, init="small")) < 0.75
