"""`raysweep report [RUN]`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.commands.common import runs_folder
from raysweep.errors import ConfigError

if TYPE_CHECKING:
    from raysweep.tracking.recompute import Difference
    from raysweep.tracking.stored import StoredRun

GAP_WIDTH = 132
"""Columns of the table of `--gap` in a file or pipe, where nobody can widen a window."""
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
    parser.add_argument(
        "--bundle",
        metavar="FILE.zip",
        help="write the numbers alone, to be passed on: no faces, no embeddings, no names, no paths",
    )
    parser.add_argument(
        "--from-bundle",
        metavar="FILE.zip",
        help="compute privacy, utility, intervals and ranking again from a bundle, and say what differs",
    )
    parser.add_argument(
        "--contact-sheet",
        action="store_true",
        help="show anonymized photographs in the page (drawn faces are always shown, clear photographs never)",
    )
    parser.add_argument("--models", metavar="DIR", help="folder of weights, for a contact sheet of trained anonymizers")
    parser.add_argument("--names", action="store_true", help="name the people of the risk charts, in place of codes")
    parser.add_argument("--runs", metavar="DIR", help="where runs are kept (default: RAYSWEEP_RUNS or ./runs)")


def run(arguments: argparse.Namespace) -> int:
    """Do one of four things: print the gap, write a bundle, check a bundle, or write the page."""
    _check(arguments)
    if arguments.from_bundle:
        return _from_bundle(arguments)
    from raysweep.tracking.stored import find_run, load_run

    folder = find_run(arguments.name, runs_folder(arguments))
    stored = load_run(folder)
    if arguments.gap:
        return _gap(stored)
    if arguments.bundle:
        from raysweep.tracking.bundle import write_bundle

        path = Path(arguments.bundle).expanduser()
        size = write_bundle(stored, path)
        _say(
            f"written  {path}  ({size / 1e6:.2f} MB, {sum(bool(record.evidence) for record in stored.records)} trials and controls with evidence)"
        )
        return 0
    return _page(arguments, stored, _path(arguments.out) or folder / "report" / "report.html")


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that would be silently ignored.

    Raises:
        ConfigError: names them.
    """
    given = {
        "RUN": arguments.name, "--out": arguments.out, "--csv": arguments.csv, "--latex": arguments.latex, "--gap": arguments.gap,
        "--bundle": arguments.bundle, "--from-bundle": arguments.from_bundle, "--contact-sheet": arguments.contact_sheet,
        "--names": arguments.names, "--models": arguments.models,
    }  # fmt: skip
    alone = {"--gap": {"RUN"}, "--bundle": {"RUN"}, "--from-bundle": {"--out", "--csv", "--latex"}}
    for option, company in alone.items():
        others = [name for name, value in given.items() if value and name != option and name not in company]
        if given[option] and others:
            raise ConfigError(f"{option} does not go together with {', '.join(others)}")


def _page(
    arguments: argparse.Namespace, stored: StoredRun, path: Path, checked: Sequence[Difference] | None = None
) -> int:
    from raysweep.tracking.analysis import analyse
    from raysweep.tracking.contact import drawn_sheet, identity_names, photograph_sheet
    from raysweep.tracking.report import write_page, write_tables

    started = time.perf_counter()
    found = analyse(stored)
    names, sheet, flags = None, drawn_sheet(found), []
    if arguments.names:
        names = identity_names(stored)
        flags.append("This page names people: it is personal data.")
    if arguments.contact_sheet and not stored.info.synthetic:
        sheet = photograph_sheet(found, arguments.models)
    written = [write_page(found, path, names=names, sheet=sheet, checked=checked, flags=flags)]
    written += write_tables(found, csv=_path(arguments.csv), latex_folder=_path(arguments.latex))
    for item in written:
        _say(f"written  {item}")
    seconds, work = time.perf_counter() - started, sum(found.spent_s.values())
    words = [f"{len(found.state.trials)} trials in {seconds:.1f} s"]
    if work:
        words += [
            f"{seconds / work:.1%} of the sweep's {work:.0f} s of work",
            f"the referee took {found.referee_share:.1%} of that",
        ]
    _say(f"report: {', '.join(words)}")
    return 0


def _gap(stored: StoredRun) -> int:
    from rich.console import Console

    from raysweep.commands.tables import plain_table
    from raysweep.tracking.analysis import analyse
    from raysweep.tracking.sections import gap_rows

    table = gap_rows(analyse(stored))
    from raysweep.tracking.text import plain

    title = f"{plain(stored.info.name, 60)} on {plain(stored.info.dataset, 60)}: naive against strongest attacker"
    columns = [column.name for column in table.columns]
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, GAP_WIDTH)
    console.print(plain_table(title, columns, [[cell.text for cell in row.cells] for row in table.rows]))
    return 0


def _from_bundle(arguments: argparse.Namespace) -> int:
    """Recompute, write the page from the recomputed numbers; 1 when a recorded number differs."""
    from raysweep.tracking.bundle import read_bundle
    from raysweep.tracking.recompute import differences, recompute, recomputed_records

    bundle = Path(arguments.from_bundle).expanduser()
    stored = read_bundle(bundle)
    again = recompute(stored)
    told = differences(stored, again)
    for item in told[:20]:
        _say(f"differs  {item.trial} {item.name}: recorded {item.recorded:.8g}, recomputed {item.recomputed:.8g}")
    if len(told) > 20:
        _say(f"         and {len(told) - 20} more, all in the report")
    without = len(stored.missing)
    _say(
        f"recomputed {len(again)} trials and controls from ranks and decisions: "
        + (
            f"{len(told)} numbers differ from the recorded ones"
            if told
            else "no recorded number differs by more than 1e-6"
        )
        + (f"; {without} without evidence" if without else "")
    )
    fresh = replace(stored, records=recomputed_records(stored, again))
    _page(arguments, fresh, _path(arguments.out) or bundle.with_suffix(".html"), told)
    return 1 if told else 0


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given).expanduser()


def _say(line: str) -> None:
    print(line)  # noqa: T201 - what was asked for
