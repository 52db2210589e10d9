"""`raysweep prepare`."""

from __future__ import annotations

import argparse

from raysweep.commands.common import add_faces_arguments, runs_folder

EXAMPLES = ("python -m raysweep prepare --engine local --data synthetic:identities=12,images_per_identity=7",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("settings", nargs="*", metavar="key=value", help="run settings such as frame.size=160 seed=1")
    add_faces_arguments(parser)
    parser.add_argument(
        "--engine", choices=("ray", "local"), help="Ray Data with actor pools (default), or this process"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="actors per pool")
    parser.add_argument("--runs", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--address", metavar="RAY", help="a running Ray cluster (default: a local one)")


def run(arguments: argparse.Namespace) -> int:
    """Prepare, and print what came of each image."""
    from raysweep.config import resolve_run

    settings = resolve_run(
        arguments.settings,
        {name: getattr(arguments, name) for name in ("engine", "workers") if getattr(arguments, name) is not None},
    )
    from rich.console import Console

    from raysweep.commands.tables import faces_table
    from raysweep.faces import prepare
    from raysweep.tracking.info import SweepInfo
    from raysweep.tracking.terminal import live_view

    info = SweepInfo("prepare", "", arguments.data or "synthetic", arguments.data is None, "", runs_folder(arguments))
    with live_view(info) as view:
        faces = prepare(
            settings,
            view=view,
            data=arguments.data,
            kind=arguments.kind,
            models=arguments.models,
            address=arguments.address,
        )
    Console(highlight=False).print(faces_table(faces))
    return 0
