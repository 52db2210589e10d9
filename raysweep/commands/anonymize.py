"""`raysweep anonymize POINT --data IN --out OUT`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.commands.common import add_faces_arguments, command_line, runs_folder

if TYPE_CHECKING:
    from rich.console import Console

    from raysweep.engine.point import Point
    from raysweep.engine.release import Released

EXAMPLES = (
    "python -m raysweep anonymize 'blur#knee' --engine local --data synthetic:identities=6,images_per_identity=4",
    "python -m raysweep anonymize pixelate block_size=16 --engine local --data synthetic:identities=4,images_per_identity=3 --format images",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "point",
        metavar="POINT",
        help="a trial of a sweep, RUN#NUMBER or RUN#knee (RUN: a run folder, the start of its name or key, or nothing for the newest), "
        "or the name of an anonymizer",
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="parameters of an anonymizer, or run settings")
    add_faces_arguments(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write; the same command goes on there (default: released/ and the point's name, beside the runs)",
    )
    parser.add_argument(
        "--format",
        choices=("shards", "images"),
        default="shards",
        help="Parquet shards that can be given as --data again (default), or image files in the tree of the source",
    )
    parser.add_argument("--crops", action="store_true", help="write the aligned crops, not the whole photographs")
    parser.add_argument("--lossless", action="store_true", help="PNG also where the source is JPEG or WebP")
    parser.add_argument(
        "--keep-undetected",
        action="store_true",
        help="also pass on photographs in which no face is found, as they are (a face that was overlooked is then published)",
    )
    parser.add_argument(
        "--anyway", action="store_true", help="apply a trial although its method is not what the sweep measured"
    )
    parser.add_argument(
        "--engine",
        choices=("ray", "local"),
        default="ray",
        help="Ray Data with an actor pool (default), or this process",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="actors in the pool (default: one per core)")
    parser.add_argument("--address", metavar="RAY", help="a running Ray cluster (default: a local one)")
    parser.add_argument("--runs", metavar="DIR", help="where runs are kept (default: RAYSWEEP_RUNS or ./runs)")


def run(arguments: argparse.Namespace) -> int:
    """Anonymize, and print what came of each row."""
    from raysweep.engine.point import find_point

    runs = runs_folder(arguments)
    point = find_point(arguments.point, arguments.settings, runs)
    from rich.console import Console

    from raysweep.engine.apply import Output
    from raysweep.engine.release import anonymize
    from raysweep.tracking.info import SweepInfo
    from raysweep.tracking.terminal import live_view

    data = arguments.data or "synthetic"
    info = SweepInfo("anonymize", "", data, arguments.data is None, point.anonymizer, runs, command=command_line())
    with live_view(info) as view:
        released = anonymize(
            point,
            data=arguments.data,
            kind=arguments.kind,
            models=arguments.models,
            out=Path(arguments.out).expanduser() if arguments.out else runs / "released" / _name(point),
            layout=arguments.format,
            output=Output(
                crops=arguments.crops, lossless=arguments.lossless, keep_undetected=arguments.keep_undetected
            ),
            view=view,
            engine=arguments.engine,
            workers=arguments.workers,
            address=arguments.address,
            anyway=arguments.anyway,
        )
    _print(Console(highlight=False), released)
    return 0 if released.counts.released else 1


def _name(point: Point) -> str:
    """Of a folder: what was applied, in characters that every file system takes."""
    name = point.anonymizer if point.record is None else f"{point.words}"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "released"


def _print(console: Console, released: Released) -> None:
    from raysweep.commands.tables import plain_table
    from raysweep.tracking.text import plain

    counts = released.counts
    rows = [("rows in", str(counts.rows_in), ""), ("anonymized", str(counts.released), "")]
    if counts.kept:
        rows.append(("passed on as they are", str(counts.kept), "no face found"))
    rows += [("quarantined", str(count), plain(reason, 80)) for reason, count in counts.reasons.items()]
    rows += [("note", "", plain(note, 300)) for note in released.notes]
    console.print(plain_table(f"{released.folder}: release.json says what made it", ("", "rows", ""), rows))
