"""Options that several verbs share."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raysweep.config import SweepConfig

__all__ = [
    "add_faces_arguments",
    "add_run_arguments",
    "add_space_arguments",
    "command_line",
    "flags",
    "runs_folder",
    "sweep_config",
]


def add_faces_arguments(parser: argparse.ArgumentParser) -> None:
    """`--data`, `--kind`, `--models`."""
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="faces: a folder per identity, FER-2013, CelebAMask-HQ, Pins, CIAGAN layout or Parquet; "
        "without it, or `synthetic:identities=60,images_per_identity=14,seed=3`: built-in synthetic faces",
    )
    parser.add_argument(
        "--kind", metavar="KIND", help="layout of --data (see `raysweep ls data`); found out when not given"
    )
    parser.add_argument("--models", metavar="DIR", help="folder of weights (see `raysweep ls models`)")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """`--trials`, `--budget`, `--engine`, `--workers`, `--address`, `--runs`, `--dry-run`."""
    parser.add_argument("--trials", type=int, metavar="N", help="how many trials in all")
    parser.add_argument("--budget", metavar="TIME", help="start no new trial after this time: 90s, 10m, 1.5h")
    parser.add_argument(
        "--engine", choices=("ray", "local"), help="worker pool on Ray (default), or one worker in this process"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="workers in the pool (default: one per GPU, else per core)"
    )
    parser.add_argument(
        "--address", metavar="RAY", help="a running Ray cluster (default: a local one, started and stopped here)"
    )
    parser.add_argument(
        "--runs",
        metavar="DIR",
        help="where runs are kept, a folder or s3://bucket/prefix (default: RAYSWEEP_RUNS or ./runs)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print what would be done and, after a short calibration, what it takes; run nothing",
    )


def add_space_arguments(parser: argparse.ArgumentParser) -> None:
    """A search space with `key=value` words, the faces and the run: what `tune` runs and `show` prints."""
    parser.add_argument(
        "space", metavar="NAME|FILE", help="a search space (see `raysweep ls spaces`), a YAML file, or an anonymizer"
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="a run setting (trials, seed, sampler, gallery_size, frame.size, ...), or a parameter: `x=1` fixes it, `x.low=1` narrows it",
    )
    add_faces_arguments(parser)
    add_run_arguments(parser)


def sweep_config(arguments: argparse.Namespace) -> SweepConfig:
    """The settings that `add_space_arguments` asked for, checked together."""
    from raysweep.config import resolve_sweep

    return resolve_sweep(
        arguments.space,
        arguments.settings,
        flags=flags(arguments),
        data=arguments.data,
        kind=arguments.kind,
        models=arguments.models,
    )


def flags(arguments: argparse.Namespace) -> dict[str, object]:
    """Run settings given as options."""
    names = ("trials", "budget", "engine", "workers")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def runs_folder(arguments: argparse.Namespace) -> Path:
    """Where runs are kept; of an object store the mirror on this machine, brought up to date."""
    from raysweep.storage.place import open_place

    return open_place(arguments.runs or os.environ.get("RAYSWEEP_RUNS", "runs"))


def command_line() -> str:
    """The command as typed."""
    return "python -m raysweep " + shlex.join(sys.argv[1:])
