"""Training of CIAGAN: losses, the trainer that a trial or the training loop drives, and the command that makes the shipped weights.

    python -m raysweep.training.ciagan --out raysweep/assets

draws synthetic faces, trains the small generator on them and writes `ciagan-synthetic.safetensors`; some twelve minutes on one core, the same
file each time on the same machine and library versions.

Losses, step counts and optimizers are those of Maximov et al., CVPR 2020, arXiv 2005.09544 and its code. Not in there, and off by default:
the reconstruction of a person who is its own target, and an expression teacher.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from raysweep.anonymizers.base import Teachers
from raysweep.anonymizers.ciagan.conditioning import CROP_FRACTION, Scene, condition, middle, one_hot, paste
from raysweep.anonymizers.ciagan.network import Critic, Generator, Siamese, build
from raysweep.errors import ConfigError
from raysweep.training.losses import (
    adversarial_loss,
    expression_feature_loss,
    expression_logit_loss,
    reconstruction_loss,
)
from raysweep.training.shipped import aligned_drawings, asset_path, make, read_shipped, write_shipped
from raysweep.training.stages import go_on, pause
from raysweep.training.trainer import Batch, Update, check_finite

if TYPE_CHECKING:
    from raysweep.anonymizers.base import State
    from raysweep.schema import AlignedFaces

ExpressionLoss = Literal["none", "kd_logit", "feature"]

__all__ = [
    "CiaganExamples",
    "CiaganObjective",
    "CiaganTrainer",
    "Rhythm",
    "SmallCiagan",
    "SmallRecipe",
    "contrastive_loss",
    "load_small_ciagan",
    "main",
    "make_networks",
    "train_ciagan",
]

ASSET = "ciagan-synthetic.safetensors"
REPORT_EVERY = 10
CHUNK = 64

MARGIN = 3.0
"""Distance at least between two people, as published."""

LEARNING_RATE = 1e-4
BETAS = (0.5, 0.999)
LEAST_EYE_DISTANCE = 4.0
"""Template pixels; of some 17 in a frontal face. See `conditioning.windows`."""

AUGMENTED = (0.25, 0.125)
"""In training the published loader cuts from the middle of the squeezed picture: 0.25 and up to 0.125 more of its side in each direction."""


# ------------------------------------------------------------------ losses


def contrastive_loss(
    first: torch.Tensor, second: torch.Tensor, same: torch.Tensor, margin: float = MARGIN
) -> torch.Tensor:
    """Half the squared distance for one person, half the squared lack to the margin for two (Hadsell, Chopra, LeCun, CVPR 2006).

    Args:
        first, second: (n, D) float, points of two pictures; not normalised.
        same: (n,) bool, whether they show one person.
        margin: distance from which two people are far enough apart.

    Returns:
        scalar, 0 or more.
    """
    distance = F.pairwise_distance(first, second)
    return 0.5 * torch.where(same, distance.square(), (margin - distance).clamp_min(0.0).square()).mean()


@dataclass(frozen=True)
class CiaganObjective:
    """What the generator is trained for: weights of the terms of its loss.

    Attributes:
        adversarial: least-squares GAN (published: 1).
        identity: nearness to the target person (published: 1).
        reconstruction: L1 inside the mask where the target is the person itself, in [0, 1] (published: 0).
        expression: weight of `expression_loss` (published: 0).
        expression_loss: `none` (published), `kd_logit` or `feature`.
    """

    adversarial: float = 1.0
    identity: float = 1.0
    reconstruction: float = 0.0
    expression: float = 0.0
    expression_loss: ExpressionLoss = "none"

    @property
    def uses_expression(self) -> bool:
        """Whether an expression teacher is asked."""
        return self.expression > 0 and self.expression_loss != "none"

    def check(self, teachers: Teachers) -> None:
        """Refuse a term whose teacher is not at hand.

        Raises:
            ConfigError: names it.
        """
        if self.uses_expression and teachers.expression is None:
            raise ConfigError(
                f"ciagan: expression_loss = {self.expression_loss!r} needs a torch expression model as teacher and none is at hand; "
                "add one to the models, or set expression_loss=none"
            )


@dataclass(frozen=True)
class Rhythm:
    """Updates per round, as published: the siamese network first, then the critic, then the generator."""

    siamese: int = 1
    critic: int = 5
    generator: int = 1


# ------------------------------------------------------------------ what there is to learn from


@dataclass(frozen=True)
class CiaganExamples:
    """Faces as the generator and its critics see them; `batch` pairs them. N faces cost N * side^2 * 7 bytes.

    Attributes:
        lines, photo: (N, 3, side, side) uint8; side is `size`, or that of the whole squeezed picture with `augment`.
        mask: (N, side, side) bool, the face.
        edges: (N, 4) float32, see `Scene`.
        crop: (N, 3, S, S) uint8, the crops, for a teacher; empty without.
        label: (N,) int64 class of the person, -1 for people who are nobody's target.
        members: rows of each class.
        size: side of the generator's pictures.
        rhythm: how many pictures a round needs.
        own: share of the faces of target people that are given themselves as target.
        augment: cut at random as the published loader does in training; not for a teacher, who wants the whole crop.
    """

    lines: torch.Tensor
    photo: torch.Tensor
    mask: torch.Tensor
    edges: torch.Tensor
    crop: torch.Tensor
    label: torch.Tensor
    members: tuple[torch.Tensor, ...]
    size: int
    rhythm: Rhythm
    own: float
    augment: bool

    @classmethod
    def of(
        cls,
        faces: AlignedFaces,
        size: int,
        classes: int,
        *,
        fraction: float = CROP_FRACTION,
        rhythm: Rhythm | None = None,
        own: float = 0.0,
        augment: bool = False,
        jpeg: bool = False,
        crops: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> CiaganExamples:
        """From aligned faces.

        Args:
            faces: with landmarks and at least two people of two pictures each.
            size: side of the generator's pictures.
            classes: target people at most: those with the most pictures.
            fraction, jpeg: see `conditioning.condition`.
            rhythm, own, augment: see the attributes.
            crops: keep them for a teacher.
            progress: told (done, all) faces.

        Raises:
            ConfigError: no landmarks, or too few people.
        """
        if faces.landmarks is None:
            raise ConfigError("ciagan: needs faces with dense landmarks; prepare them first")
        label, members = _targets(faces.table.identity, classes)
        whole = middle(size, fraction)[0] if augment else size
        parts: list[tuple[torch.Tensor, ...]] = []
        for start in range(0, len(faces), CHUNK):
            image = torch.from_numpy(np.ascontiguousarray(faces.crop[start : start + CHUNK].transpose(0, 3, 1, 2)))
            points = torch.from_numpy(np.ascontiguousarray(faces.landmarks[start : start + CHUNK]))
            least = LEAST_EYE_DISTANCE * faces.frame.scale
            scene = condition(image, points, whole, 1.0 if augment else fraction, least, jpeg)
            parts.append(
                (
                    _bytes(scene.lines),
                    _bytes(scene.photo),
                    scene.mask[:, 0] > 0,
                    scene.edges,
                    *([image] if crops else []),
                )
            )
            if progress is not None:
                progress(min(start + CHUNK, len(faces)), len(faces))
        lines, photo, mask, edges, *crop = (torch.cat(column) for column in zip(*parts, strict=True))
        empty = torch.empty(0, dtype=torch.uint8)
        return cls(
            lines,
            photo,
            mask,
            edges,
            crop[0] if crop else empty,
            label,
            members,
            size,
            rhythm or Rhythm(),
            own,
            augment,
        )

    def __len__(self) -> int:
        return len(self.label)

    @property
    def classes(self) -> int:
        """Target people that there are."""
        return len(self.members)

    def batch(self, rows: torch.Tensor, random: torch.Generator) -> Batch:
        """What one round needs, first axis n.

        Args:
            rows: (n,) the faces that the generator learns on; those of the critic and of the pairs are drawn.
            random: for what is drawn.

        Returns:
            `lines`, `photo` (n, k, 3, size, size) uint8, `mask` (n, k, size, size) bool and `target` (n, k) for k - 1 updates of the critic and,
            last, the generator's; `own` (n,) whether its target is the person; `model` (n, 3, size, size) another picture of the target;
            `first`, `second` (n, m, 3, size, size) and `same` (n, m) for the siamese network; `crop` and `edges` of the rows for a teacher.
        """
        n, rhythm = len(rows), self.rhythm
        drawn = torch.randint(len(self), (n, rhythm.critic + rhythm.generator - 1), generator=random)
        which = torch.cat([drawn, rows[:, None]], dim=1)
        target = torch.randint(self.classes, which.shape, generator=random)
        label = self.label[which]
        own = (torch.rand(which.shape, generator=random) < self.own) & (label >= 0)
        target = torch.where(own, label, target)
        lines, photo, mask = self._pictures(which.flatten(), random)
        shape = (*which.shape, 3, self.size, self.size)
        model = self._pictures(self._member(target[:, -1], random), random)[1]
        first, second, same = self._pairs(n, random)
        batch = {
            "lines": lines.view(shape),
            "photo": photo.view(shape),
            "mask": mask.view(*which.shape, self.size, self.size),
            "target": target,
            "own": target[:, -1] == label[:, -1],
            "model": model,
            "first": self._pictures(first.flatten(), random)[1].view(*first.shape, 3, self.size, self.size),
            "second": self._pictures(second.flatten(), random)[1].view(*first.shape, 3, self.size, self.size),
            "same": same,
            "edges": self.edges[rows],
        }
        if len(self.crop):
            batch["crop"] = self.crop[rows]
        return batch

    def _pairs(self, n: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(n, m) rows twice, and which show one person: every other pair."""
        shape = (n, self.rhythm.siamese)
        person = torch.randint(self.classes, shape, generator=random)
        other = (person + torch.randint(1, self.classes, shape, generator=random)) % self.classes
        same = (torch.arange(n)[:, None] % 2 == 0).expand(shape)
        second = torch.where(same, person, other)
        return self._member(person, random), self._member(second, random), same

    def _member(self, person: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """A row of each person."""
        share = torch.rand(person.shape, generator=random).flatten().tolist()
        rows = [
            self.members[who][int(part * len(self.members[who]))]
            for who, part in zip(person.flatten().tolist(), share, strict=True)
        ]
        return torch.tensor([int(row) for row in rows], dtype=torch.int64).view(person.shape)

    def _pictures(self, rows: torch.Tensor, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lines, photo and mask of some rows, all cut alike."""
        lines, photo, mask = self.lines[rows], self.photo[rows], self.mask[rows]
        if not self.augment:
            return lines, photo, mask
        low, more = AUGMENTED
        # Four sides of their own: the cut is not always in the middle, nor a square.
        reach = low + more * torch.rand(len(rows), 4, generator=random)
        edge = torch.linspace(0.5 / self.size, 1 - 0.5 / self.size, self.size)
        x = 2 * (0.5 - reach[:, :1] + edge * (reach[:, :1] + reach[:, 1:2])) - 1
        y = 2 * (0.5 - reach[:, 2:3] + edge * (reach[:, 2:3] + reach[:, 3:])) - 1
        grid = torch.stack([x[:, None].expand(-1, self.size, -1), y[:, :, None].expand(-1, -1, self.size)], dim=-1)
        together = torch.cat([lines.float(), photo.float(), mask[:, None].float()], dim=1)
        cut = F.grid_sample(together, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return cut[:, :3].round().to(torch.uint8), cut[:, 3:6].round().to(torch.uint8), cut[:, 6] > 0.2


def _bytes(picture: torch.Tensor) -> torch.Tensor:
    return (picture * 255.0).round().to(torch.uint8)


def _targets(identity: Any, classes: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Class of each face, -1 for none, and the rows of each class."""
    person, count = np.unique(identity[identity >= 0], return_counts=True)
    # Most pictures first, then by number: the same people for the same faces.
    order = [who for who in np.lexsort((person, -count)) if count[who] >= 2][:classes]
    if len(order) < 2:
        raise ConfigError("ciagan: training needs at least two people with two pictures each to learn who is who")
    members = tuple(torch.from_numpy(np.flatnonzero(identity == person[who])) for who in order)
    label = torch.full((len(identity),), -1, dtype=torch.int64)
    for number, rows in enumerate(members):
        label[rows] = number
    return label, members


# ------------------------------------------------------------------ the trainer


class CiaganTrainer:
    """The three networks in training: a round per step. Adam with rate 1e-4 and betas (0.5, 0.999) for all, as published.

    Its state and the batches decide everything that follows: no random numbers are drawn here.

    Args:
        generator, critic, siamese: changed in place, moved to the update's device.
        objective: weights of the generator's loss; a critic or siamese network that nothing asks is left alone.
        teachers: for the expression term.
        learning_rate: of all three.
        steps: where given, the rate falls linearly to 0 over the second half of so many steps, because the few hundred steps of a trial would
            otherwise end wherever the last batch pulled; None keeps it constant, as published.
        update: precision and exchange of gradients.

    Raises:
        ConfigError: a term needs a teacher that is not at hand.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        siamese: Siamese,
        objective: CiaganObjective | None = None,
        teachers: Teachers | None = None,
        *,
        learning_rate: float = LEARNING_RATE,
        steps: int | None = None,
        update: Update | None = None,
    ) -> None:
        self.objective = objective or CiaganObjective()
        self.teachers = teachers or Teachers()
        self.objective.check(self.teachers)
        self.update = update or Update()
        self.learning_rate, self.steps, self.done = learning_rate, steps, 0
        self.generator = generator.to(self.update.device).train()
        self.critic = critic.to(self.update.device).train()
        self.siamese = siamese.to(self.update.device).train()
        self._parameters = {name: list(network.parameters()) for name, network in self.modules().items()}
        self._optimizers = {
            name: torch.optim.Adam(group, lr=learning_rate, betas=BETAS) for name, group in self._parameters.items()
        }

    def modules(self) -> dict[str, nn.Module]:
        """`generator`, `critic`, `siamese`."""
        return {"generator": self.generator, "critic": self.critic, "siamese": self.siamese}

    def step(self, batch: Batch) -> dict[str, float]:
        """One round: siamese network, critic, generator.

        Args:
            batch: of `CiaganExamples.batch`, made with the rhythm wanted.

        Returns:
            The loss of each network's last update, and the generator's terms, unweighted.
        """
        device = self.update.device
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self._rate()
        numbers: dict[str, torch.Tensor] = {}
        target = one_hot(batch["target"].to(device), self.generator.classes)
        if self.objective.identity > 0:
            same = batch["same"].to(device)
            self.siamese.train()
            for number in range(same.shape[1]):
                numbers["siamese"] = self._siamese_step(batch, number, same[:, number])
        rounds = batch["target"].shape[1]
        if self.objective.adversarial > 0:
            for number in range(rounds - 1):
                numbers["critic"] = self._critic_step(_scene(batch, number, device), target[:, number])
        numbers |= self._generator_step(batch, _scene(batch, rounds - 1, device), target[:, -1])
        self.done += 1
        return {name: float(value) for name, value in numbers.items()}

    def _rate(self) -> float:
        share = 1.0 if self.steps is None else min(1.0, 2.0 * (1.0 - self.done / self.steps))
        return self.learning_rate * max(0.0, share)

    def _step(self, name: str, loss: torch.Tensor) -> None:
        self.update(self._optimizers[name], self._parameters[name], loss)

    def _siamese_step(self, batch: Batch, number: int, same: torch.Tensor) -> torch.Tensor:
        device, count = self.update.device, len(same)
        both = torch.cat([batch["first"][:, number], batch["second"][:, number]])
        with self.update.forward():
            first, second = self.siamese(_unit(both, device)).split(count)
            loss = contrastive_loss(first, second, same)
        self._step("siamese", loss)
        return loss.detach()

    def _critic_step(self, scene: Scene, target: torch.Tensor) -> torch.Tensor:
        with self.update.forward():
            with torch.no_grad():
                face = scene.composite(self.generator(scene.given, target))
            real = adversarial_loss(self.critic(scene.photo, scene.lines), real=True)
            loss = real + adversarial_loss(self.critic(face, scene.lines), real=False)
        self._step("critic", loss)
        return loss.detach()

    def _generator_step(self, batch: Batch, scene: Scene, target: torch.Tensor) -> dict[str, torch.Tensor]:
        objective, device = self.objective, self.update.device
        with self.update.forward():
            drawn = self.generator(scene.given, target)
            face = scene.composite(drawn)
            terms: dict[str, torch.Tensor] = {}
            if objective.adversarial > 0:
                terms["adversarial"] = adversarial_loss(self.critic(face, scene.lines), real=True)
            if objective.identity > 0:
                # Running averages: the drawn faces must not shift the statistics that real people are told apart with.
                self.siamese.eval()
                wanted = self.siamese(_unit(batch["model"], device)).detach()
                terms["identity"] = contrastive_loss(
                    self.siamese(face), wanted, torch.ones(len(face), dtype=torch.bool, device=device)
                )
            if objective.reconstruction > 0:
                own = batch["own"].to(device)[:, None, None, None]
                terms["reconstruction"] = _inside(drawn, scene.photo, scene.mask * own)
            if objective.uses_expression:
                terms["expression"] = self._expression(drawn, scene, batch["crop"])
            weights = asdict(objective)
            # A sum that is there without any term: several processes must make the same steps.
            total = 0.0 * drawn.sum() + sum(weights[name] * term for name, term in terms.items())
        self._step("generator", total)
        return {name: term.detach() for name, term in terms.items()}

    def _expression(self, drawn: torch.Tensor, scene: Scene, crop: torch.Tensor) -> torch.Tensor:
        """What an expression teacher sees change when the drawn face is in the crop."""
        teacher = self.teachers.expression
        if teacher is None:
            raise ConfigError("ciagan: no expression teacher")
        clear = _unit(crop, drawn.device)
        changed = paste(drawn, scene.mask, scene.edges, clear)
        with torch.no_grad():
            wanted_logits, wanted_features = teacher(clear)
        logits, features = teacher(changed)
        if self.objective.expression_loss == "kd_logit":
            return expression_logit_loss(logits, wanted_logits)
        return expression_feature_loss(features, wanted_features)

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, scaler and the number of steps done."""
        return {
            "networks": {name: network.state_dict() for name, network in self.modules().items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            "update": self.update.state_dict(),
            "done": self.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        for name, network in self.modules().items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.update.load_state_dict(state["update"])
        self.done = int(state["done"])


def _inside(drawn: torch.Tensor, photo: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L1 over the pixels of the masks; 0 where there are none."""
    area = mask.mean().clamp_min(1e-6)
    return reconstruction_loss(drawn * mask, photo * mask) / area


def _unit(picture: torch.Tensor, device: torch.device) -> torch.Tensor:
    return picture.to(device).float() / 255.0


def _scene(batch: Batch, number: int, device: torch.device) -> Scene:
    return Scene(
        lines=_unit(batch["lines"][:, number], device),
        photo=_unit(batch["photo"][:, number], device),
        mask=batch["mask"][:, number, None].to(device).float(),
        edges=batch["edges"].to(device),
    )


def make_networks(
    generator: Generator, critic_width: int, siamese_width: int, random: torch.Generator
) -> tuple[Critic, Siamese]:
    """Critic and siamese network that go with a generator, freshly drawn; narrow siamese networks look at half the side."""
    critic = build(lambda: Critic(generator.side, critic_width), random)
    return critic, build(lambda: Siamese(generator.classes, siamese_width, 1 if siamese_width > 16 else 2), random)


def train_ciagan(
    trainer: CiaganTrainer,
    examples: CiaganExamples,
    *,
    steps: int,
    batch: int,
    seed: int,
    report: Callable[[Mapping[str, float]], None],
    until: int | None = None,
    earlier: State | None = None,
) -> torch.Tensor | None:
    """Rounds in one process, at once or in stages: what a trial does, and the shipped weights were made with. All networks end in evaluation mode.

    Args:
        trainer, examples: made for each other.
        steps: rounds in all.
        batch: faces per update.
        seed: order and pairs of the faces: round k of a seed is always the same.
        report: gets `step` and the losses, every ten rounds and at the end.
        until: stop when so many of the rounds are done, to go on later; None for all of them.
        earlier: state of an anonymizer with what the stage before returned; None at the start.

    Returns:
        With `until`, what the next stage goes on from (see `raysweep.training.stages`); else None.

    Raises:
        TrialError: a stage ends with losses that are not finite.
        ModelError: `earlier` is not of this training.
    """
    order = torch.Generator().manual_seed(seed)
    go_on(earlier, trainer, order)
    numbers: Mapping[str, float] = {}
    for step in range(trainer.done, steps if until is None else until):
        rows = torch.randint(len(examples), (batch,), generator=order)
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        numbers = trainer.step(examples.batch(rows, random))
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
            report({"step": float(step + 1), **numbers})
    paused = None
    if until is not None:
        check_finite(numbers, until)  # no report tells of the last rounds of a stage
        paused = pause(trainer, order)
    for network in trainer.modules().values():
        network.eval()
    return paused


# ------------------------------------------------------------------ the shipped weights


@dataclass(frozen=True)
class SmallRecipe:
    """How the shipped generator is made: in a few minutes, and therefore not as published.

    So short a training teaches a critic nothing: after 600 rounds its scores of real and drawn faces were still equal. Hence neither critic nor
    siamese network is used, and no teacher. What a target person looks like, and what a face expresses, is learned from reproducing faces of
    people who are their own target. The layers that take the target in start with weights that let it through: with those of the original,
    faces for different targets were still nearly alike after 1200 rounds.
    """

    targets: int = 40
    images: int = 35
    others: int = 0
    other_images: int = 4
    seed: int = 8_000_000
    size: int = 64
    width: int = 6
    residuals: int = 2
    critic_width: int = 8
    siamese_width: int = 8
    steps: int = 5000
    batch: int = 8
    learning_rate: float = 2e-3
    own: float = 0.9
    rhythm: Rhythm = field(default_factory=lambda: Rhythm(0, 0, 1))
    objective: CiaganObjective = field(
        default_factory=lambda: CiaganObjective(adversarial=0.0, identity=0.0, reconstruction=1.0)
    )


@dataclass(frozen=True)
class SmallCiagan:
    """The shipped generator.

    Attributes:
        state: its state dict, float32.
        recipe: how it was made.
    """

    state: dict[str, torch.Tensor]
    recipe: SmallRecipe

    def network(self) -> Generator:
        """A generator with these weights, on the CPU."""
        recipe = self.recipe
        generator = build(lambda: Generator(recipe.targets, recipe.size, recipe.width, recipe.residuals))
        generator.load_state_dict(self.state)
        return generator


def load_small_ciagan(path: Path | None = None) -> SmallCiagan:
    """The shipped weights and how they were made.

    Raises:
        ModelError: missing or not ours.
    """
    made, state = read_shipped(asset_path(ASSET) if path is None else path, "raysweep.training.ciagan")
    nested = {"rhythm": Rhythm(**made["rhythm"]), "objective": CiaganObjective(**made["objective"])}
    return SmallCiagan(state, SmallRecipe(**{**made, **nested}))


def draw_people(recipe: SmallRecipe) -> AlignedFaces:
    """Synthetic faces of people who occur nowhere else: the targets first, then the others."""
    return aligned_drawings([recipe.images] * recipe.targets + [recipe.other_images] * recipe.others, recipe.seed)


def _let_targets_through(generator: Generator, random: torch.Generator) -> None:
    layers = [layer for layer in generator.encode_one_hot if isinstance(layer, nn.Linear)]
    # One entry of the first layer's input is 1 and all others 0: its weights are the code itself.
    nn.init.normal_(layers[0].weight, generator=random)
    for layer in layers[1:]:
        nn.init.kaiming_normal_(layer.weight, a=0.2, generator=random)


def pretrain(recipe: SmallRecipe, report: Callable[[Mapping[str, float]], None]) -> Generator:
    """Train the generator of a recipe on the CPU."""
    random = torch.Generator().manual_seed(recipe.seed)
    generator = build(lambda: Generator(recipe.targets, recipe.size, recipe.width, recipe.residuals), random)
    _let_targets_through(generator, random)
    critic, siamese = make_networks(generator, recipe.critic_width, recipe.siamese_width, random)
    examples = CiaganExamples.of(draw_people(recipe), recipe.size, recipe.targets, rhythm=recipe.rhythm, own=recipe.own)
    trainer = CiaganTrainer(
        generator,
        critic,
        siamese,
        recipe.objective,
        Teachers(),
        learning_rate=recipe.learning_rate,
        steps=recipe.steps,
    )
    train_ciagan(trainer, examples, steps=recipe.steps, batch=recipe.batch, seed=recipe.seed, report=report)
    return generator


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the shipped weights: `python -m raysweep.training.ciagan --out raysweep/assets`."""

    def train(steps: int, report: Callable[[Mapping[str, float]], None], folder: Path) -> Path:
        recipe = SmallRecipe(steps=steps)
        return write_shipped(folder / ASSET, pretrain(recipe, report).state_dict(), recipe)

    return make(arguments, "raysweep.training.ciagan", main.__doc__, SmallRecipe.steps, train)


if __name__ == "__main__":
    sys.exit(main())
