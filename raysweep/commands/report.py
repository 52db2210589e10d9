"""`raysweep report [RUN]`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from raysweep.commands.common import runs_folder

EXAMPLES = (
    "python -m raysweep report",
    "python -m raysweep report blur --gap",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="RUN",
        help="a run folder, or the start of its name or key (default: the newest run; `raysweep ls runs`)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="where the page is written (default: report/report.html in the run folder)"
    )
    parser.add_argument("--csv", metavar="DIR", help="also write front.csv, trials.csv and attackers.csv")
    parser.add_argument("--latex", metavar="DIR", help="also write front.tex, trials.tex and attackers.tex")
    parser.add_argument(
        "--gap", action="store_true", help="print naive against strongest attacker, each setting; write nothing"
    )
    parser.add_argument("--runs", metavar="DIR", help="where runs are kept (default: RAYSWEEP_RUNS or ./runs)")


def run(arguments: argparse.Namespace) -> int:
    """Write the page, print where it is and what it cost."""
    started = time.perf_counter()
    from rich.console import Console

    from raysweep.commands.tables import plain_table
    from raysweep.tracking.analysis import analyse
    from raysweep.tracking.sections import gap_rows
    from raysweep.tracking.stored import find_run, load_run

    console = Console(highlight=False)
    folder = find_run(arguments.name, runs_folder(arguments))
    found = analyse(load_run(folder))
    if arguments.gap:
        table = gap_rows(found)
        console.print(
            plain_table(
                f"{found.run.info.name} on {found.run.info.dataset}: naive against strongest attacker",
                [column.name for column in table.columns],
                [[cell.text for cell in row.cells] for row in table.rows],
            )
        )
        return 0
    from raysweep.tracking.report import write_page, write_tables

    written = [
        write_page(found, Path(arguments.out).expanduser() if arguments.out else folder / "report" / "report.html")
    ]
    written += write_tables(found, csv=_folder(arguments.csv), latex_folder=_folder(arguments.latex))
    for path in written:
        console.print(f"written  {path}", soft_wrap=True, markup=False)
    seconds = time.perf_counter() - started
    work = sum(found.spent_s.values())
    share = f", {seconds / work:.1%} of the sweep's {work:.0f} s of work" if work else ""
    console.print(
        f"report: {len(found.state.trials)} trials in {seconds:.1f} s{share}; referee {found.referee_share:.1%} of that work"
    )
    return 0


def _folder(given: str | None) -> Path | None:
    return None if given is None else Path(given).expanduser()
