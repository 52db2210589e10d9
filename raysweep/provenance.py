"""What a number depends on: everything that decides a trial's result enters its key; what cannot change one does not."""

from __future__ import annotations

import hashlib
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raysweep.config import RunSettings, SweepConfig
from raysweep.faces import Faces, generator_weights, shares_of
from raysweep.objective import Protocol

__all__ = ["anonymizer_digest", "basis_of", "code_digest", "protocol_of", "versions"]

DECIDING = (
    "anonymizers",
    "attackers",
    "data",
    "metrics",
    "models",
    "preprocess",
    "training",
    "engine/worker.py",
    "objective",
    "schema.py",
)
"""Source files that can change a result; the others cannot, so that a fix of the terminal view does not end a sweep."""


def code_digest() -> str:
    """Hash of the source that decides results."""
    package = Path(__file__).resolve().parent
    files: list[Path] = []
    for place in DECIDING:
        path = package / place
        files.extend([path] if path.is_file() else sorted(path.rglob("*.py")))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def anonymizer_digest(name: str) -> str:
    """Hash of the file (or the package) that an anonymizer comes from: a plug-in's code decides results too."""
    from raysweep.anonymizers.registry import get_anonymizer

    module = sys.modules[get_anonymizer(name, allow_file=True).__module__]
    file = Path(str(module.__file__))
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def protocol_of(run: RunSettings) -> Protocol:
    """The referee's settings."""
    return Protocol(gallery_size=run.gallery_size, attackers=run.attackers, bootstrap=run.bootstrap, seed=run.seed)


def basis_of(config: SweepConfig, faces: Faces) -> dict[str, Any]:
    """What decides a trial's result beside its setting, JSON-safe."""
    run = config.run
    return {
        "references": faces.store.key,
        "code": code_digest(),
        "anonymizers": {arm.anonymizer: anonymizer_digest(arm.anonymizer) for arm in config.space.arms},
        "generators": generator_weights(config.space, faces.zoo),
        "seed": run.seed,
        "roles": shares_of(run),
        "protocol": {
            "gallery_size": run.gallery_size,
            "attackers": list(run.attackers),
            "bootstrap": run.bootstrap,
        },
    }


def versions() -> dict[str, str]:
    """Of Python, raysweep and the libraries that decide numbers."""
    names = ("raysweep", "ray", "optuna", "mlflow", "torch", "onnxruntime-gpu", "numpy", "opencv-python")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except ImportError:
            found[name] = "not installed"
    return found
