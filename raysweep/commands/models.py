"""`raysweep models fetch|verify`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = ("python -m raysweep models verify",)
"""Not `models fetch ganonymization --accept-licence`: examples are run, also where there is no network."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("action", choices=("fetch", "verify"), help="download weights, or check those at hand")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="what to fetch: a model (see `raysweep ls models`), a pack (buffalo_l) or a family (ganonymization, ciagan, deepprivacy2)",
    )
    parser.add_argument(
        "--models", metavar="DIR", help="folder of weights (default: RAYSWEEP_MODELS or the user's data folder)"
    )
    parser.add_argument(
        "--accept-licence",
        action="store_true",
        help="you have read the licence of weights for non-commercial use only and keep to it",
    )
    parser.add_argument(
        "--offline", action="store_true", help="fetch nothing; say what would be fetched (also: RAYSWEEP_OFFLINE=1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Fetch each name, or verify a folder; a file with the wrong bytes is an error."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from raysweep.commands.tables import plain_table
    from raysweep.errors import ConfigError, ModelError
    from raysweep.models.fetch import describe, fetch, resolve, verify

    console = Console(highlight=False)
    if arguments.action == "fetch":
        if not arguments.names:
            raise ConfigError("models fetch: name at least one model; `raysweep ls models` lists them")
        wanted = [entry for name in arguments.names for entry in resolve(name)]
        if arguments.offline:
            os.environ["RAYSWEEP_OFFLINE"] = "1"
        problems = []
        with TemporaryDirectory() as archives:
            for entry in wanted:
                console.print(describe(entry), markup=False, soft_wrap=True)
                try:
                    with _bar(console, entry.file) as progress:
                        path = fetch(
                            entry.name,
                            folder=arguments.models,
                            accept_licence=arguments.accept_licence,
                            progress=progress,
                            archives=Path(archives),
                        )
                except ModelError as error:
                    # One that needs a hand must not keep the others of a pack from coming.
                    problems.append(str(error))
                    continue
                console.print(f"{entry.name}: {path}", markup=False, soft_wrap=True)
        if problems:
            raise ModelError("\n".join(problems))
        return 0
    rows = [(item.name, item.state, item.detail) for item in verify(arguments.models)]
    console.print(plain_table("weights", ("name", "state", ""), rows))
    return 0


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal; nothing elsewhere. Gives what is called with bytes so far and in all."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
