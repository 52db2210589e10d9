from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from raysweep.anonymizers.base import FitContext, Teachers
from raysweep.anonymizers.ciagan.anonymizer import CIAGAN, PUBLISHED
from raysweep.anonymizers.ciagan.conditioning import condition
from raysweep.anonymizers.ciagan.network import Generator, build
from raysweep.errors import ConfigError, ModelError, TrialError
from raysweep.models.zoo import Zoo, open_zoo
from raysweep.schema import FaceBatch
from raysweep.testing.anonymizer import example_batch
from raysweep.training.ciagan import SmallRecipe, draw_people

CPU = torch.device("cpu")
SMALL_FILE: dict[str, Any] = {"classes": 5, "side": 64, "width": 4, "residuals": 1}


@pytest.fixture(scope="module")
def faces() -> Any:
    return draw_people(SmallRecipe(targets=4, images=2, others=1, other_images=1, seed=21))


@pytest.fixture(scope="module")
def batch(faces: Any) -> FaceBatch:
    return example_batch(faces, CPU)


@pytest.fixture(scope="module")
def context(faces: Any) -> FitContext:
    return FitContext(faces, {}, Teachers(), CPU, 0, lambda numbers: None)


def folder_with(folder: Path, state: dict[str, torch.Tensor]) -> Zoo:
    """A folder that holds a CIAGAN checkpoint of its owner's, described beside it."""
    torch.save(state, folder / "mine.pth")
    entry = {
        "name": "mine", "task": "generator", "family": "ciagan", "file": "mine.pth", "licence": "own",
        "format": "torch-state-dict", "architecture": "ciagan", "arguments": SMALL_FILE,
    }  # fmt: skip
    (folder / "models.yaml").write_text(yaml.safe_dump({"entries": [entry]}))
    return open_zoo(folder)


def weights() -> dict[str, torch.Tensor]:
    return build(lambda: Generator(**SMALL_FILE), torch.Generator().manual_seed(4)).state_dict()


def ready(context: FitContext, zoo: Zoo | None = None, **setting: Any) -> CIAGAN:
    made = CIAGAN(**setting)
    made.for_faces(context.background.synthetic)
    if zoo is not None:
        made.use_weights({family: zoo.generator(family) for family in made.weights_needed()})
    state = made.fit(context)
    other = CIAGAN(**setting)
    if zoo is not None:
        other.use_weights(made.weights)
    other.load(state, CPU)
    return other


SCRATCH: dict[str, Any] = {"init": "scratch", "width": 4, "classes": 5}


def test_the_published_setting_is_allowed() -> None:
    assert CIAGAN.problems(PUBLISHED) == []


def test_auto_is_small_for_drawn_faces_and_published_for_photographs() -> None:
    drawn, photographs = CIAGAN(), CIAGAN()
    drawn.for_faces(True)
    photographs.for_faces(False)
    assert drawn.weights_needed() == frozenset()
    assert photographs.weights_needed() == {"ciagan"}
    assert CIAGAN(init="published").weights_needed() == {"ciagan"}
    assert CIAGAN(init="scratch").weights_needed() == frozenset()
    with pytest.raises(ConfigError, match="not for photographs"):
        CIAGAN(init="small").for_faces(False)


def test_without_the_weights_it_says_what_to_put_where(tmp_path: Path, context: FitContext) -> None:
    with pytest.raises(ModelError, match=r"modelG\.pth"):
        open_zoo(tmp_path).generator("ciagan")
    with pytest.raises(ModelError, match="use_weights"):
        CIAGAN(init="published").fit(context)


def test_a_teacher_is_asked_for_only_when_it_teaches() -> None:
    assert CIAGAN(expression_loss="feature").teachers_needed() == frozenset()
    assert CIAGAN(expression_loss="feature", steps=1).teachers_needed() == {"expression"}
    assert CIAGAN(expression_loss="feature", expression_weight=0.0, steps=1).teachers_needed() == frozenset()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"init": "small", "target": "fixed", "target_identity": 40}, "there are 40"),
        ({"init": "scratch", "classes": 7, "target": "fixed", "target_identity": 9}, "there are 7"),
        ({"steps": 5, "critic_steps": 0}, "never learn"),
        ({"steps": 5, "siamese_steps": 0}, "never learn"),
        ({"steps": 5, "augment": True, "expression_loss": "feature"}, "whole crop"),
    ],
)
def test_what_does_not_go_together_is_refused(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CIAGAN(**setting)
    with pytest.raises(ConfigError, match="there are 40"):
        CIAGAN(target="fixed", target_identity=40).for_faces(True)


def test_only_the_face_changes(context: FitContext, batch: FaceBatch) -> None:
    made = ready(context, **SCRATCH)
    out = made.anonymize(batch)
    changed = (out != batch.image).any(1)
    assert batch.landmarks is not None
    scene = condition(batch.image, batch.landmarks, 64)
    area = float(scene.mask.mean())
    for row in range(len(batch)):
        jaw = batch.landmarks[row, :17]
        rows, columns = changed[row].nonzero(as_tuple=True)
        assert rows.min() >= batch.landmarks[row, [19, 24], 1].min() - 3
        assert rows.max() <= jaw[:, 1].max() + 3
        assert columns.min() >= jaw[:, 0].min() - 3
        assert columns.max() <= jaw[:, 0].max() + 3
    assert changed.float().mean() > area, "the picture is larger than the crop, so the face is more of the crop"


def test_targets_are_random_fixed_or_the_next_person(context: FitContext, batch: FaceBatch) -> None:
    made = ready(context, **SCRATCH)
    assert made._targets_of(batch) == [int(seed) % 5 for seed in batch.seed]
    assert ready(context, **SCRATCH, target="fixed", target_identity=3)._targets_of(batch) == [3] * len(batch)
    following = ready(context, **SCRATCH, target="own_plus_one")
    assert batch.identity is not None
    assert following._targets_of(batch) == [(int(person) + 1) % 5 for person in batch.identity]
    for identity in (None, np.full(len(batch), -1)):
        with pytest.raises(TrialError, match="who each face is"):
            following.anonymize(replace(batch, identity=identity))


def test_the_target_decides_the_face(context: FitContext, batch: FaceBatch) -> None:
    first = ready(context, **SCRATCH, target="fixed", target_identity=0).anonymize(batch)
    second = ready(context, **SCRATCH, target="fixed", target_identity=1).anonymize(batch)
    assert (first != second).flatten(1).any(1).all()


def test_published_weights_are_read_where_they_lie(tmp_path: Path, context: FitContext, batch: FaceBatch) -> None:
    zoo = folder_with(tmp_path, weights())
    made = CIAGAN(init="published")
    made.use_weights({"ciagan": zoo.generator("ciagan")})
    state = made.fit(context)
    assert sum(tensor.numel() for tensor in state.values()) < 10, "the weights do not travel"
    made.load(state, CPU)
    assert made.guarantee["weights"] == "mine"
    assert made.guarantee["sha256"] == zoo.generator("ciagan").sha256
    assert made.trained == {"init": "published", "steps": 0, "targets": 5}
    generator = build(lambda: Generator(**SMALL_FILE))
    generator.load_state_dict(weights())
    assert batch.landmarks is not None
    scene = condition(batch.image[:1], batch.landmarks[:1], 64)
    with torch.no_grad():
        drawn = generator.eval()(scene.given, torch.eye(5)[[int(batch.seed[0]) % 5]])
    middle = batch.landmarks[0, 30].round().int().tolist()
    place = (batch.landmarks[0, 30] - scene.edges[0, :2]) / scene.edges[0, 2:] * 64 - 0.5
    x, y = place.round().int().tolist()
    got = made.anonymize(batch)[0, :, middle[1], middle[0]].float() / 255
    near = drawn[0, :, y - 2 : y + 3, x - 2 : x + 3].clamp(0, 1)
    assert (got >= near.amin((1, 2)) - 0.01).all()
    assert (got <= near.amax((1, 2)) + 0.01).all()


def test_a_checkpoint_with_a_tensor_too_few_is_refused(tmp_path: Path, context: FitContext) -> None:
    state = weights()
    del state["embed.0.conv2d.weight_u"]
    zoo = folder_with(tmp_path, state)
    made = CIAGAN(init="published")
    made.use_weights({"ciagan": zoo.generator("ciagan")})
    with pytest.raises(ModelError, match=r"missing: embed\.0\.conv2d\.weight_u"):
        made.fit(context)


def test_published_weights_can_be_trained_further(tmp_path: Path, context: FitContext, batch: FaceBatch) -> None:
    zoo = folder_with(tmp_path, weights())
    made = ready(context, zoo, init="published", steps=1, batch_size=2, learning_rate=1e-3)
    plain = ready(context, zoo, init="published")
    assert made.trained == {"init": "published", "steps": 1, "targets": 4}
    assert not torch.equal(made.anonymize(batch), plain.anonymize(batch))
    assert "weights" not in made.guarantee, "it is no longer what the file holds"


def test_training_needs_people(context: FitContext) -> None:
    nobody = replace(context, background=context.background.take(np.array([], dtype=np.int64)))
    with pytest.raises(TrialError, match="role G"):
        CIAGAN(**SCRATCH, steps=1).fit(nobody)
    assert CIAGAN(**SCRATCH).fit(nobody)["trained"].tolist()[:3] == [0, 0, 5]


def test_other_landmarks_are_refused(context: FitContext, batch: FaceBatch) -> None:
    made = ready(context, **SCRATCH)
    assert batch.landmarks is not None
    with pytest.raises(ConfigError, match="30 landmarks"):
        made.anonymize(replace(batch, landmarks=batch.landmarks[:, :30]))
    with pytest.raises(TrialError, match="landmarks"):
        made.anonymize(replace(batch, landmarks=None))
