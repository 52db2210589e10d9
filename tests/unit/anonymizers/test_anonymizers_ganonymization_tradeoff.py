"""That there is something to search: on the shipped networks, the controls move privacy and utility the way they say.

The teacher and the judges are different networks, trained apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from raysweep.anonymizers.base import FitContext, Teachers
from raysweep.anonymizers.ganonymization.anonymizer import GANonymization
from raysweep.models.small import load_small
from raysweep.testing.anonymizer import example_batch
from raysweep.training.generator import ASSET, Recipe, draw_training_faces
from raysweep.training.shipped import asset_path

CPU = torch.device("cpu")
PEOPLE, IMAGES = 30, 14


def shipped(name: str) -> Any:
    return load_small(asset_path(ASSET).parent / f"{name}.safetensors")[0].eval().requires_grad_(False)


def linked(embedding: torch.Tensor) -> float:
    """Rank-1 from anonymized enrolment to anonymized probes (attacker A1), best match per person, ties shared."""
    person = torch.arange(len(embedding)) // IMAGES
    probe = torch.arange(len(embedding)) % 2 == 1
    near = embedding[probe] @ embedding[~probe].T
    score = torch.stack([near[:, person[~probe] == who].amax(1) for who in range(PEOPLE)], 1)
    own = score.gather(1, person[probe][:, None])
    above, equal = (score > own).sum(1), (score == own).sum(1)
    return float(torch.where(above == 0, 1.0 / equal, 0.0).mean())


@pytest.fixture(scope="module")
def measure() -> Callable[..., tuple[float, float]]:
    """Setting -> (rank-1 of A1, share of faces that keep their expression)."""
    who, judge, teacher = shipped("synthetic-id-a"), shipped("synthetic-fer-a"), shipped("synthetic-fer-teacher")
    background = draw_training_faces(Recipe(identities=20, images=14, seed=5))
    batch = example_batch(draw_training_faces(Recipe(identities=PEOPLE, images=IMAGES, seed=77)), CPU)
    taught = Teachers(expression=lambda crops: (teacher(crops * 2 - 1), teacher.features(crops * 2 - 1)))
    context = FitContext(background, {}, taught, CPU, 0, lambda numbers: None)

    def run(network: Any, image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([network((part.float() - 127.5) / 127.5) for part in image.split(70)])

    clear = run(judge, batch.image).argmax(1)

    def measured(**setting: Any) -> tuple[float, float]:
        anonymizer = GANonymization(**setting)
        anonymizer.load(anonymizer.fit(dataclasses.replace(context)), CPU)
        image = anonymizer.anonymize(batch)
        kept = (run(judge, image).argmax(1) == clear).numpy()
        return linked(run(who, image)), float(np.mean(kept))

    return measured


def test_an_untrained_network_shows_no_expression_and_the_shipped_one_does(measure: Any) -> None:
    assert measure(steps=0, init="scratch")[1] < 0.3
    assert measure(steps=0, init="small")[1] > 0.5


@pytest.mark.slow
def test_the_controls_trade_privacy_for_utility(measure: Any) -> None:
    plain = measure(steps=80)
    guided = measure(steps=80, expression_loss="kd_logit", expression_weight=3.0)
    masked = measure(steps=80, conditioning="landmarks+mask")
    mixed = measure(steps=80, expression_loss="kd_logit", expression_weight=3.0, shape_mix=1.0)
    assert guided[1] > plain[1] + 0.03, "the expression loss keeps more expression"
    assert masked[0] > plain[0] + 0.15, "a parsing mask gives more of the person away"
    assert mixed[0] < guided[0] - 0.04, "mixing shapes hides the person"
    assert mixed[1] < guided[1], "and costs some expression"
