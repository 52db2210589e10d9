"""What `raysweep train` can train: settings, how trainer and examples are built in each process, and what becomes of the result.

A job is plain data and goes to other processes; `build` makes the trainer there. What a job leaves in its folder:

| file | content |
|------|---------|
| checkpoints/ | the last two states of the training |
| NAME.safetensors | the network that was asked for |
| models.yaml | its entry in the zoo: `--models FOLDER` uses it at once |
| report.json | settings, whom it learned from, the curve, scores, lineage, versions |
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raysweep.errors import ConfigError, nearest
from raysweep.models.entry import parse_entries
from raysweep.training.loop import Plan
from raysweep.training.saves import write_atomically
from raysweep.training.trainer import Examples, Precision, Trainer, Update

if TYPE_CHECKING:
    from raysweep.models.zoo import Zoo
    from raysweep.training.loop import Curve
    from raysweep.training.people import Pupils

__all__ = ["Job", "Product", "Settings", "parse_settings", "write_product"]


class Settings(BaseModel):
    """What every training can be told; each field may be given as `key=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(1000, ge=1, le=10_000_000, description="updates")
    batch_size: int = Field(16, ge=1, le=65536, description="faces per update, over all workers")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="at its peak")
    people: Literal["G", "all"] = Field(
        "G", description="whom to learn from: role G, or everybody of a set that no sweep will judge"
    )
    checkpoint_every: int = Field(200, ge=1, description="updates between two checkpoints")
    precision: Precision = Field("float32", description="of the forward passes on CUDA; the CPU computes in float32")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80, description="of the result in the zoo"
    )


@dataclass(frozen=True)
class Product:
    """What a training made.

    Attributes:
        name: in the zoo.
        state: tensors of the network, on the CPU.
        entry: its row in models.yaml, less name, file and format.
        report: further facts for report.json (`scores`, ...).
        lines: what a person should see of it: (what, value).
    """

    name: str
    state: Mapping[str, torch.Tensor]
    entry: Mapping[str, Any]
    report: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Job(ABC):
    """One training, ready to start.

    Attributes:
        settings: of its kind.
        pupils: whom it learns from.
        zoo: weights at hand (teachers, first weights).
        seed: of everything random.
        workers: processes.
    """

    kind: ClassVar[str]
    settings: Settings
    pupils: Pupils
    zoo: Zoo
    seed: int
    workers: int = 1

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the result, as it was when first asked for."""
        from raysweep.provenance import code_digest

        basis = {
            "kind": self.kind,
            "settings": self.settings.model_dump(mode="json", exclude={"checkpoint_every"}),
            "faces": dict(self.pupils.about),
            "seed": self.seed,
            "workers": self.workers,
            "weights": self.weights_used(),
            "code": code_digest(),
        }
        return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def plan(self) -> Plan:
        """For the loop."""
        settings = self.settings
        return Plan(
            self.key,
            settings.steps,
            settings.batch_size,
            self.seed,
            settings.checkpoint_every,
            settings.precision,
            self.workers,
        )

    def check(self) -> None:
        """Refuse what cannot work, before anything is read.

        Raises:
            ConfigError: every problem.
        """
        self.plan  # noqa: B018 - refuses what cannot be shared out

    def weights_used(self) -> dict[str, str]:
        """sha256 by name of the weights that training starts from or learns from; none by default."""
        return {}

    @abstractmethod
    def build(self, update: Update) -> tuple[Trainer, Examples]:
        """Trainer and examples on the device of `update`; the same in every process."""

    @abstractmethod
    def finish(self, trainer: Trainer, device: torch.device) -> Product:
        """The result of the trained trainer, and what it is worth."""


def parse_settings(model: type[Settings], given: Mapping[str, Any], kind: str) -> Settings:
    """Check `key=value` words of a kind.

    Raises:
        ConfigError: every problem: unknown keys with the nearest known one, values out of bounds.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        known = list(model.model_fields)
        problems = []
        for item in error.errors():
            name = ".".join(map(str, item["loc"]))
            if item["type"] == "extra_forbidden":
                problems.append(
                    f"train {kind}: unknown setting {name!r}{nearest(name, known)}; known: {', '.join(known)}"
                )
            else:
                problems.append(
                    f"train {kind}: {name} = {item['input']!r}: {item['msg'].removeprefix('Value error, ')}"
                )
        raise ConfigError(problems) from error


def write_product(job: Job, product: Product, folder: Path, curve: Curve, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write weights, models.yaml and, last, report.json; each is there whole or not at all.

    Args:
        job: that made it.
        product: the result.
        folder: of the training.
        curve: of the losses.
        facts: further facts for the report (`seconds`, ...).

    Returns:
        The report.

    Raises:
        StoreError: the disk refuses.
        ModelError: the entry would not be accepted by the zoo (a bug).
    """
    from safetensors.torch import save

    from raysweep.provenance import versions

    trained_on = dict(job.pupils.about)
    settings = job.settings.model_dump(mode="json")
    made = {"kind": job.kind, "settings": settings, "trained_on": trained_on, "seed": job.seed, "key": job.key}
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in product.state.items()}
    # One entry: safetensors writes several in no fixed order, and the file would differ each time.
    content = save(state, {"made": json.dumps(made, sort_keys=True)})
    path = folder / f"{product.name}.safetensors"
    write_atomically(path, content)
    synthetic = bool(trained_on["synthetic"])
    entry = {
        "name": product.name,
        "file": path.name,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": "MIT" if synthetic else f"that of its training data: {trained_on['licence']}",
        "non_commercial": not synthetic,
        "drawn": synthetic,
        "format": "safetensors",
        "rank": 1,
        "reference": f"raysweep train {job.kind} on {trained_on['dataset']}",
        **product.entry,
    }
    text = "# Written by `raysweep train`; give this folder as --models.\n" + yaml.safe_dump(
        {"entries": [entry]}, sort_keys=False, allow_unicode=True, width=120
    )
    parse_entries(yaml.safe_load(text), "models.yaml")
    write_atomically(folder / "models.yaml", text)
    report = {
        "kind": job.kind,
        "name": product.name,
        "key": job.key,
        "settings": settings,
        "seed": job.seed,
        "workers": job.workers,
        "trained_on": trained_on,
        "warning": job.pupils.warning,
        "weights_used": job.weights_used(),
        "lineage": list(product.entry.get("lineage", ())),
        **product.report,
        "weights": {"file": path.name, "sha256": entry["sha256"], "bytes": len(content)},
        "curve": curve,
        **facts,
        "versions": versions(),
    }
    write_atomically(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report
