"""`raysweep models fetch|verify`."""

from __future__ import annotations

import argparse

EXAMPLES = ("python -m raysweep models verify",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("action", choices=("fetch", "verify"), help="download weights, or check those at hand")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch (see `raysweep ls models`)")
    parser.add_argument(
        "--models", metavar="DIR", help="folder of weights (default: RAYSWEEP_MODELS or the user's data folder)"
    )
    parser.add_argument(
        "--accept-licence",
        action="store_true",
        help="you have read the licence of weights for non-commercial use only and keep to it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fetch each name, or verify a folder; a file with the wrong bytes is an error."""
    from rich.console import Console

    from raysweep.commands.tables import plain_table
    from raysweep.errors import ConfigError
    from raysweep.models.fetch import fetch, verify

    if arguments.action == "fetch":
        if not arguments.names:
            raise ConfigError("models fetch: name at least one model; `raysweep ls models` lists them")
        for name in arguments.names:
            path = fetch(name, folder=arguments.models, accept_licence=arguments.accept_licence)
            Console(highlight=False).print(f"{name}: {path}", markup=False)
        return 0
    rows = [(item.name, item.state, item.detail) for item in verify(arguments.models)]
    Console(highlight=False).print(plain_table("weights", ("name", "state", ""), rows))
    return 0
