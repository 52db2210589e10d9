"""Runs measurements one after the other and gathers what they found."""

from __future__ import annotations

import importlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raysweep.bench.finding import Finding, How
from raysweep.bench.goals import BENCHES
from raysweep.errors import StoreError
from raysweep.provenance import versions

__all__ = ["machine", "run_benches", "write_json"]


def run_benches(names: Sequence[str], how: How) -> list[Finding]:
    """Measure.

    Args:
        names: of `goals.BENCHES`.
        how: sizes, folder, progress.

    Returns:
        One finding per ratio. A measurement that breaks is a finding without a value and with its reason: the others go on.
    """
    found: list[Finding] = []
    for name in names:
        bench = BENCHES[name]
        if bench.gpu and not _has_gpu():
            found += [Finding(goal, missing="no GPU") for goal in bench.goals]
            continue
        module, function = bench.place.split(":")
        folder = how.folder / name
        folder.mkdir(mode=0o700)
        measure = getattr(importlib.import_module(f"raysweep.bench.{module}"), function)
        try:
            found += measure(replace(how, folder=folder))
        except Exception as error:  # whatever it is: it belongs in the table, beside what could be measured
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            found += [Finding(goal, missing=reason) for goal in bench.goals]
    return found


def machine() -> dict[str, Any]:
    """What was measured on."""
    gpu = ""
    if _has_gpu():
        import torch

        gpu = torch.cuda.get_device_name()
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpu or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "load_1min": os.getloadavg()[0],
        "versions": versions(),
    }


def write_json(path: Path, found: Sequence[Finding], about: dict[str, Any]) -> None:
    """Everything that was found, with every repeat.

    Raises:
        StoreError: it cannot be written.
    """
    content = {"machine": about, "findings": [finding.to_dict() for finding in found]}
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
