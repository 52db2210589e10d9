"""`raysweep evaluate ANONYMIZER [key=value ...]`."""

from __future__ import annotations

import argparse

from raysweep.commands.common import add_faces_arguments, command_line, runs_folder

EXAMPLES = ("python -m raysweep evaluate pixelate block_size=16 --data synthetic:identities=40,images_per_identity=7",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "anonymizer", metavar="ANONYMIZER", help="a name (see `raysweep ls anonymizers`) or file:PATH.py:Class"
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="its parameters, or run settings")
    add_faces_arguments(parser)
    parser.add_argument(
        "--engine", choices=("ray", "local"), default="local", help="this process (default), or a pool on Ray"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="workers in the pool")
    parser.add_argument("--address", metavar="RAY", help="a running Ray cluster (with --engine ray)")
    parser.add_argument("--runs", metavar="DIR", help="where runs are kept (default: RAYSWEEP_RUNS or ./runs)")
    parser.add_argument(
        "--fresh", action="store_true", help="score it anew, where the same command would show what is recorded"
    )


def run(arguments: argparse.Namespace) -> int:
    """Score the setting and print all its metrics."""
    from raysweep.config import resolve_evaluation

    config = resolve_evaluation(
        arguments.anonymizer,
        arguments.settings,
        flags={"engine": arguments.engine} | ({"workers": arguments.workers} if arguments.workers else {}),
        data=arguments.data,
        kind=arguments.kind,
        models=arguments.models,
    )
    from rich.console import Console

    from raysweep.commands.tables import evaluation_tables
    from raysweep.sweep import tune
    from raysweep.tracking.terminal import live_view

    result = tune(
        config,
        runs=runs_folder(arguments),
        view_of=live_view,
        address=arguments.address,
        command=command_line(),
        need_privacy=False,
        fresh=arguments.fresh,
    )
    Console(highlight=False).print(evaluation_tables(result))
    return 0 if all(record.state == "complete" for record in result.records) else 1
