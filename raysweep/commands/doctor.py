"""`raysweep doctor`."""

from __future__ import annotations

import argparse

EXAMPLES = ("python -m raysweep doctor",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--address`."""
    parser.add_argument(
        "--address",
        metavar="RAY",
        help="look at this cluster as well (`auto` on its head): token, versions, shared folders",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print each check with its finding and, where it fails, the fix; 1 when one fails."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from raysweep.doctor import check_all

    table = Table(box=None, pad_edge=False, show_header=False)
    findings = check_all()
    if arguments.address is not None:
        from raysweep.doctor_cluster import check_cluster

        findings += check_cluster(arguments.address)
    marks = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "wrong": "[red]wrong[/red]"}
    for finding in findings:
        words = finding.detail + (f"\n→ {finding.fix}" if finding.fix else "")
        table.add_row(marks[finding.state], finding.name, Text(words))  # as it is: `ray[default]` is no markup
    Console(highlight=False).print(table)
    return 1 if any(finding.state == "wrong" for finding in findings) else 0
