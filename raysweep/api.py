"""The Python door: what the command line does, with objects in place of words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.anonymizers.registry import get_anonymizer, list_anonymizers, register_anonymizer
from raysweep.config import SweepConfig, resolve_evaluation, resolve_sweep
from raysweep.errors import ConfigError

if TYPE_CHECKING:
    from raysweep.sweep import SweepResult

__all__ = ["evaluate", "register_anonymizer", "tune"]


def tune(
    space: str,
    *settings: str,
    data: str | None = None,
    models: str | None = None,
    runs: str | Path | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    fresh: bool = False,
    resume: str | None = None,
) -> SweepResult:
    """Search a space, as `raysweep tune`.

    Args:
        space: shipped name or YAML file.
        settings: `key=value` words, such as "trials=8", "engine=local", "kernel_size.low=31".
        data, models, address: as on the command line.
        runs: folder of runs; None: `RAYSWEEP_RUNS`, else `runs`.
        tracking_uri: of MLflow; None: `MLFLOW_TRACKING_URI`, else SQLite in `runs`.
        fresh: start a new run, where the same call would go on with an earlier one.
        resume: go on with this run, or refuse.

    Raises:
        RaysweepError: wrong input, before anything starts.

    Example:
        result = raysweep.tune("blur", "trials=6", "engine=local")
        front = standing(result.records, result.info).front
    """
    from raysweep import sweep
    from raysweep.tracking.terminal import live_view

    config = resolve_sweep(space, settings, data=data, models=models)
    _check_reach(config)
    return sweep.tune(
        config,
        runs=_folder(runs),
        view_of=live_view,
        tracking_uri=tracking_uri,
        address=address,
        fresh=fresh,
        resume=resume,
    )


def evaluate(
    anonymizer: str,
    *settings: str,
    data: str | None = None,
    models: str | None = None,
    runs: str | Path | None = None,
    tracking_uri: str | None = None,
) -> SweepResult:
    """Score one setting in this process, as `raysweep evaluate`; arguments as in `tune`.

    Example:
        result = raysweep.evaluate("pixelate", "block_size=16")
        result.records[-1].metrics["privacy"]
    """
    from raysweep import sweep
    from raysweep.tracking.terminal import live_view

    config = resolve_evaluation(anonymizer, settings, flags={"engine": "local"}, data=data, models=models)
    _check_reach(config)
    return sweep.tune(config, runs=_folder(runs), view_of=live_view, tracking_uri=tracking_uri, need_privacy=False)


def _check_reach(config: SweepConfig) -> None:
    """A class that this process registered is not known to the workers of a pool on Ray.

    Raises:
        ConfigError: it is asked of them.
    """
    here = {entry.name for entry in list_anonymizers() if entry.origin == "registered"}
    names = [arm.anonymizer for arm in config.space.arms if arm.anonymizer in here]
    if names and config.run.engine == "ray":
        raise ConfigError(
            f"anonymizer {names[0]!r} is known to this process only, and workers on Ray are other processes: give engine=local, or put the class "
            f"into a file and name it as file:PATH.py:{get_anonymizer(names[0]).__name__}, or install it as a package"
        )


def _folder(runs: str | Path | None) -> Path:
    """Where runs are kept, as on the command line."""
    from raysweep.storage.place import open_place

    return open_place(str(runs or os.environ.get("RAYSWEEP_RUNS", "runs")))
