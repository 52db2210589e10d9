from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raysweep.anonymizers.base import Teachers
from raysweep.anonymizers.ciagan.network import Generator, build
from raysweep.errors import ConfigError, ModelError
from raysweep.training.ciagan import (
    CiaganExamples,
    CiaganObjective,
    CiaganTrainer,
    Rhythm,
    SmallRecipe,
    contrastive_loss,
    draw_people,
    load_small_ciagan,
    make_networks,
    train_ciagan,
)
from raysweep.training.trainer import Examples, Trainer

PEOPLE = SmallRecipe(targets=4, images=3, others=2, other_images=1, seed=11)
FULL = CiaganObjective(adversarial=1.0, identity=1.0, reconstruction=1.0, expression=1.0, expression_loss="kd_logit")


@pytest.fixture(scope="module")
def faces() -> Any:
    return draw_people(PEOPLE)


@pytest.fixture(scope="module")
def examples(faces: Any) -> CiaganExamples:
    return CiaganExamples.of(faces, 64, 4, rhythm=Rhythm(1, 2, 1), own=0.5, crops=True)


def teacher(crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    features = F.adaptive_avg_pool2d(crops, 4).flatten(1)
    return features @ torch.linspace(-1, 1, 48 * 7).view(48, 7), features


def trainer(objective: CiaganObjective = FULL, seed: int = 0, **settings: Any) -> CiaganTrainer:
    random = torch.Generator().manual_seed(seed)
    generator = build(lambda: Generator(4, 64, 4, 1), random)
    critic, siamese = make_networks(generator, 4, 4, random)
    return CiaganTrainer(generator, critic, siamese, objective, Teachers(expression=teacher), **settings)


def batches(examples: CiaganExamples, count: int) -> list[Mapping[str, torch.Tensor]]:
    return [examples.batch(torch.arange(4) + k, torch.Generator().manual_seed(k)) for k in range(count)]


def test_contrastive_loss_by_hand() -> None:
    first = torch.zeros(3, 2)
    second = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    same = torch.tensor([True, False, False])
    expected = (0.5 * 25 + 0.5 * (3 - 1) ** 2 + 0) / 3
    assert float(contrastive_loss(first, second, same)) == pytest.approx(expected, rel=1e-4)


def test_the_published_objective_and_rhythm() -> None:
    objective, rhythm = CiaganObjective(), Rhythm()
    assert (objective.adversarial, objective.identity, objective.reconstruction) == (1.0, 1.0, 0.0)
    assert not objective.uses_expression
    assert (rhythm.siamese, rhythm.critic, rhythm.generator) == (1, 5, 1)
    made = trainer(CiaganObjective())
    for optimizer in made._optimizers.values():
        group = optimizer.param_groups[0]
        assert isinstance(optimizer, torch.optim.Adam)
        assert (group["lr"], group["betas"]) == (1e-4, (0.5, 0.999))


def test_it_is_what_the_loop_asks_for(examples: CiaganExamples) -> None:
    made: Trainer = trainer()
    wanted: Examples = examples
    assert isinstance(made, Trainer)
    assert len(wanted) == 14
    assert set(made.modules()) == {"generator", "critic", "siamese"}


def test_a_batch_pairs_pictures_with_targets(examples: CiaganExamples, faces: Any) -> None:
    rows = torch.tensor([0, 3, 12, 13])
    batch = examples.batch(rows, torch.Generator().manual_seed(5))
    assert batch["lines"].shape == batch["photo"].shape == (4, 3, 3, 64, 64)
    assert batch["target"].shape == (4, 3)
    assert all(len(tensor) == 4 for tensor in batch.values())
    assert torch.equal(batch["photo"][:, -1], examples.photo[rows]), "the rows asked for are the generator's"
    label = torch.tensor([0, 1, -1, -1])
    assert torch.equal(batch["own"], batch["target"][:, -1] == label)
    assert not batch["own"][2:].any(), "people who are nobody's target are never their own"
    for row in range(4):
        shown = (examples.photo == batch["model"][row]).flatten(1).all(1).nonzero().flatten()
        assert (faces.table.identity[shown.numpy()] == int(batch["target"][row, -1])).all()
    who = [
        [
            faces.table.identity[(examples.photo == picture).flatten(1).all(1).numpy()][0]
            for picture in batch[side][:, 0]
        ]
        for side in ("first", "second")
    ]
    assert (np.equal(*who) == batch["same"][:, 0].numpy()).all()
    assert batch["same"][:, 0].tolist() == [True, False, True, False]
    again = examples.batch(rows, torch.Generator().manual_seed(5))
    assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_faces_are_their_own_target_as_often_as_asked(faces: Any) -> None:
    for own, low, high in ((0.0, 0.1, 0.4), (1.0, 1.0, 1.0)):
        made = CiaganExamples.of(faces, 64, 4, rhythm=Rhythm(0, 0, 1), own=own)
        batch = made.batch(torch.arange(12).repeat(12), torch.Generator().manual_seed(0))
        assert low <= float(batch["own"].float().mean()) <= high


def test_augmented_pictures_are_enlarged_parts(faces: Any) -> None:
    wide = CiaganExamples.of(faces, 64, 4, rhythm=Rhythm(1, 1, 1), augment=True)
    assert wide.photo.shape[-1] == 72
    batch = wide.batch(torch.arange(14), torch.Generator().manual_seed(0))
    assert batch["photo"].shape == (14, 2, 3, 64, 64)
    # A cut of 0.5 to 0.75 of each side shows the mask 1.8 to 4 times as large, as far as it fits in.
    larger = batch["mask"][:, -1].float().mean() / wide.mask.float().mean()
    assert 1.4 < float(larger) < 3.5


def test_too_few_people_and_missing_landmarks_are_told(faces: Any) -> None:
    with pytest.raises(ConfigError, match="two people"):
        CiaganExamples.of(faces.take(np.array([0, 1, 12, 13])), 64, 4)
    with pytest.raises(ConfigError, match="landmarks"):
        CiaganExamples.of(replace(faces, landmarks=None), 64, 4)
    with pytest.raises(ConfigError, match="expression_loss"):
        CiaganTrainer(*_networks(), FULL, Teachers())


def _networks() -> Any:
    random = torch.Generator().manual_seed(0)
    generator = build(lambda: Generator(4, 64, 4, 1), random)
    return generator, *make_networks(generator, 4, 4, random)


def test_a_round_moves_every_network_and_reports_each_term(examples: CiaganExamples) -> None:
    made = trainer()
    before = {name: copy.deepcopy(network.state_dict()) for name, network in made.modules().items()}
    numbers = made.step(batches(examples, 1)[0])
    assert set(numbers) == {"siamese", "critic", "adversarial", "identity", "reconstruction", "expression"}
    assert all(np.isfinite(value) for value in numbers.values())
    for name, network in made.modules().items():
        moved = [key for key, value in network.named_parameters() if not torch.equal(value, before[name][key])]
        assert len(moved) == len(list(network.parameters())), name


def test_a_network_that_nothing_asks_is_left_alone(examples: CiaganExamples) -> None:
    made = trainer(CiaganObjective(adversarial=0.0, identity=0.0, reconstruction=1.0))
    before = {name: copy.deepcopy(network.state_dict()) for name, network in made.modules().items()}
    assert set(made.step(batches(examples, 1)[0])) == {"reconstruction"}
    for name in ("critic", "siamese"):
        assert all(torch.equal(value, before[name][key]) for key, value in made.modules()[name].state_dict().items())


@pytest.mark.parametrize("term", ["adversarial", "identity", "reconstruction", "expression"])
def test_each_term_changes_what_is_learned(term: str, examples: CiaganExamples) -> None:
    """The arms of an ablation differ because their gradients do."""
    batch = batches(examples, 1)[0]
    with_term, without = trainer(FULL), trainer(replace(FULL, **{term: 0.0}))
    with_term.step(batch)
    without.step(batch)
    names = [name for name, _ in with_term.generator.named_parameters()]
    assert any(
        not torch.equal(with_term.generator.state_dict()[name], without.generator.state_dict()[name]) for name in names
    )


def test_it_continues_to_the_last_bit(examples: CiaganExamples) -> None:
    """Through a file, into fresh networks with other weights."""
    work = batches(examples, 4)
    whole = trainer(steps=4)
    for batch in work:
        whole.step(batch)
    first = trainer(steps=4)
    for batch in work[:2]:
        first.step(batch)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = trainer(seed=9, steps=4)
    second.load_state_dict(torch.load(file, weights_only=True))
    for batch in work[2:]:
        second.step(batch)
    for name, network in whole.modules().items():
        other = second.modules()[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in network.state_dict().items()), name
    assert second._rate() == whole._rate() == 0.0


def test_training_in_one_process_is_deterministic_and_learns(faces: Any) -> None:
    """Told to reproduce faces, it comes nearer to them; and the same seed gives the same weights."""
    examples = CiaganExamples.of(faces, 64, 4, rhythm=Rhythm(0, 0, 1), own=1.0)
    curves = []
    for _ in range(2):
        made = trainer(CiaganObjective(0.0, 0.0, 1.0), learning_rate=3e-3)
        rows: list[Mapping[str, float]] = []
        train_ciagan(made, examples, steps=30, batch=4, seed=1, report=rows.append)
        assert not made.generator.training
        curves.append([row["reconstruction"] for row in rows])
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert curves[0] == curves[1]
    first, _ = examples.batch(torch.arange(4), torch.Generator().manual_seed(0)), None
    start = trainer(CiaganObjective(0.0, 0.0, 1.0)).step(first)["reconstruction"]
    assert curves[0][-1] < 0.6 * start


def test_a_missing_or_foreign_asset_is_told(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match=r"python -m raysweep\.training\.ciagan"):
        load_small_ciagan(tmp_path / "ciagan-synthetic.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a file of tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_small_ciagan(broken)
