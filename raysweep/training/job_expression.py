"""`raysweep train expression`: a seven-class classifier, on clear faces or on faces that an anonymizer has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from raysweep.errors import ConfigError, DataError
from raysweep.models.architectures import build
from raysweep.schema import EXPRESSIONS, AlignedFaces, FloatArray, IntArray
from raysweep.training.expression import (
    Augmentation,
    ExpressionExamples,
    ExpressionTrainer,
    input_spec,
    predict,
    scores,
)
from raysweep.training.jobs import Job, Product, Settings
from raysweep.training.people import split
from raysweep.training.trainer import Examples, Trainer, Update

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from raysweep.models.base import InputSpec
    from raysweep.models.zoo import Found, Zoo
    from raysweep.search.parameters import Value
    from raysweep.training.people import Pupils

__all__ = ["ExpressionJob", "ExpressionSettings", "anonymized_pupils"]

IMAGENET = "resnet18-imagenet"
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18-7", {"classes": 7}),
    "small": ("small-expression", {"width": 20, "block": "residual", "side": 56, "hidden": 96}),
}
ANONYMIZE_BATCH = 64
CROPS = "crops.npy"
"""Anonymized crops in the folder of a training; gone when it has ended."""


class ExpressionSettings(Settings):
    """Of `train expression`."""

    steps: int = Field(3000, ge=1, le=10_000_000, description="updates")
    batch_size: int = Field(64, ge=2, le=65536, description="faces per update, over all workers")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="at its peak; AdamW, warm-up, half a cosine to 0")
    weight_decay: float = Field(0.02, ge=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    architecture: Literal["resnet18", "small"] = Field(
        "resnet18", description="torchvision's ResNet-18, or the small one"
    )
    init: Literal["auto", "imagenet", "scratch"] = Field(
        "auto", description="first weights: torchvision's ImageNet file when it is in --models, else drawn at random"
    )
    size: int = Field(112, ge=32, le=512, description="side of the network's input, pixels")
    balanced: bool = Field(True, description="draw the classes equally often")
    flip: bool = True
    rotate: float = Field(10.0, ge=0, le=45, description="degrees")
    crop: float = Field(0.12, ge=0, le=0.4, description="share by which the cut grows, shrinks and moves")
    brightness: float = Field(0.25, ge=0, le=0.9)
    validation: float = Field(0.2, gt=0, lt=1, description="share held out, by person; a set's own division wins")
    anonymizer: str | None = Field(None, description="train on faces that it has changed (a domain-adapted classifier)")
    anonymizer_setting: dict[str, Any] = Field(default_factory=dict)
    teacher: str | None = Field(
        None, description="an expression model (ONNX too) whose answers on the clear faces are soft targets"
    )
    distil: float = Field(0.5, ge=0, le=1, description="weight of the teacher against the labels")


@dataclass(frozen=True)
class ExpressionJob(Job):
    """Trains on the labelled part of its pupils, or with a teacher on all of them."""

    kind: ClassVar[str] = "expression"
    settings: ExpressionSettings

    def check(self) -> None:
        """As the base class; each worker needs two faces per step for its batch norm, and named weights must be at hand.

        Raises:
            ConfigError, ModelError: says what.
        """
        super().check()
        if self.settings.batch_size // self.workers < 2:
            raise ConfigError(
                f"train expression: batch_size = {self.settings.batch_size} leaves a worker fewer than 2 faces"
            )
        self._first_weights()
        self._teacher()

    def weights_used(self) -> dict[str, str]:
        """First weights, teacher, and what the anonymizer computes with."""
        found = [self._first_weights(), self._teacher()]
        if self.settings.anonymizer:
            from raysweep.anonymizers.registry import get_anonymizer

            made = get_anonymizer(self.settings.anonymizer, allow_file=True)(**self.settings.anonymizer_setting)
            made.for_faces(bool(self.pupils.about["synthetic"]))
            found += [self.zoo.generator(family) for family in sorted(made.weights_needed())]
        return {item.name: item.sha256 for item in found if item is not None}

    def build(self, update: Update) -> tuple[Trainer, Examples]:
        """The network with its first weights; the rows to learn from."""
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self._network()
        trainer = ExpressionTrainer(
            network,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            smoothing=settings.label_smoothing,
            distil=settings.distil,
            update=update,
        )
        faces, learn, _, _ = self._divided()
        soft = self._soft(learn, update.device)
        label = faces.table.expression[learn]
        if soft is None:
            if not (label >= 0).any():
                raise DataError(
                    f"{self.pupils.dataset}: none of {len(learn)} faces to learn from has an expression label; "
                    "give a labelled set, or teacher=NAME to learn from another model's answers"
                )
            learn, label = learn[label >= 0], label[label >= 0]
        how = Augmentation(settings.flip, settings.rotate, settings.crop, settings.brightness)
        examples = ExpressionExamples(
            faces.crop, learn, label, faces.frame, self._spec(), how, settings.balanced, update.device, soft
        )
        return trainer, examples

    def finish(self, trainer: Trainer, device: torch.device) -> Product:
        """Scores on the held-out rows, and the entry."""
        settings, about = self.settings, self.pupils.about
        faces, learn, held, how = self._divided()
        network = trainer.modules()["network"]
        labelled = held[faces.table.expression[held] >= 0]
        answer = predict(network, faces, labelled, self._spec(), device)
        identity = faces.table.identity[labelled]
        cluster = np.where(identity >= 0, identity, faces.table.identity.max(initial=0) + 1 + np.arange(len(labelled)))
        result = scores(faces.table.expression[labelled], answer, cluster, self.seed)
        architecture, arguments = ARCHITECTURES[settings.architecture]
        spec = self._spec()
        # ImageNet's first weights say nothing about expressions; a teacher does.
        teacher = self._teacher()
        lineage = [] if teacher is None else [teacher.name]
        note = f"trained by raysweep on {about['faces']} faces ({about['people']}) of {about['dataset']}"
        if settings.anonymizer:
            note += f" after {settings.anonymizer} {settings.anonymizer_setting or ''}".rstrip()
        entry: dict[str, Any] = {
            "task": "expression",
            "architecture": architecture,
            "arguments": arguments,
            "input": {
                "size": spec.size,
                "colour": spec.colour,
                "mean": list(spec.mean),
                "std": list(spec.std),
                "region": list(spec.region),
            },
            "output": {"logits": True},
            "classes": list(EXPRESSIONS),
            "lineage": lineage,
            "note": note,
        }
        name = settings.name or ("expression-adapted" if settings.anonymizer else "expression")
        text = {"accuracy": "accuracy", "uar": "unweighted average recall", "macro_f1": "macro F1"}
        lines = [(words, _interval(result[key])) for key, words in text.items()]
        lines += [
            (
                "checked on",
                f"{result['n']} faces of {result['clusters']} {'people' if (identity >= 0).any() else 'photographs'}, {how}",
            )
        ]
        report = {"scores": result, "split": {"how": how, "learned": len(learn), "held_out": len(labelled)}}
        return Product(name, network.state_dict(), entry, report, lines)

    # ---------------------------------------------------------------- inside
    def _spec(self) -> InputSpec:
        return input_spec(self.settings.size, bool(self.pupils.about["synthetic"]))

    def _divided(self) -> tuple[AlignedFaces, IntArray, IntArray, str]:
        faces, photographs, usage = self.pupils.load()
        learn, held, how = split(faces, photographs, usage, self.settings.validation, self.seed)
        if not len(learn) or not len(held):
            raise DataError(
                f"{self.pupils.dataset}: {len(faces)} faces cannot be divided into people to learn from and people to check with; "
                "at least two people (or photographs) are needed"
            )
        return faces, learn, held, how

    def _network(self) -> nn.Module:
        architecture, arguments = ARCHITECTURES[self.settings.architecture]
        network = build(architecture, arguments)
        found = self._first_weights()
        if found is not None:
            from raysweep.models.checkpoint import load_generator_state, shapes_of

            own = {name: shape for name, shape in shapes_of(network.state_dict()).items() if not name.startswith("fc.")}
            counters = [name for name in own if name.endswith("num_batches_tracked")]
            state = load_generator_state(found.path, key=None, wanted=own, optional={*counters, "fc.weight", "fc.bias"})
            network.load_state_dict(state, strict=False)  # strict but for the last layer, which is new
        return network

    def _first_weights(self) -> Found | None:
        settings = self.settings
        if settings.init == "scratch" or settings.architecture != "resnet18":
            if settings.init == "imagenet":
                raise ConfigError("train expression: init = 'imagenet' is for architecture = 'resnet18' only")
            return None
        if settings.init == "imagenet":
            return self.zoo.get(IMAGENET)
        return self.zoo.found.get(IMAGENET)

    def _teacher(self) -> Found | None:
        if self.settings.teacher is None:
            return None
        found = self.zoo.get(self.settings.teacher)
        if found.entry.task != "expression":
            raise ConfigError(
                f"train expression: teacher = {found.name!r} is a model for {found.entry.task}, not for expression"
            )
        return found

    def _soft(self, rows: IntArray, device: torch.device) -> FloatArray | None:
        """(n, 7) the teacher's probabilities on the clear faces, also when learning from anonymized ones."""
        found = self._teacher()
        if found is None:
            return None
        from raysweep.models.expression import load_expression

        faces = replace(self.pupils, crops="").load()[0]
        model = load_expression(found, device, torch.get_num_threads())
        parts = []
        for start in range(0, len(rows), ANONYMIZE_BATCH):
            crops = faces.crop[rows[start : start + ANONYMIZE_BATCH]].transpose(0, 3, 1, 2)
            parts.append(model.probabilities(torch.from_numpy(np.ascontiguousarray(crops)), faces.frame))
        return np.concatenate(parts)


def anonymized_pupils(
    pupils: Pupils,
    name: str,
    setting: Mapping[str, Value],
    zoo: Zoo,
    seed: int,
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Pupils:
    """The same people after an anonymizer; written once to `folder`, so that every process and a resumed training read the same pictures.

    What is there already, of a training that was killed, is used as it is.

    Args:
        pupils: clear.
        name, setting: of the anonymizer.
        zoo: weights for it.
        seed: of its training and of its noise.
        folder: of the training.
        device: where it computes.
        progress: told (done, all) faces.

    Raises:
        ConfigError: it publishes groups, or needs what the faces do not bring.
        ModelError: its weights are not at hand.
    """
    from raysweep.anonymizers.base import FitContext, Teachers
    from raysweep.anonymizers.batch import face_batch
    from raysweep.anonymizers.registry import get_anonymizer
    from raysweep.models.teachers import teachers

    path = folder / CROPS
    if path.is_file():
        return replace(pupils, crops=str(path))
    method = get_anonymizer(name, allow_file=True)
    if method.releases != "per_image":
        raise ConfigError(
            f"train expression: {name} publishes groups of faces, not one picture for each; a classifier cannot be adapted to it"
        )
    made = method(**setting)
    synthetic = bool(pupils.about["synthetic"])
    made.for_faces(synthetic)
    made.use_weights({family: zoo.generator(family) for family in made.weights_needed()})
    faces = pupils.load()[0]
    needed = made.teachers_needed()
    taught = Teachers()
    if needed:
        taught = teachers(
            zoo.for_data(synthetic, needs=()), device, faces.frame, "identity" in needed, "expression" in needed
        )
    state = made.fit(FitContext(faces, {}, taught, device, seed, lambda numbers: None))
    made.load(state, device)
    aside = folder / f".{CROPS}"
    crops = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=faces.crop.shape)
    for start in range(0, len(faces), ANONYMIZE_BATCH):
        rows = np.arange(start, min(start + ANONYMIZE_BATCH, len(faces)), dtype=np.int64)
        with torch.inference_mode():
            out = made.anonymize(face_batch(faces.take(rows), seed, device))
        crops[rows] = out.cpu().numpy().transpose(0, 2, 3, 1)
        progress(int(rows[-1]) + 1, len(faces))
    crops.flush()
    aside.replace(path)
    return replace(pupils, crops=str(path))


def _interval(value: Mapping[str, float | None]) -> str:
    if value["lo"] is None or value["hi"] is None:
        return f"{value['value']:.3f} (no interval: one person only)"
    return f"{value['value']:.3f} [{value['lo']:.3f}, {value['hi']:.3f}]"
