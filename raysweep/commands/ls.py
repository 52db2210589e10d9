"""`raysweep ls WHAT`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = (
    "python -m raysweep ls spaces",
    "python -m raysweep ls models --format json",
)

WHAT = ("spaces", "anonymizers", "attackers", "metrics", "models", "data", "runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("what", choices=WHAT, help="what to list")
    parser.add_argument(
        "--format", choices=("table", "json"), default="table", help="for a person (default) or a program"
    )
    parser.add_argument("--models", metavar="DIR", help="folder of weights to look into (with `models`)")
    parser.add_argument("--runs", metavar="DIR", help="where runs are kept (with `runs`)")


def run(arguments: argparse.Namespace) -> int:
    """Print the list."""
    columns, rows = _list(arguments)
    if arguments.format == "json":
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2))  # noqa: T201 - what was asked for
        return 0
    from rich.console import Console

    from raysweep.commands.tables import plain_table

    Console(highlight=False).print(plain_table(arguments.what, columns, rows))
    return 0


def _list(arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    if arguments.what == "spaces":
        from raysweep.search.space import load_yaml, shipped_spaces

        found = [(name, load_yaml(path)[0]) for name, path in shipped_spaces().items()]
        return ("name", "summary", "start with"), [
            (name, str(content.get("summary", "")), f"python -m raysweep tune {name}") for name, content in found
        ]
    if arguments.what == "anonymizers":
        from raysweep.anonymizers.registry import get_anonymizer, list_anonymizers

        rows = []
        for entry in list_anonymizers(check=True):
            if entry.error:
                rows.append((entry.name, entry.origin, "", entry.error))
                continue
            method = get_anonymizer(entry.name)
            rows.append((entry.name, entry.origin, ", ".join(method.parameters) or "none", method.reference))
        return ("name", "origin", "parameters", "reference"), rows
    if arguments.what == "attackers":
        from raysweep.attackers.registry import kinds_of, list_attackers

        return ("id", "name", "kinds", "origin", "knowledge"), [
            (key, "", "", origin, error) if each is None else (key, each.name, kinds_of(each), origin, each.knowledge)
            for key, origin, each, error in list_attackers()
        ]
    if arguments.what == "metrics":
        from raysweep.metrics.catalogue import METRICS

        return ("name", "better", "range", "meaning"), [
            (item.name, "higher" if item.higher_is_better else "lower", item.range, item.meaning) for item in METRICS
        ]
    if arguments.what == "models":
        from raysweep.models.zoo import open_zoo

        zoo = open_zoo(arguments.models, missing_ok=True)
        return ("name", "task", "at hand", "licence", "file or where to get it"), [
            (
                entry.name,
                entry.task,
                "yes" if entry.name in zoo.found else "no",
                entry.licence,
                entry.file if entry.name in zoo.found else entry.where,
            )
            for entry in zoo.entries
        ]
    if arguments.what == "data":
        from raysweep.data.source import KINDS

        return ("kind", "layout", "where", "terms"), [
            (kind.name, kind.description, kind.where, kind.licence) for kind in KINDS
        ]
    return _list_runs(arguments)


def _list_runs(arguments: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    from raysweep.commands.common import runs_folder
    from raysweep.engine.ledger import read_ledger
    from raysweep.tracking.info import SweepInfo
    from raysweep.tracking.standing import standing

    rows = []
    for path in sorted(runs_folder(arguments).glob("*/sweep.json")):
        info = json.loads(path.read_text(encoding="utf-8"))["info"]
        ledger = path.with_name("ledger.jsonl")
        records = read_ledger(ledger) if ledger.exists() else []
        state = standing(
            records,
            SweepInfo(
                info["name"], info["key"], info["dataset"], info["synthetic"], info["anonymizer"], Path(path.parent)
            ),
        )
        rows.append(
            (
                path.parent.name,
                info["dataset"],
                f"{len(state.trials)} of {info['trials']}",
                str(len(state.front)),
                f"{state.hypervolume:.3f}",
            )
        )
    return ("run", "faces", "trials", "front", "hypervolume"), rows
