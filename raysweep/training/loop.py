"""The one training loop: any trainer, any examples, one process or several, resumable to the last bit.

Which rows a step learns from, what is drawn at random for them, and dropout follow from (seed, step, process) alone. So the state of the
trainer and the number of the step are the whole state of a training, and a run that was killed goes on as if nothing had happened (to the last
bit on a CPU; on CUDA as far as its kernels are deterministic).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from raysweep.errors import ConfigError, TrialError
from raysweep.training.saves import last_checkpoint, save_checkpoint
from raysweep.training.trainer import Examples, Precision, Trainer, Update, check_finite

__all__ = ["CHECKPOINTS", "Curve", "Plan", "Weighted", "rows_of_step", "train"]

CHECKPOINTS = "checkpoints"
REPORT_EVERY = 10

Curve = list[dict[str, float]]
"""`step` and the terms of the loss (means since the row before), one row every ten steps."""


@runtime_checkable
class Weighted(Protocol):
    """Examples that are not all equally often wanted."""

    @property
    def weights(self) -> torch.Tensor:
        """(N,) float, 0 or more: how often each example comes, relative to the others."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and how often.

    Attributes:
        key: hash of everything that decides the result; a checkpoint of another key is refused.
        steps: updates in all.
        batch: examples per update, over all processes.
        seed: of rows, augmentation and dropout.
        checkpoint_every: updates between two checkpoints; one more comes at the end.
        precision: of the forward passes on CUDA; the CPU computes in float32.
        workers: processes that share each batch.
    """

    key: str
    steps: int
    batch: int
    seed: int = 0
    checkpoint_every: int = 200
    precision: Precision = "float32"
    workers: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.workers:
            raise ConfigError(
                f"batch_size = {self.batch} cannot be shared evenly by {self.workers} workers; set a multiple of {self.workers}"
            )

    def update(self, device: torch.device) -> Update:
        """What the trainer updates through."""
        return Update(device, self.precision if device.type == "cuda" else "float32")


@dataclass
class _Watch:
    """Sums of the terms since the last report."""

    curve: Curve
    report: Callable[[Mapping[str, float]], None]
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, step: int, terms: Mapping[str, float], last: bool) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        if step % REPORT_EVERY == 0 or last:
            row = {"step": float(step), **{name: self.sums[name] / self.counts[name] for name in self.sums}}
            self.curve.append(row)
            self.report(row)
            self.sums.clear()
            self.counts.clear()

    def state(self) -> dict[str, Any]:
        return {"curve": list(self.curve), "sums": dict(self.sums), "counts": dict(self.counts)}

    def take(self, state: Mapping[str, Any]) -> None:
        self.curve[:] = [dict(row) for row in state["curve"]]
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


def train(
    trainer: Trainer,
    examples: Examples,
    plan: Plan,
    folder: Path,
    *,
    report: Callable[[Mapping[str, float]], None],
    resume: bool = False,
    note: Callable[[str], None] = lambda _: None,
    rank: int = 0,
) -> Curve:
    """Train in place.

    Args:
        trainer: updated in place.
        examples: what it learns from.
        plan: how long.
        folder: gets `checkpoints/`, written by the process of rank 0.
        report: gets `step` and the terms, every ten steps and at the end.
        resume: go on from the last checkpoint, if there is one.
        note: gets remarks that a person should read.
        rank: number of this process; the others must run the same call.

    Returns:
        The whole curve, also the part before a resume.

    Raises:
        ConfigError: fewer examples than one; a checkpoint of another training.
        TrialError: a loss is not finite; or the processes' networks have come apart.
        ModelError, StoreError: the checkpoint cannot be read or written.
    """
    if not len(examples):
        raise ConfigError("nothing to learn from: no example is left")
    begun = 0
    curve: Curve = []
    watch = _Watch(curve, report)
    if resume and (found := last_checkpoint(folder / CHECKPOINTS)) is not None:
        begun, state, notes = found
        if state["key"] != plan.key:
            raise ConfigError(
                f"{folder}: its checkpoint belongs to another training (other settings, faces or code); "
                "give the settings of that one, or another --out"
            )
        trainer.load_state_dict(state["trainer"])
        watch.take(state["watch"])
        for line in notes:
            note(line)
        note(f"resumed at step {begun} of {plan.steps}")
    share = plan.batch // plan.workers
    devices = sorted({p.device.index or 0 for m in trainer.modules().values() for p in m.parameters() if p.is_cuda})
    for step in range(begun, plan.steps):
        rows = rows_of_step(examples, plan, step)[rank * share : (rank + 1) * share]
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_number(plan.seed, step, "dropout", rank))
            random = torch.Generator().manual_seed(_number(plan.seed, step, "draws", rank))
            terms = trainer.step(examples.batch(rows, random))
        done = step + 1
        check_finite(terms, done)
        watch.add(done, terms, done == plan.steps)
        if done % plan.checkpoint_every == 0 or done == plan.steps:
            if plan.workers > 1:
                _check_together(trainer, done)
            if rank == 0:
                state = {"key": plan.key, "trainer": trainer.state_dict(), "watch": watch.state()}
                save_checkpoint(folder / CHECKPOINTS, done, state)
    for module in trainer.modules().values():
        module.eval()
    return curve


def rows_of_step(examples: Examples, plan: Plan, step: int) -> torch.Tensor:
    """(batch,) int64 rows of one step: all examples in a new order again and again; or drawn by `weights`, with replacement."""
    if isinstance(examples, Weighted):
        random = torch.Generator().manual_seed(_number(plan.seed, step, "rows"))
        return torch.multinomial(examples.weights, plan.batch, replacement=True, generator=random)
    count, first = len(examples), step * plan.batch
    rounds = range(first // count, (first + plan.batch - 1) // count + 1)
    order = torch.cat(
        [
            torch.randperm(count, generator=torch.Generator().manual_seed(_number(plan.seed, number, "order")))
            for number in rounds
        ]
    )
    return order[first - rounds[0] * count :][: plan.batch]


def _number(*parts: object) -> int:
    """A seed from anything, 0 to 2 ** 63 - 1."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _check_together(trainer: Trainer, step: int) -> None:
    """All processes must hold the same weights: else some optimizer was stepped past `Update`.

    Raises:
        TrialError: they do not.
    """
    from torch import distributed

    own = torch.stack(
        [
            parameter.detach().double().sum().cpu()
            for module in trainer.modules().values()
            for parameter in module.parameters()
        ]
    )
    device = next(p.device for m in trainer.modules().values() for p in m.parameters())
    own = own.to(device)
    low, high = own.clone(), own.clone()
    distributed.all_reduce(low, op=distributed.ReduceOp.MIN)
    distributed.all_reduce(high, op=distributed.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise TrialError(f"the networks of the workers differ after step {step}: gradients were not averaged")
