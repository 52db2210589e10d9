"""GANonymization as an anonymizer: trained on role G inside the trial, then drawing a face for each set of landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from raysweep.anonymizers.base import Anonymizer, FitContext, State
from raysweep.anonymizers.ganonymization.conditioning import CONDITIONINGS, condition, condition_channels
from raysweep.anonymizers.ganonymization.network import Discriminator, Generator, build
from raysweep.anonymizers.ganonymization.shape import ShapeSpace, jitter
from raysweep.errors import ConfigError, ModelError, TrialError
from raysweep.search.parameters import Categorical, Float, Int, Parameter, Value
from raysweep.training.generator import (
    Objective,
    Pairs,
    PretrainedGenerator,
    Recipe,
    load_pretrained,
    shares_of_picture,
    train_generator,
)

if TYPE_CHECKING:
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
    "batch_size": 1,
}
"""The setting of arXiv 2305.02143 (steps are left open: the paper trains 25 epochs of its own data)."""

INITS = ("scratch", "pretrained")
"""How a generator can start; its place here is what the state stores."""


class GANonymization(Anonymizer):
    """The photograph is thrown away; a conditional pix2pix generator draws a new face from the landmarks (arXiv 2305.02143).

    The whole square is synthetic and replaces the whole crop: nothing of the photograph is pasted back. Where role G brings parsing masks, the
    generator learns to draw on black, as published; otherwise it learns the background with the face.

    Two controls of privacy are not in the paper and are off by default: `shape_mix` and `landmark_noise`; they change what the generator
    sees, never the photograph. `shape_mix` acts on landmarks only: with `conditioning` of a mask the outline of head and hair remains.

    Attributes:
        trained: after `load`: `init` (what `auto` came to) and `steps`.
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
            why="auto: the shipped weights for drawn faces when they fit the network, else scratch",
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
        if full["init"] == "pretrained":
            found += [f"{cls.name}: init = 'pretrained': {problem}" for problem in _misfits(full)]
        return found

    def teachers_needed(self) -> frozenset[str]:
        """One for each loss term that has a weight; none without training."""
        objective = self._objective()
        wanted = {
            "identity": objective.identity > 0,
            "expression": objective.expression_loss != "none" and objective.expression > 0,
        }
        return frozenset(name for name, asked in wanted.items() if asked and self.setting["steps"])

    def fit(self, context: FitContext) -> State:
        """Train on role G.

        Returns:
            The generator's state dict in float32 under `generator.`, `shape.mean`, `shape.basis`, and `trained` (2,): start, steps.

        Raises:
            ConfigError: a loss needs a teacher that is None; the faces lack landmarks or a mask; `pretrained` for photographs.
            TrialError: role G is empty.
        """
        setting = self.setting
        background = context.background
        if not len(background):
            raise TrialError("ganonymization: role G has no faces to train on; give it a share of the identities")
        objective, steps = self._objective(), int(setting["steps"])
        if steps:
            objective.check(context.teachers)
        pairs = Pairs.of(background, int(setting["size"]), str(setting["conditioning"]))
        shape = _learn_shape(background, pairs)
        if pairs.landmarks is not None:
            # Trained on what it will see: with a changed shape, the losses are about the release and not about another picture.
            seeds = context.seed % 2**31 + np.arange(len(pairs), dtype=np.int64)
            pairs = replace(pairs, landmarks=self._changed(pairs.landmarks, shape, seeds))
        generator, start = self._start(background.synthetic, context.seed)
        if steps:
            channels, width = 3 + condition_channels(pairs.kind), int(setting["discriminator_width"])
            random = torch.Generator().manual_seed(context.seed + 1)
            discriminator = build(lambda: Discriminator(channels, width), random)
            train_generator(
                generator,
                discriminator,
                pairs,
                objective,
                context.teachers,
                steps=steps,
                batch=int(setting["batch_size"]),
                learning_rate=float(setting["learning_rate"]),
                seed=context.seed,
                device=context.device,
                report=context.report,
            )
        state = {f"generator.{name}": tensor.detach().cpu().clone() for name, tensor in generator.state_dict().items()}
        if shape is not None:
            state["shape.mean"], state["shape.basis"] = shape.mean, shape.basis
        state["trained"] = torch.tensor([INITS.index(start), steps])
        return state

    def load(self, state: State, device: torch.device) -> None:
        """Take the generator.

        Raises:
            ModelError: the state belongs to another setting.
        """
        weights = {
            key.removeprefix("generator."): value for key, value in state.items() if key.startswith("generator.")
        }
        generator = self._network()
        try:
            generator.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(f"ganonymization: the weights do not fit the setting: {error}") from error
        self._generator = generator.to(device).eval().requires_grad_(False)
        self._device = device
        self._shape = None
        if "shape.mean" in state:
            self._shape = ShapeSpace(state["shape.mean"].to(device), state["shape.basis"].to(device))
        start, steps = state["trained"].tolist()
        self.trained: dict[str, Value] = {"init": INITS[start], "steps": steps}

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """Draw a face for each, (n, 3, S, S) uint8.

        Raises:
            TrialError: the faces lack the landmarks or the mask that the generator sees.
        """
        setting, size = self.setting, int(self.setting["size"])
        kind = str(setting["conditioning"])
        landmarks = self._landmarks(faces) if "landmarks" in kind else None
        mask = faces.mask if "mask" in kind else None
        if "mask" in kind and mask is None:
            raise TrialError(f"ganonymization: conditioning = {kind!r} needs a parsing mask for each face")
        given = condition(landmarks, mask, size, kind)
        # Always the same batch shape, filled up with zeros: libraries choose other algorithms for other shapes, and then
        # the last bit of a face would depend on its neighbours.
        chunk = self._chunk(size)
        drawn = []
        for part in torch.split(given, chunk):
            full = torch.cat([part, part.new_zeros(chunk - len(part), *part.shape[1:])])
            with torch.no_grad():
                drawn.append(_as_crops(self._generator(full), faces.frame.size)[: len(part)])
        return torch.cat(drawn) if drawn else torch.empty_like(faces.image)

    def _landmarks(self, faces: FaceBatch) -> torch.Tensor:
        if faces.landmarks is None:
            raise TrialError(
                "ganonymization: needs dense landmarks for each face; prepare the data with a landmark model"
            )
        return self._changed(shares_of_picture(faces.landmarks, faces.frame.size), self._shape, faces.seed)

    def _changed(self, landmarks: torch.Tensor, shape: ShapeSpace | None, seed: IntArray) -> torch.Tensor:
        """Landmarks as the generator sees them: the two controls of privacy applied."""
        if shape is not None:
            landmarks = shape.mix(landmarks, float(self.setting["shape_mix"]))
        return jitter(landmarks, seed, float(self.setting["landmark_noise"]))

    def _chunk(self, size: int) -> int:
        most = 64 if self._device.type == "cuda" else 16
        return max(1, min(most, most * 128 * 128 // size**2))

    def _network(self, random: torch.Generator | None = None) -> Generator:
        channels = condition_channels(str(self.setting["conditioning"]))
        return build(lambda: Generator(channels, int(self.setting["width"]), int(self.setting["depth"])), random)

    def _objective(self) -> Objective:
        setting: dict[str, Any] = self.setting
        return Objective(
            adversarial=setting["adversarial"],
            reconstruction=setting["reconstruction"],
            identity=setting["identity"],
            expression=setting["expression_weight"],
            expression_loss=setting["expression_loss"],
        )

    def _start(self, synthetic: bool, seed: int) -> tuple[Generator, str]:
        """The generator before training, on the CPU, and which of `INITS` it is."""
        init = str(self.setting["init"])
        if init == "pretrained" and not synthetic:
            raise ConfigError(
                "ganonymization: init = 'pretrained': the shipped weights were trained on drawn faces and are not for photographs; "
                "use init=scratch (or auto)"
            )
        if init == "scratch" or not synthetic or _misfits(self.setting):
            return self._network(torch.Generator().manual_seed(seed)), "scratch"
        generator = self._network()
        _take_over(generator, load_pretrained())
        return generator, "pretrained"


def _misfits(setting: Mapping[str, Any]) -> list[str]:
    """Why the shipped weights do not fit a network."""
    found = [
        f"the shipped weights have {key} = {getattr(Recipe, key)}, not {setting[key]}"
        for key in ("width", "size", "depth")
        if setting[key] != getattr(Recipe, key)
    ]
    if "landmarks" not in str(setting["conditioning"]):
        found.append(f"the shipped weights see landmarks, conditioning = {setting['conditioning']!r} does not")
    return found


def _take_over(generator: Generator, pretrained: PretrainedGenerator) -> None:
    """Load the shipped weights; channels that they have not seen (the mask's) start at zero, hence without influence."""
    state = dict(pretrained.state)
    first = "down1.model.0.weight"
    missing = generator.state_dict()[first].shape[1] - state[first].shape[1]
    state[first] = F.pad(state[first], (0, 0, 0, 0, 0, missing))
    generator.load_state_dict(state)


def _learn_shape(background: AlignedFaces, pairs: Pairs) -> ShapeSpace | None:
    if pairs.landmarks is None:
        return None
    return ShapeSpace.learn(pairs.landmarks.numpy(), background.table.identity, background.table.expression)


def _as_crops(face: torch.Tensor, side: int) -> torch.Tensor:
    """(n, 3, size, size) in [-1, 1] -> (n, 3, side, side) uint8."""
    pixels = (face + 1.0) * 127.5
    if face.shape[-1] != side:
        pixels = F.interpolate(
            pixels, size=(side, side), mode="bilinear", antialias=side < face.shape[-1], align_corners=False
        )
    return pixels.round().clamp(0, 255).to(torch.uint8)
