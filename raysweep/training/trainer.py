"""What the training loop asks of a trainer, and the two things that it lends to one: batches, and the step of an optimizer.

A trainer holds networks, optimizers and losses of one method and knows nothing of data sets, checkpoints, processes or screens; the loop
(`raysweep.training.loop`) knows those and nothing of losses. The whole state of a trainer is in `state_dict`: together with the number of the
step it continues to the last bit, because batches and dropout follow from (seed, step) alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import nn

from raysweep.errors import TrialError

__all__ = ["Batch", "Examples", "Precision", "Trainer", "Update", "check_finite", "mean_over_processes"]

Batch = Mapping[str, torch.Tensor]
"""Named tensors of one step, first axis n; on any device: the trainer moves them."""

Precision = Literal["float32", "float16", "bfloat16"]


@runtime_checkable
class Trainer(Protocol):
    """One method's training.

    A step is a function of (state, batch) and of the global random state of torch, which the loop seeds for each step (dropout).
    """

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of every network.

        Args:
            batch: of the examples that belong to this trainer.

        Returns:
            Loss terms by name, plain numbers, before the update.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on: networks, optimizers, schedules, counters. Nested dictionaries and lists of tensors, numbers and text."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave, possibly in another process and on another device."""
        ...

    def modules(self) -> dict[str, nn.Module]:
        """The networks by name; what is kept after training is among them."""
        ...


class Examples(Protocol):
    """What there is to learn from."""

    def __len__(self) -> int:
        """How many examples."""
        ...

    def batch(self, rows: torch.Tensor, random: torch.Generator) -> Batch:
        """Some of them.

        Args:
            rows: (n,) int64 numbers of examples, possibly repeated.
            random: for augmentation and pairing; the same numbers for the same (seed, step).
        """
        ...


@dataclass
class Update:
    """How a loss becomes a step of an optimizer: precision of the forward pass, scaling of small gradients, their mean over processes.

    The loop makes one and hands it to the trainer; a trainer that is used alone makes its own, `Update()`, which is a plain step in float32.

        with self.update.forward():
            loss = ...
        self.update(optimizer, parameters, loss)

    Where several processes train together (torch.distributed is initialised), each takes the mean of all gradients before its step, so that
    their networks stay equal: every step of every optimizer has to go through here.

    Attributes:
        device: where the networks compute.
        precision: of matrix products and convolutions in the forward pass; weights, gradients and optimizers stay float32.
        scaler: of the losses, in float16 only, where small gradients would become 0.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "float16")

    def forward(self) -> AbstractContextManager[Any]:
        """Around everything that computes losses."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))

    def __call__(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], loss: torch.Tensor
    ) -> None:
        """Gradients of `loss` for these parameters only, then one step of the optimizer.

        Args:
            optimizer: of these parameters.
            parameters: others (teachers, the other network of a pair) get no gradient.
            loss: scalar.
        """
        gradients: Sequence[torch.Tensor | None] = torch.autograd.grad(
            self.scaler.scale(loss), parameters, allow_unused=True
        )
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gradients = mean_over_processes(parameters, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Of the scaler."""
        return dict(self.scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of the scaler."""
        if self.scaler.is_enabled() and state:
            self.scaler.load_state_dict(dict(state))


def check_finite(terms: Mapping[str, float], step: int) -> None:
    """Refuse losses that are no numbers any more.

    Raises:
        TrialError: names them.
    """
    broken = [name for name, value in terms.items() if not math.isfinite(value)]
    if broken:
        raise TrialError(
            f"training diverged at step {step}: {', '.join(broken)} is not finite; a smaller learning_rate or loss weight may help"
        )


def mean_over_processes(
    parameters: Sequence[nn.Parameter], gradients: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor | None, ...]:
    """The mean of each gradient over all processes, in one exchange; None counts as 0.

    Still scaled: a value that is not finite reaches every process, and all skip the same step.
    """
    count = torch.distributed.get_world_size()
    if count == 1:
        return tuple(gradients)
    flat = torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten().float()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )
    torch.distributed.all_reduce(flat)
    parts = torch.split(flat.div_(count), [parameter.numel() for parameter in parameters])
    return tuple(part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True))
