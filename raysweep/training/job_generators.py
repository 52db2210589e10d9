"""`raysweep train ganonymization`, `ciagan` and `inpainting`: generators of anonymizers, trained at leisure outside any sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from raysweep.anonymizers.base import Teachers
from raysweep.errors import ConfigError
from raysweep.training.jobs import Job, Product, Settings
from raysweep.training.trainer import Batch, Examples, Trainer, Update

if TYPE_CHECKING:
    from raysweep.anonymizers.ciagan.network import Generator as CiaganGenerator
    from raysweep.anonymizers.deepprivacy2.network import Architecture
    from raysweep.anonymizers.ganonymization.network import Generator
    from raysweep.models.zoo import Found, Zoo
    from raysweep.schema import Frame
    from raysweep.training.ganonymization import Objective

__all__ = [
    "CiaganJob",
    "CiaganSettings",
    "GanonymizationJob",
    "GanonymizationSettings",
    "InpaintingJob",
    "InpaintingSettings",
]

Side = Literal[32, 64, 128, 256, 512]
ExpressionLoss = Literal["none", "kd_logit", "feature"]


# ------------------------------------------------------------------ GANonymization


class GanonymizationSettings(Settings):
    """Of `train ganonymization`. Published (arXiv 2305.02143): width=64 depth=8 size=256 discriminator_width=64 batch_size=1 learning_rate=0.0002 picture=face."""

    steps: int = Field(5000, ge=1, le=10_000_000, description="updates")
    batch_size: int = Field(8, ge=1, le=1024, description="faces per update, over all workers; published 1")
    learning_rate: float = Field(6e-4, gt=0, le=1, description="of both networks; falls to 0 over the second half")
    size: Side = Field(64, description="side of the picture; published 256 or 512")
    width: int = Field(16, ge=4, le=128, description="channels of the first block; published 64")
    depth: int = Field(4, ge=2, le=9, description="blocks down and up; published 8")
    discriminator_width: int = Field(8, ge=4, le=128, description="published 64")
    conditioning: Literal["landmarks", "landmarks+mask", "mask"] = "landmarks"
    picture: Literal["crop", "face"] = Field("crop", description="what the picture covers; published: the face box")
    adversarial: float = Field(0.3, ge=0, description="weight of the patch discriminator; published 1")
    reconstruction: float = Field(100.0, ge=0, description="weight of L1 to the clear face; published 100")
    identity: float = Field(0.0, ge=0, description="weight of identity suppression; published 0")
    expression_loss: ExpressionLoss = Field("none", description="how an expression teacher guides; published: not")
    expression_weight: float = Field(1.0, ge=0)
    init: Literal["scratch", "published"] = Field(
        "scratch", description="first weights; published: those of the family ganonymization in --models (fine-tuning)"
    )

    @model_validator(mode="after")
    def _fits(self) -> GanonymizationSettings:
        if 2**self.depth > self.size:
            raise ValueError(f"depth = {self.depth} is too deep for size = {self.size}; allowed: 2 ** depth <= size")
        return self


@dataclass(frozen=True)
class GanonymizationJob(Job):
    """The conditional generator."""

    kind: ClassVar[str] = "ganonymization"
    settings: GanonymizationSettings

    def check(self) -> None:
        """As the base class; teachers and first weights must be at hand and fit.

        Raises:
            ConfigError, ModelError: says what.
        """
        from raysweep.anonymizers.ganonymization.weights import misfits

        super().check()
        found = self._first_weights()
        if found is not None:
            problems = misfits(self.settings.model_dump(), found.entry)
            if problems:
                raise ConfigError([f"train ganonymization: init = 'published': {problem}" for problem in problems])

    def weights_used(self) -> dict[str, str]:
        """First weights and teachers."""
        found = [self._first_weights(), *_teacher_files(self._zoo(), *self._asks())]
        return {item.name: item.sha256 for item in found if item is not None}

    def build(self, update: Update) -> tuple[Trainer, Examples]:
        """Generator and discriminator with their first weights; pairs of conditions and faces."""
        from raysweep.anonymizers.ganonymization.conditioning import condition_channels
        from raysweep.anonymizers.ganonymization.network import Discriminator, build
        from raysweep.training.ganonymization import Advice, GeneratorTrainer
        from raysweep.training.pairs import PairExamples, Pairs

        settings = self.settings
        pairs = Pairs.of(self.pupils.load()[0], settings.size, settings.conditioning, settings.picture)
        objective = self._objective()
        teachers = _teachers(self._zoo(), update.device, pairs.frame, *self._asks())
        objective.check(teachers)
        channels = condition_channels(settings.conditioning)
        random = torch.Generator().manual_seed(self.seed + 1)
        discriminator = build(lambda: Discriminator(3 + channels, settings.discriminator_width), random)
        advice = None
        if any(self._asks()):
            advice = Advice(pairs, torch.arange(len(pairs)), teachers, objective, update.device)
        trainer = GeneratorTrainer(
            self._generator(channels),
            discriminator,
            objective,
            advice,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            update=update,
        )
        return trainer, PairExamples(pairs, update.device)

    def finish(self, trainer: Trainer, device: torch.device) -> Product:
        """The generator's state dict under the published names."""
        from raysweep.anonymizers.ganonymization.conditioning import condition_channels

        settings = self.settings
        entry = {
            "task": "generator",
            "family": "ganonymization",
            "architecture": "ganonymization",
            "arguments": {
                "inputs": condition_channels(settings.conditioning),
                "width": settings.width,
                "depth": settings.depth,
            },
            "lineage": list(self.weights_used()),
            "note": f"use: init=published width={settings.width} depth={settings.depth} size={settings.size} "
            f"picture={settings.picture} conditioning={settings.conditioning} steps=0",
        }
        use = f"init=published width={settings.width} depth={settings.depth} size={settings.size} steps=0"
        if settings.picture != "crop":
            use += f" picture={settings.picture}"
        if settings.conditioning != "landmarks":
            use += f" conditioning={settings.conditioning}"
        lines = [("use it with", f"ganonymization {use}")]
        state = trainer.modules()["generator"].state_dict()
        return Product(settings.name or "ganonymization-trained", state, entry, {}, lines)

    def _asks(self) -> tuple[bool, bool]:
        """Whether the loss asks for identity and for expression."""
        settings = self.settings
        return settings.identity > 0, settings.expression_loss != "none" and settings.expression_weight > 0

    def _zoo(self) -> Zoo:
        return _for_teaching(self.zoo, bool(self.pupils.about["synthetic"]), any(self._asks()))

    def _objective(self) -> Objective:
        from raysweep.training.ganonymization import Objective

        settings = self.settings
        return Objective(
            settings.adversarial,
            settings.reconstruction,
            settings.identity,
            settings.expression_weight,
            settings.expression_loss,
        )

    def _first_weights(self) -> Found | None:
        return self.zoo.generator("ganonymization") if self.settings.init == "published" else None

    def _generator(self, channels: int) -> Generator:
        from raysweep.anonymizers.ganonymization.network import Generator, build
        from raysweep.anonymizers.ganonymization.weights import read_published

        shape = (channels, self.settings.width, self.settings.depth)
        found = self._first_weights()
        if found is not None:
            return read_published(found, shape)
        return build(lambda: Generator(*shape), torch.Generator().manual_seed(self.seed))


# ------------------------------------------------------------------ CIAGAN


class CiaganSettings(Settings):
    """Of `train ciagan`. Published (arXiv 2005.09544): width=32 residuals=4 size=128 targets=1200 critic_width=64 siamese_width=64 critic_rounds=5 identity=1 adversarial=1 reconstruction=0 own=0 batch_size=16 learning_rate=0.0001."""

    steps: int = Field(2400, ge=1, le=10_000_000, description="rounds")
    batch_size: int = Field(8, ge=1, le=1024, description="faces per update, over all workers; published 16")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of all three networks; falls to 0 over the second half")
    size: Literal[64, 128] = Field(64, description="side of the picture; published 128")
    width: int = Field(6, ge=2, le=128, description="channels of the first block; published 32")
    residuals: int = Field(2, ge=0, le=16, description="residual blocks; published 4")
    targets: int = Field(40, ge=2, le=100_000, description="target identities at most; published 1200")
    critic_width: int = Field(8, ge=4, le=256, description="published 64")
    siamese_width: int = Field(8, ge=4, le=256, description="published 64")
    siamese_rounds: int = Field(1, ge=0, le=20)
    critic_rounds: int = Field(1, ge=0, le=20, description="published 5")
    adversarial: float = Field(0.02, ge=0, description="published 1")
    identity: float = Field(0.01, ge=0, description="nearness to the target person; published 1")
    reconstruction: float = Field(1.0, ge=0, description="L1 where the target is the person; published 0")
    own: float = Field(0.8, ge=0, le=1, description="share of faces with themselves as target; published 0")
    expression_loss: ExpressionLoss = "none"
    expression_weight: float = Field(1.0, ge=0)
    augment: bool = Field(False, description="cut at random as the published loader does")


@dataclass(frozen=True)
class CiaganJob(Job):
    """Generator, critic and siamese network."""

    kind: ClassVar[str] = "ciagan"
    settings: CiaganSettings

    def weights_used(self) -> dict[str, str]:
        """The teacher."""
        found = _teacher_files(self._zoo(), False, self._asks())
        return {item.name: item.sha256 for item in found if item is not None}

    def build(self, update: Update) -> tuple[Trainer, Examples]:
        """Three networks, freshly drawn; faces with target people."""
        from raysweep.anonymizers.ciagan.network import Generator, build
        from raysweep.training.ciagan import CiaganExamples, CiaganObjective, CiaganTrainer, Rhythm, make_networks

        settings, faces = self.settings, self.pupils.load()[0]
        rhythm = Rhythm(settings.siamese_rounds, settings.critic_rounds, 1)
        examples = CiaganExamples.of(
            faces,
            settings.size,
            settings.targets,
            rhythm=rhythm,
            own=settings.own,
            augment=settings.augment,
            crops=self._asks(),
        )
        random = torch.Generator().manual_seed(self.seed)
        classes = examples.classes
        generator: CiaganGenerator = build(
            lambda: Generator(classes, settings.size, settings.width, settings.residuals), random
        )
        critic, siamese = make_networks(generator, settings.critic_width, settings.siamese_width, random)
        objective = CiaganObjective(
            settings.adversarial,
            settings.identity,
            settings.reconstruction,
            settings.expression_weight if self._asks() else 0.0,
            settings.expression_loss,
        )
        trainer = CiaganTrainer(
            generator,
            critic,
            siamese,
            objective,
            _teachers(self._zoo(), update.device, faces.frame, False, self._asks()),
            learning_rate=settings.learning_rate,
            steps=settings.steps,
            update=update,
        )
        return trainer, examples

    def finish(self, trainer: Trainer, device: torch.device) -> Product:
        """The generator's state dict under the published names."""
        settings = self.settings
        network: Any = trainer.modules()["generator"]
        arguments = {
            "classes": network.classes,
            "side": settings.size,
            "width": settings.width,
            "residuals": settings.residuals,
        }
        entry = {
            "task": "generator",
            "family": "ciagan",
            "architecture": "ciagan",
            "arguments": arguments,
            "lineage": list(self.weights_used()),
        }
        lines = [("target people", str(network.classes))]
        return Product(settings.name or "ciagan-trained", network.state_dict(), entry, {"arguments": arguments}, lines)

    def _asks(self) -> bool:
        return self.settings.expression_loss != "none" and self.settings.expression_weight > 0

    def _zoo(self) -> Zoo:
        return _for_teaching(self.zoo, bool(self.pupils.about["synthetic"]), self._asks())


# ------------------------------------------------------------------ inpainting


class InpaintingSettings(Settings):
    """Of `train inpainting`: a small DeepPrivacy2 generator (arXiv 2211.09454)."""

    steps: int = Field(1400, ge=1, le=10_000_000, description="updates")
    batch_size: int = Field(8, ge=2, le=1024, description="faces per update, over all workers; published 256")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="of both networks; falls to 0 over the second half")
    size: Side = Field(64, description="side of the window; published 256")
    width: int = Field(8, ge=4, le=128, description="channels at full side; published 64")
    widest: int = Field(8, ge=1, le=16, description="times that many at most")
    latent: int = Field(64, ge=8, le=512, description="length of z and w; published 512")
    discriminator_width: int = Field(8, ge=4, le=128)
    adversarial: float = Field(1.0, ge=0)
    r1: float = Field(1.0, ge=0)
    epsilon: float = Field(1e-3, ge=0)
    reconstruction: float = Field(5.0, ge=0, description="published 0")
    diversity: float = Field(4.0, ge=0, description="published 0")
    centres: int = Field(8, ge=1, le=512, description="of styles, for multi-modal truncation")


@dataclass(frozen=True)
class InpaintingJob(Job):
    """A generator that paints a face into its surroundings."""

    kind: ClassVar[str] = "inpainting"
    settings: InpaintingSettings

    def build(self, update: Update) -> tuple[Trainer, Examples]:
        """Generator, discriminator and running average; windows around faces."""
        from raysweep.training.inpainting import FaceWindows, InpaintingObjective, InpaintingTrainer

        settings = self.settings

        class Slowing(InpaintingTrainer):
            """With a learning rate that falls linearly to 0 over the second half."""

            def step(self, batch: Batch) -> dict[str, float]:
                self.slow(min(1.0, 2.0 * (1.0 - self.steps / settings.steps)))
                return super().step(batch)

        architecture = self._architecture()
        trainer = Slowing(
            architecture,
            discriminator_width=settings.discriminator_width,
            objective=InpaintingObjective(
                settings.adversarial, settings.r1, settings.epsilon, settings.reconstruction, settings.diversity
            ),
            learning_rate=settings.learning_rate,
            seed=self.seed,
            update=update,
        )
        return trainer, FaceWindows.of(self.pupils.load()[0], architecture)

    def finish(self, trainer: Trainer, device: torch.device) -> Product:
        """The running average with its mean style and the centres of its styles."""
        from raysweep.training.inpainting import centres_of, settle

        averaged: Any = trainer.modules()["averaged"].cpu()
        w = settle(averaged, torch.Generator().manual_seed(self.seed + 1))
        state = {
            **averaged.state_dict(),
            "style_net.w_centers": centres_of(w, self.settings.centres, self.seed % 2**31),
        }
        arguments = {name: value for name, value in asdict(self._architecture()).items() if isinstance(value, int)}
        entry = {
            "task": "generator",
            "family": "deepprivacy2",
            "architecture": "deepprivacy2",
            "arguments": arguments,
        }
        kept: Mapping[str, torch.Tensor] = {
            name: tensor for name, tensor in state.items() if not name.endswith("resample_filter")
        }
        return Product(self.settings.name or "inpainting-trained", kept, entry, {"arguments": arguments})

    def _architecture(self) -> Architecture:
        from raysweep.anonymizers.deepprivacy2.network import Architecture

        settings = self.settings
        return replace(
            Architecture(),
            side=settings.size,
            width=settings.width,
            widest=settings.widest,
            lowest=8,
            latent=settings.latent,
        )


# ------------------------------------------------------------------ teachers


def _for_teaching(zoo: Zoo, synthetic: bool, needed: bool) -> Zoo:
    return zoo.for_data(synthetic, needs=(), reserve=True) if needed else zoo


def _teacher_files(zoo: Zoo, identity: bool, expression: bool) -> list[Found | None]:
    if not (identity or expression):
        return []
    from raysweep.models.teachers import teacher_entries

    who, how = teacher_entries(zoo)
    return [who if identity else None, how if expression else None]


def _teachers(zoo: Zoo, device: torch.device, frame: Frame, identity: bool, expression: bool) -> Teachers:
    if not (identity or expression):
        return Teachers()
    from raysweep.models.teachers import teachers

    return teachers(zoo, device, frame, identity=identity, expression=expression)
