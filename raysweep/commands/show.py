"""`raysweep show NAME [key=value ...]`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raysweep.commands.common import add_space_arguments, sweep_config

if TYPE_CHECKING:
    from raysweep.config import SweepConfig

EXAMPLES = (
    "python -m raysweep show ganonymization",
    "python -m raysweep show blur kernel_size.low=31 trials=6",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    add_space_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    config = sweep_config(arguments)
    print_plan(config)
    return 0


def print_plan(config: SweepConfig) -> None:
    """Settings as they would be used, and the hash of the space; reads no image and starts nothing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from raysweep.search.space import canonical_hash
    from raysweep.sweep import planned_trials

    console = Console(highlight=False)
    space = config.space
    console.print(f"[bold]{space.name}[/bold]  {space.summary}", markup=True)
    console.print(f"hash {canonical_hash(space.canonical())}, {planned_trials(space, config.run)} trials")
    for arm in space.arms:
        table = Table(title=arm.anonymizer, title_justify="left", box=None, pad_edge=False)
        for column in ("parameter", "values", "only when"):
            table.add_column(column)
        for name, value in arm.fixed.items():
            table.add_row(name, f"{value} (fixed)", "")
        for name, item in arm.ranges.items():
            rule = ", ".join(f"{other} in {list(values)}" for other, values in arm.when.get(name, {}).items())
            table.add_row(name, describe_range(item), rule)
        for setting in arm.settings:
            table.add_row(
                "setting", ", ".join(f"{key}={value}" for key, value in setting.items()) or "(no parameters)", ""
            )
        console.print(table)
    table = Table(title="run", title_justify="left", box=None, pad_edge=False, show_header=False)
    for name, value in config.run.model_dump().items():
        table.add_row(name, Text(describe_value(value)))
    table.add_row("data", Text(config.data or "built-in synthetic faces"))
    table.add_row("models", Text(config.models or "built-in, and the user's weights folder"))
    console.print(table)


def print_found(config: SweepConfig) -> None:
    """The faces and the networks that the plan would use; no image is opened.

    Raises:
        RaysweepError: they are not there, or cannot do what the space asks for.
    """
    from rich.console import Console
    from rich.table import Table

    from raysweep.faces import check_models, find_faces
    from raysweep.provenance import protocol_of
    from raysweep.tracking.text import plain

    protocol_of(config.run).make_attackers()
    source, zoo = find_faces(config.data, config.kind, config.models)
    check_models(config.space, zoo)
    table = Table(title="found", title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_row("faces", f"{plain(source.name, 80)}: {len(source):,} images ({source.kind})")
    for task in ("detector", "embedder", "expression"):
        names = ", ".join(plain(found.entry.name, 60) for found in zoo.of(task))
        table.add_row(task, names or "none needed")
    Console(highlight=False).print(table)


def describe_value(value: object) -> str:
    """A run setting as a person reads it, in the words in which it would be typed.

    >>> describe_value(None), describe_value(("A0", "A2")), describe_value({"size": 160, "margin": None})
    ('unset', '[A0, A2]', 'size=160, margin unset')
    >>> describe_value({"A3": {"epochs": 20}})
    'A3.epochs=20'
    """
    if value is None or value == {}:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(_describe_entry(str(key), item) for key, item in value.items())
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(describe_value, value))}]"
    return str(value)


def _describe_entry(key: str, value: object) -> str:
    if isinstance(value, Mapping) and value:
        return ", ".join(_describe_entry(f"{key}.{name}", item) for name, item in value.items())
    return f"{key}{' ' if value is None else '='}{describe_value(value)}"


def describe_range(item: object) -> str:
    """A range as a person reads it."""
    from raysweep.search.parameters import Bool, Categorical, Float, Int

    if isinstance(item, Categorical):
        return " | ".join(map(str, item.choices))
    if isinstance(item, Bool):
        return "false | true"
    if isinstance(item, Float | Int):
        step = f" in steps of {item.step}" if isinstance(item, Int) and item.step > 1 else ""
        return f"{item.low} to {item.high}{step}{' (logarithmic)' if item.log else ''}"
    return str(item)
