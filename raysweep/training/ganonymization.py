"""Training of the GANonymization generator: the terms of its loss, and one step of it and its discriminator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from raysweep.anonymizers.ganonymization.picture import as_crops
from raysweep.errors import ConfigError
from raysweep.training.losses import (
    adversarial_loss,
    expression_feature_loss,
    expression_logit_loss,
    identity_loss,
    reconstruction_loss,
)
from raysweep.training.pairs import PairExamples
from raysweep.training.stages import go_on, pause
from raysweep.training.trainer import Update, check_finite

if TYPE_CHECKING:
    from torch import nn

    from raysweep.anonymizers.base import State, Teachers
    from raysweep.anonymizers.ganonymization.network import Discriminator, Generator
    from raysweep.training.pairs import Pairs
    from raysweep.training.trainer import Batch, Precision

__all__ = ["Advice", "GeneratorTrainer", "Objective", "generator_losses", "train_generator"]

ExpressionLoss = Literal["none", "kd_logit", "feature"]

REPORT_EVERY = 10
CHUNK = 128
IDENTITY_MARGIN = 0.2
"""Cosine that strangers reach now and then; closer to the clear face than this is suppressed."""


@dataclass(frozen=True)
class Objective:
    """What the generator is trained for: weights of the terms of its loss.

    Attributes:
        adversarial: least-squares GAN.
        reconstruction: L1 to the clear face (published: 100).
        identity: suppression of the clear face's identity (published: 0).
        expression: weight of `expression_loss`.
        expression_loss: `none` (published), `kd_logit` or `feature`.
    """

    adversarial: float = 1.0
    reconstruction: float = 100.0
    identity: float = 0.0
    expression: float = 0.0
    expression_loss: ExpressionLoss = "none"

    @property
    def uses_expression(self) -> bool:
        """Whether an expression teacher is asked."""
        return self.expression > 0 and self.expression_loss != "none"

    def check(self, teachers: Teachers) -> None:
        """Refuse terms whose teacher is not at hand.

        Raises:
            ConfigError: names each.
        """
        problems = []
        if self.identity > 0 and teachers.identity is None:
            problems.append(
                f"identity suppression (identity = {self.identity:g}) needs a torch embedder as teacher and none is at hand; "
                "add one to the models, or set identity=0"
            )
        if self.uses_expression and teachers.expression is None:
            problems.append(
                f"expression_loss = {self.expression_loss!r} needs a torch expression model as teacher and none is at hand; "
                "add one to the models, or set expression_loss=none. An ONNX model has no gradients: distil it first, "
                "`raysweep train expression teacher=NAME`"
            )
        if problems:
            raise ConfigError([f"ganonymization: {problem}" for problem in problems])


class Advice:
    """What the teachers say of the clear faces (asked once per face) and of the generator's."""

    def __init__(
        self, pairs: Pairs, rows: torch.Tensor, teachers: Teachers, objective: Objective, device: torch.device
    ) -> None:
        self.frame, self.picture = pairs.frame, pairs.picture
        self.identity = teachers.identity if objective.identity > 0 else None
        self.expression = teachers.expression if objective.uses_expression else None
        self.place = torch.full((len(pairs),), -1, dtype=torch.int64)
        used = torch.unique(rows)
        self.place[used] = torch.arange(len(used))
        embeddings, logits, features = [], [], []
        if self.identity is not None or self.expression is not None:
            for part in used.split(CHUNK):
                crops = torch.from_numpy(np.ascontiguousarray(pairs.crop[part.numpy()].transpose(0, 3, 1, 2)))
                clear = crops.to(device).float().div_(255.0)
                with torch.no_grad():
                    if self.identity is not None:
                        embeddings.append(self.identity(clear))
                    if self.expression is not None:
                        answer = self.expression(clear)
                        logits.append(answer[0])
                        features.append(answer[1])
        self.embeddings = torch.cat(embeddings) if embeddings else None
        self.logits = torch.cat(logits) if logits else None
        self.features = torch.cat(features) if features else None

    def losses(self, face: torch.Tensor, rows: torch.Tensor, objective: Objective) -> dict[str, torch.Tensor]:
        """The teachers' terms for faces (n, 3, size, size) in [-1, 1] drawn for `rows`."""
        if self.identity is None and self.expression is None:
            return {}
        crops = as_crops(face, self.frame, self.picture)
        place = self.place[rows].to(face.device)
        terms = {}
        if self.identity is not None and self.embeddings is not None:
            terms["identity"] = identity_loss(self.identity(crops), self.embeddings[place], IDENTITY_MARGIN)
        if self.expression is not None and self.logits is not None and self.features is not None:
            logits, features = self.expression(crops)
            if objective.expression_loss == "kd_logit":
                terms["expression"] = expression_logit_loss(logits, self.logits[place])
            else:
                terms["expression"] = expression_feature_loss(features, self.features[place])
        return terms


def generator_losses(
    face: torch.Tensor,
    target: torch.Tensor,
    verdict: torch.Tensor | None,
    advice: Mapping[str, torch.Tensor],
    objective: Objective,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The generator's loss and its terms, unweighted; a term of weight 0 is left out.

    Args:
        face, target: (n, 3, size, size) in [-1, 1].
        verdict: the discriminator's on `face`; None when its term has weight 0.
        advice: the teachers' terms, `identity` and `expression`.
    """
    terms: dict[str, torch.Tensor] = {}
    if objective.reconstruction > 0:
        terms["reconstruction"] = reconstruction_loss(face, target)
    if verdict is not None:
        terms["adversarial"] = adversarial_loss(verdict, real=True)
    terms.update(advice)
    weights = {
        "reconstruction": objective.reconstruction,
        "adversarial": objective.adversarial,
        "identity": objective.identity,
        "expression": objective.expression,
    }
    total = torch.zeros((), device=face.device)
    for name, term in terms.items():
        total = total + weights[name] * term
    return total, terms


class GeneratorTrainer:
    """One update of the generator, then one of the discriminator on the same faces; a `raysweep.training.trainer.Trainer`.

    Adam with betas (0.5, 0.999) for both, as published. Two things differ: the published discriminator step draws the faces afresh, here it
    takes those of the generator's step, which saves a quarter of the time; and the published learning rate is constant, here it falls
    linearly to 0 over the second half, because a trial's few hundred steps would otherwise end wherever the last batch pulled.

    Args:
        generator, discriminator: trained in place, on the device of `update`.
        objective: weights of the loss.
        advice: the teachers' terms; None without such terms.
        steps: updates in all, for the learning rate.
        learning_rate: of both networks.
        update: precision and step.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        objective: Objective,
        advice: Advice | None,
        *,
        steps: int,
        learning_rate: float,
        update: Update | None = None,
    ) -> None:
        self.update = Update() if update is None else update
        device = self.update.device
        self.generator = generator.to(device).train()
        self.discriminator = discriminator.to(device).train()
        if device.type == "cuda":
            for network in (self.generator, self.discriminator):
                network.to(memory_format=torch.channels_last)
        self.objective, self.advice = objective, advice
        self.steps, self.learning_rate, self.done = steps, learning_rate, 0
        self._drawing, self._judging = list(generator.parameters()), list(discriminator.parameters())
        self._optimise_drawing, self._optimise_judging = (
            torch.optim.Adam(group, lr=learning_rate, betas=(0.5, 0.999), fused=True)
            for group in (self._drawing, self._judging)
        )

    def step(self, batch: Batch) -> dict[str, float]:
        """One update of each network.

        Args:
            batch: of `PairExamples`.

        Returns:
            The terms of the loss, unweighted, and `discriminator`.
        """
        objective, rate = self.objective, self.learning_rate * min(1.0, 2.0 * (1.0 - self.done / self.steps))
        for group in (*self._optimise_drawing.param_groups, *self._optimise_judging.param_groups):
            group["lr"] = rate
        device = self.update.device
        rows, given, target = batch["rows"], batch["condition"].to(device), batch["target"].to(device)
        with self.update.forward():
            face = self.generator(given)
            verdict = self.discriminator(face, given) if objective.adversarial > 0 else None
            advice = {} if self.advice is None else self.advice.losses(face, rows, objective)
            total, terms = generator_losses(face, target, verdict, advice, objective)
        if terms:
            self.update(self._optimise_drawing, self._drawing, total)
        numbers = {name: term.detach() for name, term in terms.items()}
        if objective.adversarial > 0:
            with self.update.forward():
                real = adversarial_loss(self.discriminator(target, given), real=True)
                drawn = adversarial_loss(self.discriminator(face.detach(), given), real=False)
                total = 0.5 * (real + drawn)
            self.update(self._optimise_judging, self._judging, total)
            numbers["discriminator"] = total.detach()
        self.done += 1
        return {name: float(value) for name, value in numbers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Both networks, both optimizers, the scaler and the count of steps."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimise_drawing": self._optimise_drawing.state_dict(),
            "optimise_judging": self._optimise_judging.state_dict(),
            "update": self.update.state_dict(),
            "done": self.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimise_drawing.load_state_dict(state["optimise_drawing"])
        self._optimise_judging.load_state_dict(state["optimise_judging"])
        self.update.load_state_dict(state["update"])
        self.done = int(state["done"])

    def modules(self) -> dict[str, nn.Module]:
        """`generator` and `discriminator`."""
        return {"generator": self.generator, "discriminator": self.discriminator}


def train_generator(
    generator: Generator,
    discriminator: Discriminator,
    pairs: Pairs,
    objective: Objective,
    teachers: Teachers,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
    report: Callable[[Mapping[str, float]], None],
    precision: Precision = "float32",
    until: int | None = None,
    earlier: State | None = None,
) -> torch.Tensor | None:
    """Train in place and in this process, at once or in stages: what a trial does. Longer trainings go through `raysweep.training.loop`.

    Args:
        generator, discriminator: changed in place; in evaluation mode when this returns.
        pairs: conditions and faces.
        objective: weights of the loss.
        teachers: networks for the identity and expression terms.
        steps: updates in all.
        batch: faces per update.
        learning_rate: of both networks.
        seed: order of the faces and dropout. On the CPU the same seed gives the same weights.
        device: where to compute.
        report: gets `step` and the terms, every ten steps and at the end.
        precision: of the forward passes.
        until: stop when so many of the updates are done, to go on later; None for all of them.
        earlier: state of an anonymizer with what the stage before returned; None at the start.

    Returns:
        With `until`, what the next stage goes on from (see `raysweep.training.stages`); else None.

    Raises:
        ConfigError: a term needs a teacher that is not at hand.
        TrialError: a stage ends with losses that are not finite.
        ModelError: `earlier` is not of this training.
    """
    objective.check(teachers)
    order = torch.Generator().manual_seed(seed)
    rows = _shuffled(len(pairs), steps * batch, order)
    trainer = GeneratorTrainer(
        generator,
        discriminator,
        objective,
        Advice(pairs, rows, teachers, objective, device),
        steps=steps,
        learning_rate=learning_rate,
        update=Update(device, precision),
    )
    examples = PairExamples(pairs, device)
    # Dropout has no random state of its own: lend it the global one and give that back unchanged.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        go_on(earlier, trainer, order, device)
        terms: Mapping[str, float] = {}
        for step in range(trainer.done, steps if until is None else until):
            terms = trainer.step(examples.batch(rows[step * batch : (step + 1) * batch], order))
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
                report({"step": float(step + 1), **terms})
        paused = None
        if until is not None:
            check_finite(terms, until)  # no report tells of the last steps of a stage
            paused = pause(trainer, order, device)
    generator.eval()
    discriminator.eval()
    return paused


def _shuffled(count: int, wanted: int, order: torch.Generator) -> torch.Tensor:
    """(wanted,) row numbers: all rows in a new order again and again."""
    rounds = -(-wanted // count)
    return torch.cat(
        [torch.randperm(count, generator=order) for _ in range(rounds)] or [torch.empty(0, dtype=torch.int64)]
    )[:wanted]
