"""`raysweep tune NAME|FILE [key=value ...]`."""

from __future__ import annotations

import argparse

from raysweep.commands.common import add_faces_arguments, add_run_arguments, command_line, flags, runs_folder

EXAMPLES = (
    "python -m raysweep tune ganonymization",
    "python -m raysweep tune ganonymization --dry-run trials=40 identity.high=3.0",
    "python -m raysweep tune blur --trials 4 --engine local --data synthetic:identities=40,images_per_identity=7",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("space", metavar="NAME|FILE", help="a search space (see `raysweep ls spaces`) or a YAML file")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="a run setting (trials, seed, sampler, gallery_size, frame.size, ...), or a parameter: `x=1` fixes it, `x.low=1` narrows it",
    )
    add_faces_arguments(parser)
    add_run_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the sweep and print its front."""
    from raysweep.config import resolve_sweep

    config = resolve_sweep(
        arguments.space,
        arguments.settings,
        flags=flags(arguments),
        data=arguments.data,
        kind=arguments.kind,
        models=arguments.models,
    )
    if arguments.dry_run:
        from raysweep.commands.show import print_plan

        print_plan(config)
        return 0
    from rich.console import Console

    from raysweep.sweep import tune
    from raysweep.tracking.terminal import live_view, print_closing

    result = tune(
        config, runs=runs_folder(arguments), view_of=live_view, address=arguments.address, command=command_line()
    )
    notes = (result.delivery.message,) if result.delivery.not_logged else ()
    print_closing(Console(), result.records, result.info, result.delivery.url, result.delivery.view_url, notes)
    complete = any(record.state == "complete" and not record.control for record in result.records)
    return 0 if complete else 1
