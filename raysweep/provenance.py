"""What a number depends on: everything that decides a trial's result enters its key; what cannot change one does not."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.attackers.registry import plugin_of
from raysweep.config import RunSettings, SweepConfig
from raysweep.data.source import Source
from raysweep.engine.runs import Identity
from raysweep.errors import ConfigError
from raysweep.faces import Faces, frame_of, generator_weights, shares_of
from raysweep.models.teachers import teacher_entries
from raysweep.models.zoo import Zoo
from raysweep.objective import Protocol
from raysweep.preprocess.tools import tool_names
from raysweep.redaction import redacted, redacted_all

if TYPE_CHECKING:
    from raysweep.anonymizers.base import Anonymizer

__all__ = [
    "anonymizer_digest",
    "basis_of",
    "code_digest",
    "code_files",
    "identity_of",
    "protocol_of",
    "sampler_of",
    "versions",
    "weights_of",
]

DECIDING = (
    "anonymizers",
    "attackers",
    "data",
    "metrics",
    "models",
    "preprocess",
    "training",
    "engine/batching.py",
    "engine/worker.py",
    "objective",
    "schema.py",
)
"""Source files that can change a result; the others cannot, so that a fix of the terminal view does not end a sweep."""


LIBRARIES = (
    "torch",
    "torchvision",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "scipy",
    "opencv-python",
    "pillow",
    "optuna",
)
"""Packages that compute what is recorded, or propose it; another version may give other last digits, or other settings."""


def code_files() -> dict[str, str]:
    """Hash of each source file that decides results, by its path in the package."""
    package = Path(__file__).resolve().parent
    files: list[Path] = []
    for place in DECIDING:
        path = package / place
        files.extend([path] if path.is_file() else sorted(path.rglob("*.py")))
    return {file.relative_to(package).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}


def code_digest() -> str:
    """Hash of the source that decides results."""
    return hashlib.sha256(json.dumps(list(code_files().items())).encode()).hexdigest()[:16]


def anonymizer_digest(name: str) -> str:
    """Hash of the file that an anonymizer comes from: a plug-in's code decides results too.

    A class that was written in a notebook has no file: its own methods and parameters are hashed, not what they call.

    Raises:
        ConfigError: neither file nor source is at hand.
    """
    from raysweep.anonymizers.registry import get_anonymizer

    cls = get_anonymizer(name, allow_file=True)
    file = getattr(sys.modules[cls.__module__], "__file__", None)
    content = Path(file).read_bytes() if file else _typed_source(cls).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _typed_source(cls: type[Anonymizer]) -> str:
    """Source of the methods of a class that lives in no file, and its parameters."""
    try:
        methods = [inspect.getsource(item) for item in vars(cls).values() if inspect.isfunction(item)]
    except OSError as error:
        raise ConfigError(
            f"the source of anonymizer {cls.name!r} cannot be read, so that its results could not be told from those of another "
            "version: write the class into a file, and name it as file:PATH.py:CLASS"
        ) from error
    return "\n".join([*methods, repr(dict(cls.parameters))])


def protocol_of(run: RunSettings) -> Protocol:
    """The referee's settings."""
    return Protocol(
        gallery_size=run.gallery_size,
        attackers=run.attackers,
        attacker_settings=run.attacker,
        assignment=run.assignment,
        learning_curve=run.learning_curve,
        bootstrap=run.bootstrap,
        seed=run.seed,
    )


def sampler_of(config: SweepConfig) -> str:
    """Who proposes settings: `list` when the space lists them all."""
    return "list" if all(arm.settings for arm in config.space.arms) else config.run.sampler


def weights_of(config: SweepConfig, zoo: Zoo) -> dict[str, str]:
    """sha256 (16 digits) of every network whose answers enter a result, by name; `specification` is how they are fed and read."""
    from raysweep.anonymizers.registry import get_anonymizer

    names = {item.name for task in ("embedder", "expression", "perceptual") for item in zoo.judges(task)}
    names |= {name for name in tool_names(zoo).values() if name in zoo.found}
    if any(get_anonymizer(arm.anonymizer, allow_file=True).trains for arm in config.space.arms):
        names |= {item.name for item in teacher_entries(zoo) if item is not None}
    return {
        **{name: zoo.found[name].sha256[:16] for name in sorted(names)},
        "specification": zoo.digest(sorted(names))[:16],
    }


def basis_of(config: SweepConfig, faces: Faces) -> dict[str, Any]:
    """What decides a trial's result beside its setting, JSON-safe."""
    run = config.run
    return {
        "references": faces.store.key,
        "code": code_digest(),
        "anonymizers": {arm.anonymizer: anonymizer_digest(arm.anonymizer) for arm in config.space.arms},
        "generators": generator_weights(config.space, faces.zoo),
        "weights": weights_of(config, faces.zoo),
        "libraries": _libraries(),
        "seed": run.seed,
        "roles": shares_of(run),
        "protocol": _protocol_basis(run),
        "ladder": [run.rungs, run.eta] if run.rungs > 1 else [],
        **_precision_of(run),
    }


def identity_of(config: SweepConfig, source: Source, zoo: Zoo) -> Identity:
    """What a sweep asks and what answers it: the content of its key, item by item, known before any work on the faces."""
    run = config.run
    frame = frame_of(run, source.synthetic)
    return Identity(
        question={
            "space": redacted_all(config.space.canonical()),
            "sampler": sampler_of(config),
            "data": {"name": source.name, "digest": source.digest()[:32], "frame": [frame.size, frame.margin]},
            "seed": run.seed,
            "roles": shares_of(run),
            "protocol": _protocol_basis(run),
            "ladder": [run.rungs, run.eta] if run.rungs > 1 else [],
            **_precision_of(run),
        },
        means={
            "code": code_files(),
            "anonymizers": {redacted(arm.anonymizer): anonymizer_digest(arm.anonymizer) for arm in config.space.arms},
            "generators": generator_weights(config.space, zoo),
            "weights": weights_of(config, zoo),
            "libraries": _libraries(),
        },
    )


def _precision_of(run: RunSettings) -> dict[str, str]:
    """Only what is not the default: what was recorded before there was a choice stays as it is."""
    return {} if run.measure_precision == "float32" else {"precision": run.measure_precision}


def _protocol_basis(run: RunSettings) -> dict[str, Any]:
    """All settings of the referee, those included that a later release adds."""
    protocol = protocol_of(run)
    content: dict[str, Any] = json.loads(json.dumps(asdict(protocol), default=str))
    # An attacker of somebody else: its code decides results as ours does.
    modules = {module for each in protocol.make_attackers() if (module := plugin_of(each))}
    content["plugins"] = {
        module: hashlib.sha256(Path(str(sys.modules[module].__file__)).read_bytes()).hexdigest()[:16]
        for module in sorted(modules)
    }
    return content


def _libraries() -> dict[str, str]:
    return {name: found for name in LIBRARIES if (found := _version(name))}


def versions() -> dict[str, str]:
    """Of Python, raysweep and the libraries that decide numbers."""
    names = ("raysweep", "ray", "optuna", "mlflow", "torch", "onnxruntime-gpu", "numpy", "opencv-python")
    return {"python": platform.python_version(), **{name: _version(name) or "not installed" for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return ""
