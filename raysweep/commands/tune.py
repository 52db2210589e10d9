"""`raysweep tune NAME|FILE [key=value ...]`."""

from __future__ import annotations

import argparse

from raysweep.commands.common import add_space_arguments, command_line, runs_folder, sweep_config

EXAMPLES = (
    "python -m raysweep tune ganonymization",
    "python -m raysweep tune ganonymization --dry-run trials=40 identity.high=3.0",
    "python -m raysweep tune blur --trials 4 --engine local --data synthetic:identities=40,images_per_identity=7",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    add_space_arguments(parser)
    parser.add_argument(
        "--fresh", action="store_true", help="start a new run, where the same command would go on with an earlier one"
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with this run, or say in what it differs from what is asked here"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the sweep and print its front."""
    config = sweep_config(arguments)
    if arguments.dry_run:
        from raysweep.commands.show import print_found, print_plan

        print_plan(config)
        print_found(config)
        return 0
    from rich.console import Console

    from raysweep.sweep import tune
    from raysweep.tracking.terminal import live_view, print_closing

    result = tune(
        config,
        runs=runs_folder(arguments),
        view_of=live_view,
        address=arguments.address,
        command=command_line(),
        fresh=arguments.fresh,
        resume=arguments.resume,
    )
    notes = (result.delivery.message,) if result.delivery.not_logged else ()
    print_closing(Console(), result.records, result.info, result.delivery.url, result.delivery.view_url, notes)
    complete = any(record.state == "complete" and not record.control for record in result.records)
    return 0 if complete else 1
