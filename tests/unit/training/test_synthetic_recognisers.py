"""The shipped recognisers do what their headers say, and their training is deterministic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import raysweep
from raysweep.data.synthetic import DRAWING_VERSION, SyntheticFaces
from raysweep.errors import ConfigError
from raysweep.models.small import load_small
from raysweep.schema import ARCFACE_POINTS
from raysweep.training.recognisers import (
    HELD_OUT_SEED,
    RECIPES,
    TRAINING_SEED,
    aligned_batch,
    as_input,
    held_out_scores,
    main,
    rank_one,
    train,
)

ASSETS = Path(raysweep.__file__).parent / "assets"
EMBEDDERS = [name for name, recipe in RECIPES.items() if recipe.task == "embedder"]
CLASSIFIERS = [name for name, recipe in RECIPES.items() if recipe.task == "expression"]


@pytest.mark.parametrize("name", RECIPES)
def test_header_matches_the_recipe_and_the_drawing(name):
    path = ASSETS / f"{name}.safetensors"
    assert path.stat().st_size < 800_000
    _, metadata = load_small(path)
    recipe = RECIPES[name]
    assert metadata["architecture"] == recipe.architecture
    assert json.loads(metadata["kwargs"]) == dict(recipe.kwargs)
    assert metadata["drawing"] == str(DRAWING_VERSION), "the drawing changed: train the recognisers again"
    assert name in metadata["training"]
    assert TRAINING_SEED <= int(metadata["training_seed"]) < HELD_OUT_SEED == int(metadata["held_out_seed"])


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embedders_tell_unseen_people_apart(name):
    network, metadata = load_small(ASSETS / f"{name}.safetensors")
    assert json.loads(metadata["scores"])["rank1"] >= 0.95
    assert held_out_scores(network, "embedder", identities=40, images=14)["rank1"] >= 0.95


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_read_expressions_well_but_not_perfectly(name):
    network, metadata = load_small(ASSETS / f"{name}.safetensors")
    header = json.loads(metadata["scores"])["accuracy"]
    assert 0.88 <= header <= 0.98
    again = held_out_scores(network, "expression", identities=40, images=14)["accuracy"]
    # 560 faces: three standard errors are about 0.03.
    assert again == pytest.approx(header, abs=0.035)


def test_no_two_recognisers_share_people_or_weights():
    assert len({recipe.seed for recipe in RECIPES.values()}) == len(RECIPES)
    first = {name: next(load_small(ASSETS / f"{name}.safetensors")[0].parameters()).sum().item() for name in RECIPES}
    assert len(set(first.values())) == len(RECIPES)


@pytest.mark.parametrize("name", ["synthetic-id-b", "synthetic-fer-b"])
def test_training_is_deterministic(name):
    recipe = replace(RECIPES[name], steps=2, batch=8, identities=5)
    first, second = (train(recipe, lambda _: None).state_dict() for _ in range(2))
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
    other = train(replace(recipe, seed=99), lambda _: None).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.slow
def test_training_learns():
    recipe = replace(RECIPES["synthetic-fer-a"], steps=120, batch=48)
    network = train(recipe, lambda _: None)
    assert held_out_scores(network, "expression", identities=20, images=14)["accuracy"] > 0.4


def test_aligned_faces_have_their_points_on_the_template():
    row = np.arange(40)
    crops, expression = aligned_batch(SyntheticFaces(), row, row)
    assert crops.shape == (40, 112, 112, 3)
    assert expression.shape == (40,)
    mean = crops.mean(axis=(0, 3))
    for x, y in np.round(ARCFACE_POINTS[:2]).astype(int):
        assert mean[y, x] < mean[y + 14, x] - 15, "eyes are darker than cheeks"
    tensor = as_input(crops)
    assert tensor.shape == (40, 3, 112, 112)
    assert tensor.min() >= -1
    assert tensor.max() <= 1


def test_rank_one_counts_nearest_people():
    embedding = np.eye(3, dtype=np.float32)[[0, 1, 0, 2]]
    identity = np.array([0, 1, 0, 1])
    enrolled = np.array([True, True, False, False])
    # The last probe is equally far from both: the first enrolled person is taken, which is wrong.
    assert rank_one(embedding, identity, enrolled) == 0.5


def test_unknown_network_is_named(tmp_path):
    with pytest.raises(ConfigError, match="synthetic-id-a"):
        main(["--out", str(tmp_path), "--only", "synthetic-id-aa"])


def test_remaking_gives_the_same_bytes(tmp_path, monkeypatch):
    tiny = replace(RECIPES["synthetic-fer-b"], steps=2, batch=8, identities=5)
    monkeypatch.setitem(RECIPES, tiny.name, tiny)
    monkeypatch.setattr("raysweep.training.recognisers.held_out_scores", lambda *_: {"accuracy": 0.5})
    for folder in ("first", "second"):
        assert main(["--out", str(tmp_path / folder), "--only", tiny.name]) == 0
    first, second = (tmp_path / folder / f"{tiny.name}.safetensors" for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert load_small(first)[1]["scores"] == '{"accuracy": 0.5}'
