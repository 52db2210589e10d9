"""`raysweep ui`."""

from __future__ import annotations

import argparse

from raysweep.commands.common import runs_folder

EXAMPLES = ("python -m raysweep ui --check",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--runs", metavar="DIR", help="where runs are kept (default: RAYSWEEP_RUNS or ./runs)")
    parser.add_argument("--port", type=int, default=5000, help="port on the loopback address (default 5000)")
    parser.add_argument(
        "--team",
        action="store_true",
        help="a server for many sweeps at once: PostgreSQL in MLFLOW_BACKEND_STORE_URI, artifacts in MLFLOW_ARTIFACTS_DESTINATION "
        "(see cluster/storage.md)",
    )
    parser.add_argument(
        "--allowed-hosts",
        metavar="NAMES",
        default="",
        help="with --team: names under which a proxy reaches it, with commas",
    )
    parser.add_argument(
        "--check", action="store_true", help="print the links of the newest sweep and do not start a server"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if arguments.team:
        from raysweep.tracking.team import serve_team

        return serve_team(arguments.port, arguments.allowed_hosts)
    from raysweep.tracking.mlflow_sink import default_tracking_uri
    from raysweep.tracking.ui import serve_ui, sweep_links

    uri = default_tracking_uri(runs_folder(arguments))
    if arguments.check:
        for line in sweep_links(uri, port=arguments.port):
            print(line)  # noqa: T201 - what was asked for
        return 0
    return serve_ui(uri, port=arguments.port)
