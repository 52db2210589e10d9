"""GANonymization as an anonymizer: published, or trained on role G inside the trial; then drawing a face for each set of landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from raysweep.anonymizers.base import Anonymizer, FitContext, State
from raysweep.anonymizers.ganonymization.conditioning import CONDITIONINGS, condition, condition_channels
from raysweep.anonymizers.ganonymization.network import Discriminator, Generator, build
from raysweep.anonymizers.ganonymization.picture import PICTURES, place, shares
from raysweep.anonymizers.ganonymization.shape import ShapeSpace, jitter
from raysweep.anonymizers.ganonymization.weights import (
    FAMILY,
    as_input,
    drawing,
    misfits,
    published_generator,
    published_notes,
    read_published,
    small_misfits,
    take_over,
)
from raysweep.errors import ConfigError, ModelError, TrialError
from raysweep.search.parameters import Categorical, Float, Int, Parameter, Value
from raysweep.training.ganonymization import Objective, train_generator
from raysweep.training.generator import Recipe, load_pretrained
from raysweep.training.pairs import Pairs, mask_of_picture
from raysweep.training.stages import PAUSED

if TYPE_CHECKING:
    from raysweep.models.zoo import Found
    from raysweep.schema import AlignedFaces, FaceBatch, IntArray

__all__ = ["PUBLISHED", "GANonymization"]

PUBLISHED: dict[str, Value] = {
    "width": 64,
    "size": 256,
    "depth": 8,
    "discriminator_width": 64,
    "learning_rate": 2e-4,
    "adversarial": 1.0,
    "reconstruction": 100.0,
    "identity": 0.0,
    "expression_loss": "none",
    "conditioning": "landmarks",
    "shape_mix": 0.0,
    "landmark_noise": 0.0,
    "init": "scratch",
    "picture": "face",
    "batch_size": 1,
}
"""The setting of arXiv 2305.02143 (steps are left open: the paper trains 25 epochs of its own data)."""

INITS = ("scratch", "small", "published")
"""How a generator can start; its place here is what the state stores."""


class GANonymization(Anonymizer):
    """The photograph is thrown away; a conditional pix2pix generator draws a new face from the landmarks (arXiv 2305.02143).

    The whole crop is replaced: nothing of the photograph is pasted back, and what `picture` leaves out is black. Where role G brings parsing masks, the
    generator learns to draw on black, as published; otherwise it learns the background with the face.

    Two controls of privacy are not in the paper and are off by default: `shape_mix` and `landmark_noise`; they change what the generator
    sees, never the photograph. `shape_mix` acts on landmarks only: with `conditioning` of a mask the outline of head and hair remains.

    Attributes:
        trained: after `load`: `init` (what `auto` came to) and `steps`.
        guarantee: after `load`, for the record: the same, and for published weights their name, sha256, precision and warnings.
    """

    name = "ganonymization"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "conditioning": Categorical(
            CONDITIONINGS,
            "landmarks",
            why="what the generator sees: a mask adds hair and outline, and with them identity",
        ),
        "shape_mix": Float(
            0.0,
            1.0,
            0.0,
            why="moves the shape of the face, all but its expression, to the mean of role G; 1 leaves no bone structure",
        ),
        "landmark_noise": Float(
            0.0,
            0.05,
            0.0,
            unit="of the crop's side",
            why="moves each point at random, anew in each image; hides shape, then expression",
        ),
        "identity": Float(0.0, 10.0, 0.0, why="weight of identity suppression; against reconstruction"),
        "reconstruction": Float(
            0.0, 200.0, 100.0, why="weight of L1 to the clear face; more copies the person more closely"
        ),
        "adversarial": Float(0.0, 10.0, 1.0, why="weight of the patch discriminator; sharper faces"),
        "expression_loss": Categorical(
            ("none", "kd_logit", "feature"),
            "none",
            why="how an expression teacher guides: not, by its logits, by its features",
        ),
        "expression_weight": Float(0.0, 10.0, 1.0, why="weight of expression_loss"),
        "steps": Int(0, 20000, 150, unit="updates", why="0 keeps the initial weights: the control for training"),
        "learning_rate": Float(1e-5, 1e-2, 5e-4, log=True, why="of both networks; published 2e-4"),
        "batch_size": Int(1, 64, 8, unit="faces", why="published 1"),
        "init": Categorical(
            ("auto", *INITS),
            "auto",
            why="small: the generator trained by this project on drawn faces; published: the weights of the family ganonymization "
            "in --models; auto: small for drawn faces when it fits the network, else scratch",
        ),
        "picture": Categorical(
            PICTURES,
            "crop",
            why="what the generator's picture covers: the whole crop, or the square around the face box that the published weights know",
        ),
        "precision": Categorical(
            ("float32", "float16"),
            "float32",
            why="of drawing and training on CUDA; the CPU always computes in float32",
        ),
        "size": Categorical(
            (32, 64, 128, 256, 512),
            Recipe.size,
            unit="pixels",
            why="side of the generator's picture; published 256 or 512",
        ),
        "width": Int(8, 64, Recipe.width, unit="channels", why="of the first block; published 64"),
        "depth": Int(2, 9, Recipe.depth, unit="halvings", why="blocks down and up; published 8"),
        "discriminator_width": Int(4, 64, Recipe.discriminator_width, unit="channels", why="published 64"),
    }
    strength = ("shape_mix", "landmark_noise")
    needs = frozenset({"landmarks", "background"})
    trains = True
    reference = "Hellmann et al., GANonymization, ACM TOMM 2024, doi 10.1145/3641107, arXiv 2305.02143"

    @classmethod
    def problems(cls, setting: Mapping[str, object]) -> list[str]:
        """As the base class, and what does not go together."""
        found = super().problems(setting)
        if found:
            return found
        full: dict[str, Any] = {key: setting.get(key, parameter.default) for key, parameter in cls.parameters.items()}
        if 2 ** full["depth"] > full["size"]:
            found.append(
                f"{cls.name}: depth = {full['depth']} is too deep for size = {full['size']}; allowed: 2 ** depth <= size"
            )
        if full["init"] == "small":
            found += [f"{cls.name}: init = 'small': {problem}" for problem in small_misfits(full)]
        if full["init"] == "published" and "landmarks" not in full["conditioning"]:
            found.append(
                f"{cls.name}: init = 'published': the published weights see landmarks, conditioning = {full['conditioning']!r} does not"
            )
        return found

    def for_faces(self, synthetic: bool) -> None:
        """Refuse the small generator for photographs.

        Raises:
            ConfigError: `init = small` and photographs.
        """
        if self.setting["init"] == "small" and not synthetic:
            raise ConfigError(
                "ganonymization: init = 'small': the small generator was trained by this project on drawn faces and is not for photographs; "
                "use init=published, init=scratch or auto"
            )

    def weights_needed(self) -> frozenset[str]:
        """The family `ganonymization` when the generator starts from published weights."""
        return frozenset({FAMILY}) if self.setting["init"] == "published" else frozenset()

    def use_weights(self, weights: Mapping[str, Found]) -> None:
        """As the base class; the setting must be that of the network in the file.

        Raises:
            ConfigError: width, depth or size differ; names each, and what to set.
        """
        super().use_weights(weights)
        if FAMILY in self.weights_needed() and FAMILY in weights:
            problems = misfits(self.setting, weights[FAMILY].entry)
            if problems:
                raise ConfigError([f"{self.name}: init = 'published': {problem}" for problem in problems])

    def teachers_needed(self) -> frozenset[str]:
        """One for each loss term that has a weight; none without training."""
        objective = self._objective()
        wanted = {
            "identity": objective.identity > 0,
            "expression": objective.expression_loss != "none" and objective.expression > 0,
        }
        return frozenset(name for name, asked in wanted.items() if asked and self.setting["steps"])

    def resumable_steps(self) -> int:
        """All of them."""
        return int(self.setting["steps"])

    def fit(self, context: FitContext) -> State:
        """Train on role G.

        Returns:
            The generator's state dict in float32 under `generator.` (without it when published weights are used as they are: `load` reads
            the file again), `shape.mean`, `shape.basis`, and `trained` (2,): start, steps done. While the training is not over, also
            `training.paused`, see `raysweep.training.stages`.

        Raises:
            ConfigError: a loss needs a teacher that is None; the faces lack landmarks or a mask; `small` for photographs.
            ModelError: the published weights cannot be read; or the earlier state is not of this training.
            TrialError: role G is empty; or the training diverged.
        """
        setting = self.setting
        background = context.background
        if not len(background):
            raise TrialError("ganonymization: role G has no faces to train on; give it a share of the identities")
        self.for_faces(background.synthetic)
        objective, steps = self._objective(), int(setting["steps"])
        until = context.until(steps)
        kind, picture = str(setting["conditioning"]), str(setting["picture"])
        shape = _learn_shape(background, kind, picture)
        generator, start = self._start(background.synthetic, context.seed, context.device)
        state: State = {}
        if steps:
            objective.check(context.teachers)
            pairs = Pairs.of(background, int(setting["size"]), kind, picture)
            if pairs.landmarks is not None:
                # Trained on what it will see: with a changed shape, the losses are about the release and not about another picture.
                seeds = context.seed % 2**31 + np.arange(len(pairs), dtype=np.int64)
                pairs = replace(pairs, landmarks=self._changed(pairs.landmarks, shape, seeds))
            channels, width = 3 + condition_channels(kind), int(setting["discriminator_width"])
            random = torch.Generator().manual_seed(context.seed + 1)
            paused = train_generator(
                generator,
                build(lambda: Discriminator(channels, width), random),
                pairs,
                objective,
                context.teachers,
                steps=steps,
                batch=int(setting["batch_size"]),
                learning_rate=float(setting["learning_rate"]),
                seed=context.seed,
                device=context.device,
                report=context.report,
                precision=self._precision(context.device),
                until=until if context.share < 1.0 else None,
                earlier=context.earlier,
            )
            if paused is not None:
                state[PAUSED] = paused
        if steps or start != "published":
            state |= {
                f"generator.{name}": tensor.detach().cpu().contiguous().clone()
                for name, tensor in generator.state_dict().items()
            }
        if shape is not None:
            state["shape.mean"], state["shape.basis"] = shape.mean, shape.basis
        state["trained"] = torch.tensor([INITS.index(start), until])
        return state

    def load(self, state: State, device: torch.device) -> None:
        """Take the generator.

        Raises:
            ModelError: the state belongs to another setting; or the published weights cannot be read.
        """
        weights = {
            key.removeprefix("generator."): value for key, value in state.items() if key.startswith("generator.")
        }
        start, steps = state["trained"].tolist()
        precision = self._precision(device)
        if weights:
            generator = self._network()
            try:
                generator.load_state_dict(weights)
            except RuntimeError as error:
                raise ModelError(f"ganonymization: the weights do not fit the setting: {error}") from error
            self._generator = drawing(generator, device, precision)
        else:
            self._generator = published_generator(self.weights_of(FAMILY), self._shape_of_network(), device, precision)
        self._device = device
        self._shape = None
        if "shape.mean" in state:
            self._shape = ShapeSpace(state["shape.mean"].to(device), state["shape.basis"].to(device))
        self.trained: dict[str, Value] = {"init": INITS[start], "steps": steps}
        self.guarantee: dict[str, Value] = dict(self.trained)
        if INITS[start] == "published":
            self.guarantee |= published_notes(self.weights_of(FAMILY), int(self.setting["size"]), precision)

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """Draw a face for each, (n, 3, S, S) uint8.

        Raises:
            TrialError: the faces lack the landmarks or the mask that the generator sees.
        """
        setting, size = self.setting, int(self.setting["size"])
        kind = str(setting["conditioning"])
        landmarks = self._landmarks(faces) if "landmarks" in kind else None
        mask = None
        if "mask" in kind:
            if faces.mask is None:
                raise TrialError(f"ganonymization: conditioning = {kind!r} needs a parsing mask for each face")
            mask = mask_of_picture(faces.mask, faces.frame, str(setting["picture"]), size)
        given = condition(landmarks, mask, size, kind)
        # Always the same batch shape, filled up with zeros: libraries choose other algorithms for other shapes, and then
        # the last bit of a face would depend on its neighbours.
        chunk = self._chunk(size)
        drawn = []
        for part in torch.split(given, chunk):
            full = torch.cat([part, part.new_zeros(chunk - len(part), *part.shape[1:])])
            with torch.no_grad():
                face = self._generator(as_input(full, self._generator))
                drawn.append(place(face, faces.frame, str(setting["picture"]))[: len(part)])
        return torch.cat(drawn) if drawn else torch.empty_like(faces.image)

    def _landmarks(self, faces: FaceBatch) -> torch.Tensor:
        if faces.landmarks is None:
            raise TrialError(
                "ganonymization: needs dense landmarks for each face; prepare the data with a landmark model"
            )
        points = shares(faces.landmarks, faces.frame, str(self.setting["picture"]))
        return self._changed(points, self._shape, faces.seed)

    def _changed(self, landmarks: torch.Tensor, shape: ShapeSpace | None, seed: IntArray) -> torch.Tensor:
        """Landmarks as the generator sees them: the two controls of privacy applied."""
        if shape is not None:
            landmarks = shape.mix(landmarks, float(self.setting["shape_mix"]))
        return jitter(landmarks, seed, float(self.setting["landmark_noise"]))

    def _chunk(self, size: int) -> int:
        most = 64 if self._device.type == "cuda" else 16
        return max(1, min(most, most * 128 * 128 // size**2))

    def _shape_of_network(self) -> tuple[int, int, int]:
        """Channels of the condition, width, halvings."""
        channels = condition_channels(str(self.setting["conditioning"]))
        return channels, int(self.setting["width"]), int(self.setting["depth"])

    def _network(self, random: torch.Generator | None = None) -> Generator:
        return build(lambda: Generator(*self._shape_of_network()), random)

    def _precision(self, device: torch.device) -> Literal["float32", "float16"]:
        """What computes there."""
        return "float16" if device.type == "cuda" and self.setting["precision"] == "float16" else "float32"

    def _objective(self) -> Objective:
        setting: dict[str, Any] = self.setting
        return Objective(
            adversarial=setting["adversarial"],
            reconstruction=setting["reconstruction"],
            identity=setting["identity"],
            expression=setting["expression_weight"],
            expression_loss=setting["expression_loss"],
        )

    def _start(self, synthetic: bool, seed: int, device: torch.device) -> tuple[Generator, str]:
        """The generator before training and which of `INITS` it is."""
        init = str(self.setting["init"])
        if init == "published":
            if not self.setting["steps"]:
                # Read once, here: what is wrong with the file is told by the fit, not by every worker.
                return published_generator(
                    self.weights_of(FAMILY), self._shape_of_network(), device, self._precision(device)
                ), init
            return read_published(self.weights_of(FAMILY), self._shape_of_network()), init
        if init == "scratch" or not synthetic or small_misfits(self.setting):
            return self._network(torch.Generator().manual_seed(seed)), "scratch"
        generator = self._network()
        take_over(generator, load_pretrained().state)
        return generator, "small"


def _learn_shape(background: AlignedFaces, kind: str, picture: str) -> ShapeSpace | None:
    """From the background's landmarks.

    Raises:
        ConfigError: it has none.
    """
    if "landmarks" not in kind:
        return None
    if background.landmarks is None:
        raise ConfigError(
            f"ganonymization: conditioning = {kind!r} needs faces with dense landmarks; prepare them first"
        )
    points = shares(torch.from_numpy(np.ascontiguousarray(background.landmarks)), background.frame, picture)
    return ShapeSpace.learn(points.numpy(), background.table.identity, background.table.expression)
