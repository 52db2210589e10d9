"""`raysweep tune NAME|FILE [key=value ...]`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from raysweep.commands.common import add_space_arguments, command_line, runs_folder, sweep_config
from raysweep.errors import ConfigError

if TYPE_CHECKING:
    from raysweep.config import SweepConfig

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
    parser.add_argument(
        "--no-calibration",
        action="store_true",
        help="with --dry-run: measure nothing, and say nothing of time and disk",
    )
    parser.add_argument(
        "--price",
        type=float,
        metavar="PER_HOUR",
        help="with --dry-run: of one machine for an hour, to say what the sweep costs",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the sweep and print its front."""
    _check(arguments)
    config = sweep_config(arguments)
    if arguments.dry_run:
        from raysweep.commands.show import print_found, print_plan

        print_plan(config)
        print_found(config)
        if not arguments.no_calibration:
            _print_forecast(config, arguments)
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


def _check(arguments: argparse.Namespace) -> None:
    """Words that belong to a dry run, and a price that is one."""
    problems = []
    if not arguments.dry_run:
        given = {"--no-calibration": arguments.no_calibration, "--price": arguments.price is not None}
        problems += [f"{word} belongs to --dry-run" for word, there in given.items() if there]
    if arguments.price is not None and not 0 <= arguments.price < float("inf"):
        problems.append(f"--price {arguments.price:g}: what one machine costs for an hour, 0 or more")
    if arguments.price is not None and arguments.no_calibration:
        problems.append("--price needs the calibration that --no-calibration leaves out")
    if problems:
        raise ConfigError(problems)


def _print_forecast(config: SweepConfig, arguments: argparse.Namespace) -> None:
    """Calibrate, print, and keep the forecast for the sweep to be held against."""
    from rich.console import Console
    from rich.text import Text

    from raysweep.commands.forecast_table import forecast_tables
    from raysweep.dry_run import look_ahead
    from raysweep.engine.forecast import write_forecast

    console = Console(highlight=False)
    outlook = look_ahead(config, lambda line: console.print(Text(line, style="dim")), address=arguments.address)
    console.print(forecast_tables(outlook, arguments.price))
    write_forecast(runs_folder(arguments), outlook.key, outlook.forecast)
