"""What is wrong with this machine and this installation, and the fix."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from raysweep.models.entry import Task

__all__ = ["Finding", "check_all"]

MINIMUM_FREE_GB = 5
MINIMUM_MEMORY_GB = 3
"""Free: Ray, the driver with MLflow, and two workers with small networks. Ray ends workers when a machine runs short."""

PHOTOGRAPHS_NEED: tuple[Task, ...] = ("detector", "embedder", "expression")
FREE: Mapping[Task, str] = {"detector": "yunet", "embedder": "mobilefacenet-foamliu", "expression": "fer-vit"}
"""Weights that anyone may use."""


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        name: what was looked at.
        state: `wrong` must be mended, `note` is worth knowing.
        detail: what was found.
        fix: what to do, empty when nothing.
    """

    name: str
    state: Literal["ok", "note", "wrong"]
    detail: str
    fix: str = ""


def check_all() -> list[Finding]:
    """Run every check."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _onnxruntime,
        _accelerator,
        _memory,
        _ray,
        _mlflow,
        _weights,
        _cache,
        _runs,
    )
    return [check() for check in checks]


def _python() -> Finding:
    found = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", found)
    return Finding("python", "wrong", found, "use Python 3.11 to 3.13, for example `uv run --python 3.12 ...`")


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _onnxruntime() -> Finding:
    both = _installed("onnxruntime") and _installed("onnxruntime-gpu")
    if both:
        return Finding(
            "onnxruntime",
            "wrong",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's module",
            "uninstall both, then install onnxruntime-gpu alone (`uv sync --reinstall` does it)",
        )
    import onnxruntime
    import torch

    providers = onnxruntime.get_available_providers()
    if torch.cuda.is_available() and "CUDAExecutionProvider" not in providers:
        return Finding(
            "onnxruntime",
            "wrong",
            f"{onnxruntime.__version__} knows no CUDA: ONNX models would run on the CPU beside an idle GPU",
            "uninstall onnxruntime, then install onnxruntime-gpu (`uv sync --reinstall` does it)",
        )
    return Finding("onnxruntime", "ok", f"{onnxruntime.__version__}, built for {', '.join(providers)}")


def _accelerator() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("accelerator", "ok", f"torch {torch.__version__}: {', '.join(names)}")
    return Finding(
        "accelerator", "note", f"torch {torch.__version__}: no CUDA device, {os.cpu_count()} CPU cores are used"
    )


def _memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    try:
        words = {line.split(":")[0]: line.split() for line in meminfo.read_text(encoding="ascii").splitlines()}
        free, total = (int(words[name][1]) / 1e6 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, IndexError, ValueError):
        return Finding("memory", "note", f"{meminfo} does not tell it: some {MINIMUM_MEMORY_GB} GB should be free")
    found = f"{free:.1f} of {total:.1f} GB free"
    if free < MINIMUM_MEMORY_GB:
        return Finding(
            "memory", "note", found, "close what else runs, or take fewer workers: Ray ends some when it runs short"
        )
    return Finding("memory", "ok", found)


def _ray() -> Finding:
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return Finding(
            "ray", "wrong", "RAY_AUTH_MODE=disabled: whoever reaches its ports can run code", "unset RAY_AUTH_MODE"
        )
    return Finding("ray", "ok", f"{version('ray')}, token authentication on, telemetry off")


def _mlflow() -> Finding:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        return _mlflow_server(uri)
    return Finding(
        "mlflow",
        "ok",
        f"{version('mlflow')}, {'store given by MLFLOW_TRACKING_URI' if uri else 'SQLite in the folder of runs'}",
    )


def _mlflow_server(uri: str) -> Finding:
    import requests

    from raysweep.tracking.text import redact

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=5)
        problem = "" if answer.ok else f"answers {answer.status_code} {answer.reason}"
    except requests.RequestException as error:
        problem = f"does not answer ({type(error).__name__})"
    if problem:
        fix = "start it (`python -m raysweep ui --team` there), check the tunnel, or unset MLFLOW_TRACKING_URI; sweeps run without it, and send later"
        return Finding("mlflow", "wrong", f"{version('mlflow')}, the server {redact(uri)} {problem}", fix)
    return Finding("mlflow", "ok", f"{version('mlflow')}, server {redact(uri)}")


def _weights() -> Finding:
    from raysweep.errors import ModelError
    from raysweep.models.zoo import open_zoo

    try:
        zoo = open_zoo(None)
        synthetic = zoo.for_data(synthetic=True)
        synthetic.require("embedder")
        synthetic.require("expression")
    except ModelError as error:
        return Finding(
            "weights", "wrong", str(error), "`python -m raysweep models verify` says which file; reinstall raysweep"
        )
    photographs = zoo.for_data(synthetic=False, needs=())
    missing = [task for task in PHOTOGRAPHS_NEED if not photographs.judges(task)]
    if missing:
        return Finding(
            "weights",
            "note",
            f"built-in ones for synthetic faces; for photographs no {', no '.join(missing)} in {zoo.source}",
            "; ".join(f"python -m raysweep models fetch {FREE[task]}" for task in missing) + "; or --models DIR",
        )
    return Finding("weights", "ok", "for synthetic faces and for photographs")


def _cache() -> Finding:
    from raysweep.engine.cache import cache_root
    from raysweep.storage.objects import is_url

    given = os.environ.get("RAYSWEEP_CACHE", "")
    if is_url(given) and (far := _objects("cache", given)).state == "wrong":
        return far
    root = cache_root()
    existing = root
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        return Finding("cache", "wrong", f"{root} cannot be written", "set RAYSWEEP_CACHE to a folder of yours")
    if free < MINIMUM_FREE_GB:
        return Finding("cache", "note", f"{root}: {free:.1f} GB free", "set RAYSWEEP_CACHE to a larger disk")
    shared = f"{given}, copied to " if is_url(given) else ""
    return Finding("cache", "ok", f"{shared}{root}: {free:.0f} GB free")


def _runs() -> Finding:
    """Whether the place of runs keeps what the ledger builds on; tried there, not asked of the system."""
    from raysweep.engine.lease import store_problems
    from raysweep.storage.objects import is_url

    given = os.environ.get("RAYSWEEP_RUNS", "runs")
    if is_url(given):
        return _objects("runs", given)
    root = Path(given).expanduser().absolute()
    existing = root
    while not existing.is_dir():
        existing = existing.parent
    wrong, notes = store_problems(existing)
    if wrong:
        return Finding("runs", "wrong", f"{root}: {'; '.join(wrong)}", "set RAYSWEEP_RUNS to a folder on another disk")
    return Finding(
        "runs", "note" if notes else "ok", f"{root}: {'; '.join(notes) or 'appends, renames and locks hold'}"
    )


def _objects(name: str, url: str) -> Finding:
    """A place in an object store."""
    from raysweep.errors import ConfigError
    from raysweep.storage.check import object_problems
    from raysweep.storage.objects import Objects

    try:
        objects = Objects.open(url)
    except ConfigError as error:
        return Finding(name, "wrong", str(error), "cluster/storage.md says what an address needs")
    wrong, notes = object_problems(objects)
    if wrong:
        return Finding(
            name, "wrong", f"{objects.url}: {'; '.join(wrong)}", "mend that, or name another place: cluster/storage.md"
        )
    return Finding(
        name, "note" if notes else "ok", f"{objects.url}: {'; '.join(notes) or 'conditional writes and listings hold'}"
    )
