"""What an anonymizer is: a class with declared parameters, an optional fit, and `anonymize`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from raysweep.errors import ConfigError, ModelError, nearest
from raysweep.search.parameters import Parameter, Value

if TYPE_CHECKING:
    import torch

    from raysweep.models.zoo import Found
    from raysweep.schema import AlignedFaces, FaceBatch

__all__ = ["Anonymizer", "FitContext", "State", "Teachers"]

State = dict[str, "torch.Tensor"]
"""What `fit` learned, as CPU tensors: it crosses a process border and may be stored."""


@dataclass(frozen=True)
class Teachers:
    """Differentiable networks that may guide training; none of them ever judges the trial (lineage check).

    Attributes:
        identity: (n, 3, S, S) float crops in [0, 1] -> (n, D) L2-normalised embeddings; None when no torch embedder is at hand.
        expression: the same crops -> (logits (n, 7), features (n, F)); None when no torch expression model is at hand.
        lineage: names of the weights behind them and of what those were distilled from.
    """

    identity: Callable[[torch.Tensor], torch.Tensor] | None = None
    expression: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
    lineage: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FitContext:
    """What `fit` may look at.

    Attributes:
        background: faces of role G; whatever is learned, is learned from these.
        releases: faces per release (`T`, `S/enrol`, `S/probe`, `E/enrol`, `E/probe`), for anonymizers that publish groups.
        teachers: networks for loss terms.
        device: where to compute.
        seed: of the trial.
        report: called with plain numbers while training (step, losses), for the live view and the tracker.
        share: of its training that must be done when `fit` returns; below 1 only where `resumable_steps` are above 0.
        earlier: what `fit` returned at a smaller share, to go on from; None at the start.
    """

    background: AlignedFaces
    releases: Mapping[str, AlignedFaces]
    teachers: Teachers
    device: torch.device
    seed: int
    report: Callable[[Mapping[str, float]], None]
    share: float = 1.0
    earlier: State | None = None

    def until(self, steps: int) -> int:
        """How many of `steps` must be done when `fit` returns; at least one of them."""
        return steps if self.share >= 1.0 else min(steps, max(1, round(self.share * steps)))


class Anonymizer(ABC):
    """Base class. A subclass sets the class attributes and writes `anonymize`; `fit` only if it learns something.

    The life of an instance: `Anonymizer(**setting)` checks the values; `for_faces` tells what kind of faces will come; `use_weights`
    where published weights lie, if it asked for any; `fit(context)` returns tensors; in each worker
    `load(state, device)` takes them; `anonymize(batch)` is then called any number of times, with any batch size, in any order, and
    must give the same image for the same face each time.

    Class attributes:
        name: unique; `vendor/name` for plug-ins.
        parameters: declared parameters with the widest bounds allowed.
        releases: `per_image`, or `group` when one output image stands for several faces (k-Same).
        needs: of `landmarks`, `mask`, `identity`, `background`: what the faces must bring.
        strength: numeric parameters that act in `anonymize` alone, so that a fitted state serves for any of their values: an attacker who does
            not know the setting learns from faces made at many of them.
        trains: `fit` trains a network (the trial then holds an accelerator share for it).
        licence, reference: of the method.
    """

    name: ClassVar[str]
    parameters: ClassVar[Mapping[str, Parameter]] = {}
    releases: ClassVar[Literal["per_image", "group"]] = "per_image"
    needs: ClassVar[frozenset[str]] = frozenset()
    strength: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = False
    licence: ClassVar[str] = "MIT"
    reference: ClassVar[str] = ""

    def __init__(self, **setting: Value) -> None:
        """Take the given values, the declared default for the rest.

        Raises:
            ConfigError: names every unknown key and every value out of bounds.
        """
        problems = self.problems(setting)
        if problems:
            raise ConfigError(problems)
        self.setting: dict[str, Value] = {
            key: setting.get(key, parameter.default) for key, parameter in self.parameters.items()
        }

    @classmethod
    def problems(cls, setting: Mapping[str, object]) -> list[str]:
        """Everything wrong with a setting, one line each."""
        known = list(cls.parameters)
        found = []
        for key, value in setting.items():
            if key not in cls.parameters:
                found.append(
                    f"{cls.name}: unknown parameter {key!r}{nearest(key, known)}; known: {', '.join(known) or 'none'}"
                )
            elif (problem := cls.parameters[key].problem(value)) is not None:
                found.append(f"{cls.name}: {key} = {problem}")
        return found

    def for_faces(self, synthetic: bool) -> None:  # noqa: B027 - optional, not abstract
        """Told whether the faces to come are drawn or photographed; called first. Nothing by default.

        Raises:
            ConfigError: the setting is not for such faces.
        """

    def teachers_needed(self) -> frozenset[str]:
        """Which of `identity` and `expression` this setting's training asks of `Teachers`; none by default."""
        return frozenset()

    def weights_needed(self) -> frozenset[str]:
        """Families of published generators (`family` of a zoo entry of task `generator`) that this setting computes with; none by default.

        They are looked for, and their bytes checked, before a sweep starts.
        """
        return frozenset()

    def use_weights(self, weights: Mapping[str, Found]) -> None:
        """Told where the files of `weights_needed` lie, by family; called before `fit` and, in each worker, before `load`."""
        self.weights: Mapping[str, Found] = weights

    def weights_of(self, family: str) -> Found:
        """The file of a family that `use_weights` named.

        Raises:
            ModelError: it named none.
        """
        weights: Mapping[str, Found] = getattr(self, "weights", {})
        if family not in weights:
            raise ModelError(
                f"{self.name}: needs the weights of {family!r}: give their file by --models, see `raysweep ls models`; from Python, give "
                f"use_weights() what Zoo.generator({family!r}) finds"
            )
        return weights[family]

    def resumable_steps(self) -> int:
        """How many steps this setting's training has, where `fit` can stop between two of them and go on later; 0 (the default) where it cannot.

        Such a `fit` does `context.until(steps)` of them and returns tensors that `load` can use; at a share below 1 they also hold all that
        going on from there needs, even when no step is left. Called again with these as `context.earlier` it ends as if it had never stopped: the same tensors, and in
        all the same reports. A search then stops what stands low after a part of its training.
        """
        return 0

    def fit(self, context: FitContext) -> State:
        """Learn what `anonymize` needs; nothing by default."""
        return {}

    def load(self, state: State, device: torch.device) -> None:  # noqa: B027 - optional, not abstract
        """Take what `fit` returned, possibly in another process; nothing by default."""

    def operator(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Where the method is a fixed differentiable map of pixels: that map, for an attacker to invert; None (the default) where it is not.

        It takes (n, 3, S, S) float crops from 0 to 255 to the released crops before they are rounded half up; `anonymize` is its rounding.
        """
        return None

    @abstractmethod
    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """Clear crops -> anonymized crops, (n, 3, S, S) uint8 RGB on the same device, in the same order."""
