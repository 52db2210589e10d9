from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raysweep.errors import ConfigError, ModelError, StoreError, TrialError
from raysweep.training.loop import CHECKPOINTS, Plan, rows_of_step, train
from raysweep.training.saves import KEPT, last_checkpoint, save_checkpoint
from raysweep.training.trainer import Batch, Trainer, Update

PLAN = Plan("key", steps=23, batch=4, seed=3, checkpoint_every=5)


class Numbers:
    """Ten points of a line, with noise drawn anew each time."""

    def __len__(self) -> int:
        return 10

    def batch(self, rows: torch.Tensor, random: torch.Generator) -> Batch:
        x = rows[:, None].float() / 10 + 0.05 * torch.randn(len(rows), 1, generator=random)
        return {"x": x, "y": 3 * x - 1}


class Line:
    """A trainer with dropout and an optimizer that remembers."""

    def __init__(self, stop_at: int | None = None, bad_at: int | None = None) -> None:
        self.network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        with torch.no_grad():
            for number, parameter in enumerate(self.network.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) * (number + 1) / 4)
        self.update = Update()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.stop_at, self.bad_at, self.done = stop_at, bad_at, 0

    def step(self, batch: Batch) -> dict[str, float]:
        if self.done == self.stop_at:
            raise KeyboardInterrupt
        loss = (self.network(batch["x"]) - batch["y"]).square().mean()
        self.update(self.optimizer, list(self.network.parameters()), loss)
        self.done += 1
        return {"loss": float("nan") if self.done == self.bad_at else float(loss.detach())}

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = int(state["done"])

    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network}


def weights(trainer: Line) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])


def test_the_trainer_of_this_test_is_one() -> None:
    assert isinstance(Line(), Trainer)


@pytest.mark.parametrize("stopped_at", [3, 5, 17, 22])
def test_a_resumed_training_ends_in_the_same_bits(tmp_path: Path, stopped_at: int) -> None:
    whole, rows = Line(), []
    curve = train(whole, Numbers(), PLAN, tmp_path / "whole", report=rows.append)
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=stopped_at), Numbers(), PLAN, tmp_path / "cut", report=lambda _: None)
    torch.manual_seed(1234)  # another process has another global state
    notes: list[str] = []
    again = Line()
    second = train(again, Numbers(), PLAN, tmp_path / "cut", report=lambda _: None, resume=True, note=notes.append)
    assert torch.equal(weights(again), weights(whole))
    assert second == curve == rows
    assert [row["step"] for row in curve] == [10, 20, 23]
    assert notes == ([f"resumed at step {stopped_at // 5 * 5} of 23"] if stopped_at >= 5 else [])
    assert not again.network.training


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    trainer, before = Line(), torch.get_rng_state()
    train(trainer, Numbers(), PLAN, tmp_path, report=lambda _: None)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns(tmp_path: Path) -> None:
    curve = train(Line(), Numbers(), dataclasses.replace(PLAN, steps=300), tmp_path, report=lambda _: None)
    assert curve[-1]["loss"] < 0.3 * curve[0]["loss"]


def test_every_example_comes_once_a_round() -> None:
    rows = torch.cat([rows_of_step(Numbers(), PLAN, step) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    large = rows_of_step(Numbers(), dataclasses.replace(PLAN, batch=25), 1)
    assert len(large) == 25
    other = rows_of_step(Numbers(), dataclasses.replace(PLAN, seed=4), 0)
    assert other.tolist() != rows[:4].tolist()


def test_weights_decide_how_often_an_example_comes() -> None:
    class Weighted(Numbers):
        weights = torch.tensor([0.0] * 8 + [3.0, 1.0])

    rows = rows_of_step(Weighted(), dataclasses.replace(PLAN, batch=4000), 0)
    assert set(rows.tolist()) == {8, 9}
    assert 0.7 < (rows == 8).float().mean() < 0.8


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size = 4 cannot be shared evenly by 3 workers"):
        dataclasses.replace(PLAN, workers=3)
    with pytest.raises(TrialError, match="diverged at step 7: loss is not finite"):
        train(Line(bad_at=7), Numbers(), PLAN, tmp_path / "bad", report=lambda _: None)
    train(Line(), Numbers(), PLAN, tmp_path / "own", report=lambda _: None)
    other = dataclasses.replace(PLAN, key="another")
    with pytest.raises(ConfigError, match="belongs to another training"):
        train(Line(), Numbers(), other, tmp_path / "own", report=lambda _: None, resume=True)


def test_gradients_are_for_the_named_parameters_only() -> None:
    one, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    x = torch.ones(3, 2)
    before = one.weight.detach().clone()
    Update()(optimizer, list(one.parameters()), (one(x) + other(x)).sum())
    assert other.weight.grad is None
    assert torch.allclose(one.weight, before - 0.3)


# ---------------------------------------------------------------- checkpoints
def test_the_last_two_stay_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    (tmp_path / ".save-left").write_bytes(b"of a killed run")
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, {"value": torch.tensor([float(step)])})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[5:14] for name in names] == ["000000010", "000000015"]
    assert len(names) == KEPT
    newest = tmp_path / names[-1]
    content = newest.read_bytes()
    for damaged in (content[:-1], content[:100] + b"x" + content[101:], b""):
        newest.write_bytes(damaged)
        found = last_checkpoint(tmp_path)
        assert found is not None
        assert (found[0], found[1]["value"].item()) == (10, 10.0)
        assert "was passed over" in found[2][0]
    (tmp_path / names[0]).write_bytes(b"")
    with pytest.raises(ModelError, match="no checkpoint is whole"):
        last_checkpoint(tmp_path)


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINTS).write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="checkpoint of step 1 cannot be written"):
        save_checkpoint(tmp_path / CHECKPOINTS, 1, {})
