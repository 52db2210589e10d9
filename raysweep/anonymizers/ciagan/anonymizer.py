"""CIAGAN as an anonymizer: published, small or trained inside the trial; then drawing the face region anew as that of a target person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from raysweep.anonymizers.base import Anonymizer, FitContext, State
from raysweep.anonymizers.ciagan.conditioning import CROP_FRACTION, condition, paste
from raysweep.anonymizers.ciagan.network import CLASSES, SIDES, Generator, build
from raysweep.anonymizers.ciagan.weights import FAMILY, Drawer, published_drawer, read_published, saw_jpegs
from raysweep.errors import ConfigError, ModelError, TrialError
from raysweep.search.parameters import Bool, Categorical, Float, Int, Parameter, Value
from raysweep.training.ciagan import (
    LEARNING_RATE,
    LEAST_EYE_DISTANCE,
    CiaganExamples,
    CiaganObjective,
    CiaganTrainer,
    Rhythm,
    SmallRecipe,
    load_small_ciagan,
    make_networks,
    train_ciagan,
)
from raysweep.training.stages import PAUSED
from raysweep.training.trainer import Update

if TYPE_CHECKING:
    from raysweep.schema import AlignedFaces, FaceBatch, Frame

__all__ = ["CIAGAN", "PUBLISHED"]

PUBLISHED: dict[str, Value] = {
    "init": "published",
    "target": "own_plus_one",
    "crop_fraction": CROP_FRACTION,
    "steps": 0,
    "adversarial": 1.0,
    "identity": 1.0,
    "reconstruction": 0.0,
    "expression_loss": "none",
    "learning_rate": LEARNING_RATE,
    "batch_size": 16,
    "critic_steps": 5,
    "siamese_steps": 1,
    "augment": True,
    "size": 128,
    "width": 32,
    "classes": CLASSES,
}
"""The setting of arXiv 2005.09544 and of its test script; for training from scratch add `init=scratch` and the steps."""

INITS = ("scratch", "small", "published")
"""How a generator can start; its place here is what the state stores."""

OWN = 0.5
"""Share of the faces of target people that are to be reproduced when there is a reconstruction term."""


class CIAGAN(Anonymizer):
    """Brows to chin are blacked out; a generator draws them anew for the landmarks, the surroundings and a target identity (arXiv 2005.09544).

    What it sees of the person beside the surroundings: the lines of jaw, nose bridge and inner mouth. Hair, forehead, neck and background of the
    photograph stay as they are, and give the person away as far as they can.

    The original ends with the squeezed square picture; here the drawn face is stretched again and put back into the crop.

    Half precision (`precision=float16`, on CUDA, channels last): in arithmetic of that precision the published network's output, whose range is
    [0, 1], is off by at most 0.03 and by 0.003 on average (eight and 0.8 grey levels of 255; four sets of weights like those of the parity
    test, computed in float16 on a CPU).

    Attributes:
        trained: after `load`: `init` (what `auto` came to), `steps` and `targets` (how many target identities there are).
        guarantee: after `load`, for the record: the same, and for published weights their name, sha256 and precision.
    """

    name = "ciagan"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "init": Categorical(
            ("auto", *INITS),
            "auto",
            why="small: the generator trained by this project on drawn faces; published: the weights of the family ciagan in --models; "
            "auto: small for drawn faces, published for photographs",
        ),
        "target": Categorical(
            ("random", "own_plus_one", "fixed"),
            "random",
            why="whose face is drawn: anyone's, anew for each picture; the next person's, the same for all pictures of one person, as published; "
            "target_identity for all",
        ),
        "target_identity": Int(0, CLASSES - 1, 0, why="for target=fixed"),
        "crop_fraction": Float(
            0.5,
            1.0,
            CROP_FRACTION,
            unit="of the picture",
            why="how much of the cut the generator sees; published 8/9 in use and 0.5 to 0.75 in training; below 0.7 the chin may be left out "
            "and stay as it is",
        ),
        "steps": Int(
            0, 20000, 0, unit="rounds", why="of training on role G in the trial; its people become the targets; 0: none"
        ),
        "adversarial": Float(0.0, 10.0, 1.0, why="weight of the critic; published 1"),
        "identity": Float(0.0, 10.0, 1.0, why="weight of nearness to the target person; published 1"),
        "reconstruction": Float(
            0.0, 200.0, 0.0, why="weight of L1 to the clear face where the target is the person itself; not published"
        ),
        "expression_loss": Categorical(
            ("none", "kd_logit", "feature"),
            "none",
            why="how an expression teacher guides: not (published), by its logits, by its features",
        ),
        "expression_weight": Float(0.0, 10.0, 1.0, why="weight of expression_loss"),
        "learning_rate": Float(1e-5, 1e-2, LEARNING_RATE, log=True, why="of all three networks; published 1e-4"),
        "batch_size": Int(2, 64, 8, unit="faces", why="published 16"),
        "critic_steps": Int(0, 10, 1, unit="updates per round", why="published 5"),
        "siamese_steps": Int(0, 10, 1, unit="updates per round", why="published 1"),
        "augment": Bool(False, why="cut at random in training, as published"),
        "size": Categorical(SIDES, SmallRecipe.size, unit="pixels", why="from scratch; published 128"),
        "width": Int(4, 64, 8, step=2, unit="channels", why="from scratch; published 32"),
        "classes": Int(
            2, CLASSES, SmallRecipe.targets, unit="target people", why="from scratch, at most; published 1200"
        ),
        "precision": Categorical(
            ("float32", "float16"),
            "float32",
            why="of drawing and training on CUDA; the CPU always computes in float32",
        ),
    }
    needs = frozenset({"landmarks"})
    trains = True
    reference = "Maximov, Elezi, Leal-Taixe, CIAGAN, CVPR 2020, arXiv 2005.09544"

    @classmethod
    def problems(cls, setting: Mapping[str, object]) -> list[str]:
        """As the base class, and what does not go together."""
        found = super().problems(setting)
        if found:
            return found
        full: dict[str, Any] = {key: setting.get(key, parameter.default) for key, parameter in cls.parameters.items()}
        if full["target"] == "fixed":
            # Where the network is known already; the number of published targets is that of the file.
            known = {"scratch": full["classes"], "small": SmallRecipe.targets}.get(full["init"])
            if known is not None and full["target_identity"] >= known:
                found.append(
                    f"{cls.name}: target_identity = {full['target_identity']}: with init = {full['init']!r} there are {known}, from 0"
                )
        if full["steps"]:
            terms = {"adversarial": "critic_steps", "identity": "siamese_steps"}
            found += [
                f"{cls.name}: {weight} = {full[weight]} needs {count} above 0: its network would never learn"
                for weight, count in terms.items()
                if full[weight] > 0 and not full[count]
            ]
            if full["augment"] and full["expression_loss"] != "none" and full["expression_weight"] > 0:
                found.append(
                    f"{cls.name}: augment = true does not go with expression_loss = {full['expression_loss']!r}: the teacher wants the whole crop"
                )
        return found

    def __init__(self, **setting: Value) -> None:
        super().__init__(**setting)
        init = str(self.setting["init"])
        self._init: str | None = None if init == "auto" else init

    def for_faces(self, synthetic: bool) -> None:
        """Settle what `auto` means; refuse the small generator for photographs.

        Raises:
            ConfigError: `init = small` and photographs; or more target identities asked for than there are.
        """
        if self.setting["init"] == "small" and not synthetic:
            raise ConfigError(
                "ciagan: init = 'small': the small generator was trained by this project on drawn faces and is not for photographs; "
                "use init=published (or auto), or init=scratch with steps"
            )
        if self.setting["init"] == "auto":
            self._init = "small" if synthetic else "published"
            if self._init == "small":
                problems = self.problems({**self.setting, "init": "small"})
                if problems:
                    raise ConfigError(problems)

    def weights_needed(self) -> frozenset[str]:
        """The family `ciagan` when the generator starts from published weights."""
        return frozenset({FAMILY}) if self._init == "published" else frozenset()

    def teachers_needed(self) -> frozenset[str]:
        """An expression teacher when its term has a weight; none without training."""
        asked = self._objective().uses_expression and self.setting["steps"]
        return frozenset({"expression"}) if asked else frozenset()

    def resumable_steps(self) -> int:
        """All rounds."""
        return int(self.setting["steps"])

    def fit(self, context: FitContext) -> State:
        """Train on role G when there are steps.

        Returns:
            The generator's state dict in float32 under `generator.` (without it when published weights are used as they are: `load` reads
            the file), and `trained` (7,): start, steps done, targets, then the network: classes, side, width, residuals. While the training
            is not over, also `training.paused`, see `raysweep.training.stages`.

        Raises:
            ConfigError: a loss needs a teacher that is None; the faces lack landmarks; too few people; `small` for photographs.
            ModelError: the published weights cannot be read; or the earlier state is not of this training.
            TrialError: role G is empty and there are steps; or the training diverged.
        """
        self.for_faces(context.background.synthetic)
        steps, start = int(self.setting["steps"]), str(self._init)
        if start == "published" and not steps:
            # Read once, here: what is wrong with the file is told by the fit, not by every worker.
            classes = published_drawer(self.weights_of(FAMILY), context.device, self._precision(context.device)).classes
            self._check_fixed(classes)
            return {"trained": torch.tensor([INITS.index(start), 0, classes, 0, 0, 0, 0])}
        generator = self._start(context.seed)
        state: State = {}
        targets, paused = self._train(generator, context, steps) if steps else (generator.classes, None)
        self._check_fixed(targets)
        if paused is not None:
            state[PAUSED] = paused
        state |= {
            f"generator.{name}": tensor.detach().cpu().contiguous().clone()
            for name, tensor in generator.state_dict().items()
        }
        shape = (generator.classes, generator.side, generator.width, generator.residuals)
        state["trained"] = torch.tensor([INITS.index(start), context.until(steps), targets, *shape])
        return state

    def load(self, state: State, device: torch.device) -> None:
        """Take the generator.

        Raises:
            ModelError: the published weights cannot be read, or nobody said where they lie.
        """
        start, steps, targets, classes, side, width, residuals = state["trained"].tolist()
        precision = self._precision(device)
        weights = {
            key.removeprefix("generator."): value for key, value in state.items() if key.startswith("generator.")
        }
        if weights:
            generator = build(lambda: Generator(classes, side, width, residuals))
            try:
                generator.load_state_dict(weights)
            except RuntimeError as error:
                raise ModelError(f"ciagan: the weights do not fit their own network: {error}") from error
            self._drawer = Drawer(generator, device, precision)
        else:
            self._drawer = published_drawer(self.weights_of(FAMILY), device, precision)
        self._device, self._targets = device, targets
        self._jpeg = INITS[start] == "published" and saw_jpegs(self.weights_of(FAMILY))
        self.trained: dict[str, Value] = {"init": INITS[start], "steps": steps, "targets": targets}
        self.guarantee: dict[str, Value] = dict(self.trained)
        if INITS[start] == "published" and not steps:
            found = self.weights_of(FAMILY)
            self.guarantee |= {"weights": found.name, "sha256": found.sha256, "precision": self._drawer.precision}

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """Draw a face for each and put it into its crop, (n, 3, S, S) uint8.

        Raises:
            TrialError: the faces lack landmarks; or `own_plus_one` and nobody knows who they are.
        """
        if faces.landmarks is None:
            raise TrialError("ciagan: needs dense landmarks for each face; prepare the data with a landmark model")
        targets = self._targets_of(faces)
        # The network always sees the same batch shape, filled up with the last face: libraries choose other algorithms for
        # other shapes, and then the last bit of a face would depend on its neighbours.
        chunk = self._chunk()
        done = []
        for start in range(0, len(faces), chunk):
            rows = list(range(start, min(start + chunk, len(faces))))
            fill = chunk - len(rows)
            image = faces.image[rows]
            scene = condition(
                image,
                faces.landmarks[rows],
                self._drawer.side,
                float(self.setting["crop_fraction"]),
                _least(faces.frame),
                self._jpeg,
            )
            given = torch.cat([scene.given, scene.given[-1:].expand(fill, -1, -1, -1)])
            drawn = self._drawer.draw(given, [targets[row] for row in rows + rows[-1:] * fill])[: len(rows)]
            pixels = paste(drawn, scene.mask, scene.edges, image.float() / 255.0) * 255.0
            done.append(pixels.round().to(torch.uint8))
        return torch.cat(done) if done else torch.empty_like(faces.image)

    def _targets_of(self, faces: FaceBatch) -> list[int]:
        """A target identity for each face."""
        match self.setting["target"]:
            case "fixed":
                return [int(self.setting["target_identity"])] * len(faces)
            case "own_plus_one":
                if faces.identity is None or bool((faces.identity < 0).any()):
                    raise TrialError(
                        "ciagan: target = 'own_plus_one' needs to know who each face is; use target=random for faces without identities"
                    )
                return [int(person) for person in (faces.identity + 1) % self._targets]
            case _:
                # The seeds are hashes of (trial, face): their remainder is as good as a draw.
                return [int(number) for number in np.asarray(faces.seed) % self._targets]

    def _check_fixed(self, targets: int) -> None:
        wanted = int(self.setting["target_identity"])
        if self.setting["target"] == "fixed" and wanted >= targets:
            raise ConfigError(f"ciagan: target_identity = {wanted}: there are {targets} target identities, from 0")

    def _chunk(self) -> int:
        most = 64 if self._device.type == "cuda" else 16
        return max(1, most * 64 * 64 // self._drawer.side**2)

    def _precision(self, device: torch.device) -> Literal["float32", "float16"]:
        """What computes there."""
        return "float16" if device.type == "cuda" and self.setting["precision"] == "float16" else "float32"

    def _objective(self) -> CiaganObjective:
        setting: dict[str, Any] = self.setting
        return CiaganObjective(
            adversarial=setting["adversarial"],
            identity=setting["identity"],
            reconstruction=setting["reconstruction"],
            expression=setting["expression_weight"],
            expression_loss=setting["expression_loss"],
        )

    def _start(self, seed: int) -> Generator:
        """The generator before training, on the CPU."""
        if self._init == "published":
            return read_published(self.weights_of(FAMILY))
        if self._init == "small":
            return load_small_ciagan().network()
        setting: dict[str, Any] = self.setting
        random = torch.Generator().manual_seed(seed)
        return build(lambda: Generator(setting["classes"], setting["size"], setting["width"]), random)

    def _train(self, generator: Generator, context: FitContext, steps: int) -> tuple[int, torch.Tensor | None]:
        """Train in place, as far as is asked.

        Returns:
            How many target identities it learns; and what going on needs, None when all is done.
        """
        setting: dict[str, Any] = self.setting
        if not len(context.background):
            raise TrialError("ciagan: role G has no faces to train on; give it a share of the identities")
        objective = self._objective()
        objective.check(context.teachers)
        jpeg = self._init == "published" and saw_jpegs(self.weights_of(FAMILY))
        examples = _examples(context.background, generator, setting, objective, jpeg)
        random = torch.Generator().manual_seed(context.seed + 1)
        width = max(8, 2 * generator.width)
        critic, siamese = make_networks(generator, width, width, random)
        trainer = CiaganTrainer(
            generator,
            critic,
            siamese,
            objective,
            context.teachers,
            learning_rate=setting["learning_rate"],
            steps=steps,
            update=Update(context.device, self._precision(context.device)),
        )
        paused = train_ciagan(
            trainer,
            examples,
            steps=steps,
            batch=setting["batch_size"],
            seed=context.seed,
            report=context.report,
            until=context.until(steps) if context.share < 1.0 else None,
            earlier=context.earlier,
        )
        return examples.classes, paused


def _examples(
    background: AlignedFaces, generator: Generator, setting: Mapping[str, Any], objective: CiaganObjective, jpeg: bool
) -> CiaganExamples:
    return CiaganExamples.of(
        background,
        generator.side,
        generator.classes,
        fraction=setting["crop_fraction"],
        rhythm=Rhythm(
            siamese=setting["siamese_steps"] if objective.identity > 0 else 0,
            critic=setting["critic_steps"] if objective.adversarial > 0 else 0,
        ),
        own=OWN if objective.reconstruction > 0 else 0.0,
        augment=setting["augment"],
        jpeg=jpeg,
        crops=objective.uses_expression,
    )


def _least(frame: Frame) -> float:
    return LEAST_EYE_DISTANCE * frame.scale
