"""`raysweep cache ls|size|verify|purge`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from raysweep.engine.cache import Entry

EXAMPLES = (
    "python -m raysweep cache ls",
    "python -m raysweep cache purge --older 30d",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "what",
        choices=("ls", "size", "verify", "purge"),
        help="list the entries; add up their sizes; hold every byte against its checksum; remove",
    )
    parser.add_argument(
        "--older", metavar="AGE", help="only entries not used for so long: 30d, 12h (with purge, ls, size)"
    )
    parser.add_argument("--dataset", metavar="NAME", help="only entries of this data set")
    parser.add_argument("--yes", action="store_true", help="remove them (with purge); without it they are only named")


def run(arguments: argparse.Namespace) -> int:
    """Do one of the four."""
    from raysweep.engine.cache import age_s, entries, parse_age
    from raysweep.engine.references import cache_root
    from raysweep.errors import ConfigError, nearest

    if arguments.yes and arguments.what != "purge":
        raise ConfigError("--yes goes with purge")
    oldest = parse_age(arguments.older) if arguments.older else 0.0
    root = cache_root()
    there = entries(root)
    found = [entry for entry in there if age_s(entry) >= oldest]
    if arguments.dataset:
        known = sorted({entry.dataset for entry in there if entry.dataset})
        if arguments.dataset not in known:
            raise ConfigError(
                f"no data set {arguments.dataset!r} in {root}{nearest(arguments.dataset, known)}; there are: {', '.join(known) or 'none'}"
            )
        found = [entry for entry in found if entry.dataset == arguments.dataset]
    if arguments.what == "purge" and arguments.yes:
        return _purge(root, found)
    if arguments.what == "verify":
        return _verify(found)
    _list(root, found, totals_only=arguments.what == "size")
    if arguments.what == "purge" and found:
        _say("nothing was removed: the same command with --yes removes these")
    return 0


def _list(root: Path, found: list[Entry], *, totals_only: bool) -> None:
    from rich.console import Console

    from raysweep.commands.tables import plain_table
    from raysweep.engine.cache import age_s
    from raysweep.tracking.text import duration, plain

    total = _bytes(sum(entry.size for entry in found))
    if totals_only:
        kinds = sorted({entry.kind for entry in found})
        rows = [
            (kind, str(len(some)), _bytes(sum(entry.size for entry in some)))
            for kind in kinds
            if (some := [entry for entry in found if entry.kind == kind])
        ]
        Console(highlight=False).print(plain_table(f"{root}: {total}", ("kind", "entries", "size"), rows))
        return
    table = [
        (
            entry.name[: entry.name.index("/") + 9],
            plain(entry.dataset, 60),
            str(entry.rows) if entry.rows else "",
            entry.frame,
            ", ".join(plain(name, 40) for name in entry.models),
            _bytes(entry.size),
            f"{duration(age_s(entry))} ago" + (", in use" if entry.held else ""),
        )
        for entry in found
    ]
    columns = ("entry", "data set", "rows", "frame", "measured by", "size", "last used")
    Console(highlight=False).print(plain_table(f"{root}: {len(found)} entries, {total}", columns, table))


def _purge(root: Path, found: list[Entry]) -> int:
    from raysweep.engine.cache import purge

    freed = purge(root, found)
    for entry in freed.removed:
        _say(f"removed  {entry.name}  {_bytes(entry.size)}")
    for entry, why in freed.kept:
        _say(f"kept     {entry.name}  {why}")
    _say(f"freed {_bytes(freed.size)}; {len(freed.kept)} entries stay")
    return 1 if freed.kept else 0


def _verify(found: list[Entry]) -> int:
    from raysweep.data.shards import open_shards
    from raysweep.engine.references import ReferenceStore
    from raysweep.errors import RaysweepError

    bad = 0
    for entry in found:
        if entry.kind == "unfinished":
            continue
        try:
            if entry.kind == "shards":
                open_shards(entry.folder, verify=True)
            else:
                ReferenceStore(entry.folder).verify()
            _say(f"good     {entry.name}")
        except RaysweepError as error:
            bad += 1
            _say(f"damaged  {entry.name}  {str(error).splitlines()[0]}")
    _say(f"{bad} damaged; what needs one of them makes it again" if bad else "nothing damaged")
    return 1 if bad else 0


def _bytes(count: int) -> str:
    """`1.2 GB`, `35 MB`, `812 kB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def _say(line: str) -> None:
    print(line)  # noqa: T201 - what was asked for
