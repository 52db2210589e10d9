"""Run folders: which one a sweep goes on in, and when it must not.

What decides a sweep's numbers has two parts. The *question* is what the user asks: space, data, seed, roles, protocol. The *means* are what
answers it: code, weights, libraries. Another question is another run. The same question with other means must not mix with what is recorded:
while the earlier run is unfinished, somebody wanted to go on with it, so the difference is told and nothing is started.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysweep.engine.faults import fault_point
from raysweep.errors import ConfigError, StoreError, nearest
from raysweep.storage.files import Moments, write_whole
from raysweep.storage.place import refuse_bad_place

__all__ = ["Choice", "Identity", "choose_run", "differences", "folder_name", "sweep_file", "write_settings"]

SHOWN = 12
"""Differences that are listed; the rest is counted."""
CODE = "code."
MOMENTS = Moments(
    written=lambda: fault_point("settings.after_write"),
    synced=lambda: fault_point("settings.before_replace"),
    replaced=lambda: fault_point("settings.after_replace"),
)


@dataclass(frozen=True)
class Identity:
    """What decides a sweep's numbers; both parts are JSON-safe.

    Attributes:
        question: what was asked.
        means: what answers it.
    """

    question: Mapping[str, Any]
    means: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {"question": dict(self.question), "means": dict(self.means)}


@dataclass(frozen=True)
class Choice:
    """Where a sweep goes on.

    Attributes:
        fresh: 0, or the number of a run that was started anew on demand; part of its key.
        note: one line for the screen, empty when there is nothing to say.
    """

    fresh: int = 0
    note: str = ""


@dataclass(frozen=True)
class _Earlier:
    folder: Path
    identity: Identity | None
    fresh: int
    finished: bool

    @property
    def begun(self) -> bool:
        """Whether there is anything that a new start would leave behind."""
        ledger = self.folder / "ledger.jsonl"
        return ledger.exists() and ledger.stat().st_size > 0


def folder_name(space: str, key: str) -> str:
    """Of a run: the space's name, in characters that every file system and shell takes, and the start of the key.

    >>> folder_name("my space\n", "0123456789abcdef")
    'my_space_-01234567'
    """
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', space)[:80].lstrip('.') or '_'}-{key[:8]}"


def sweep_file(folder: Path) -> Path:
    """Where a run keeps its settings."""
    return folder / "sweep.json"


def choose_run(runs: Path, space: str, identity: Identity, *, fresh: bool = False, resume: str | None = None) -> Choice:
    """Find the run that the same command goes on with.

    Args:
        runs: folder of run folders.
        space: name of the search space.
        identity: of the sweep that is to be run.
        fresh: start a new run whatever there is.
        resume: this run and no other: a folder, its name under `runs`, or the start of the name.

    Raises:
        ConfigError: the run that was meant was made by other code, weights or libraries (or, with `resume`, asks something else); the
            message lists every difference. Or there is no such run.
        StoreError: the place does not keep what a ledger builds on.
    """
    refuse_bad_place(runs)
    if fresh and resume is not None:
        raise ConfigError("--fresh starts a new run and --resume goes on with an old one: give one of them")
    earlier = _earlier_runs(runs, space)
    if resume is not None:
        return _insist(_find(runs, resume), identity)
    asked = [run for run in earlier if run.identity is not None and run.identity.question == _plain(identity.question)]
    if fresh:
        numbers = [run.fresh for run in asked]
        return Choice(1 + max(numbers, default=-1), "a new run, as --fresh asks")
    means = _plain(identity.means)
    same = [run.fresh for run in asked if run.identity is not None and run.identity.means == means]
    if same:
        return Choice(max(same))
    for run, lines in [(run, differences(_means(run), means)) for run in reversed(asked)]:
        if not run.finished and run.begun:
            raise ConfigError(
                [
                    f"{run.folder.name} in {runs} is the same question, unfinished, and was made by other means than are here now:",
                    *_some(lines),
                    "its results and new ones would not be comparable. Go back to what made it, or add --fresh to start a new run "
                    "(the old one is kept)",
                ]
            )
    if asked:
        lines = differences(_means(asked[-1]), means)
        return Choice(
            0, f"a new run: {asked[-1].folder.name} is finished, and was made by other means ({_brief(lines)})"
        )
    if earlier:
        last = earlier[-1].identity
        lines = differences(last.question, identity.question) if last is not None else []
        why = _brief(lines) if lines else "made by an earlier raysweep"
        return Choice(0, f"a new run: {earlier[-1].folder.name} asked something else ({why})")
    return Choice()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`name: old value -> new value` for everything in which two JSON-safe mappings differ; source files are named in one line.

    >>> differences({"seed": 0, "data": {"faces": 10}}, {"seed": 1, "data": {"faces": 10}})
    ['seed: 0 -> 1']
    """
    before, after = _flat(_plain(old)), _flat(_plain(new))
    names = [*before, *(name for name in after if name not in before)]
    changed = [name for name in names if before.get(name, _ABSENT) != after.get(name, _ABSENT)]
    files = [name.removeprefix(CODE) for name in changed if name.startswith(CODE)]
    listed = ", ".join(files[:SHOWN]) + (", ..." if len(files) > SHOWN else "")
    lines = [f"code: {len(files)} source files are not the same ({listed})"] if files else []
    return lines + [
        f"{name}: {_value(before, name)} -> {_value(after, name)}" for name in changed if not name.startswith(CODE)
    ]


def write_settings(folder: Path, content: Mapping[str, Any]) -> None:
    """Replace `sweep.json` as a whole: a reader sees the old or the new one, after a power cut too.

    Raises:
        StoreError: it cannot be written.
    """
    path = sweep_file(folder)
    fault_point("settings.before_write")
    try:
        write_whole(path, json.dumps(content, indent=2, sort_keys=True, default=str), moments=MOMENTS)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


# ------------------------------------------------------------------ inside
_ABSENT = object()


def _means(run: _Earlier) -> Mapping[str, Any]:
    return {} if run.identity is None else run.identity.means


def _insist(run: _Earlier, identity: Identity) -> Choice:
    if run.identity is None:
        raise ConfigError(
            f"{run.folder}: an earlier raysweep made it and did not note by which code and weights; it can be read, not continued"
        )
    lines = differences(run.identity.question, identity.question) + differences(run.identity.means, identity.means)
    if lines:
        raise ConfigError(
            [
                f"{run.folder.name} cannot be resumed: {len(lines)} things differ (as it was -> as it is now):",
                *_some(lines),
                "give the command and the data it was made with, or leave out --resume",
            ]
        )
    return Choice(run.fresh)


def _find(runs: Path, name: str) -> _Earlier:
    path = Path(name).expanduser()
    if not sweep_file(path).is_file():
        folders = sorted(file.parent for file in runs.glob("*/sweep.json"))
        fitting = [folder for folder in folders if folder.name == name] or [
            folder for folder in folders if folder.name.startswith(name)
        ]
        if len(fitting) != 1:
            names = [folder.name for folder in folders]
            found = f"fits {len(fitting)} runs" if fitting else f"is no run in {runs}{nearest(name, names)}"
            raise ConfigError(f"--resume {name}: {found}; there are: {', '.join(names) or 'none'}")
        path = fitting[0]
    if path.resolve().parent != runs.resolve():
        raise ConfigError(f"--resume {name}: it lies outside {runs}; add --runs {path.parent}")
    found_run = _load(path)
    if found_run is None:
        raise ConfigError(
            f"{sweep_file(path)}: cannot be read; put it back from a copy, or start a new run with --fresh"
        )
    return found_run


def _earlier_runs(runs: Path, space: str) -> list[_Earlier]:
    """Runs of a space, the one that was written to last at the end; unreadable ones belong to nobody and are left alone."""
    if not runs.is_dir():
        return []
    found = [
        (path.stat().st_mtime, run)
        for path in runs.glob("*/sweep.json")
        if (run := _load(path.parent, space)) is not None
    ]
    return [run for _, run in sorted(found, key=lambda item: (item[0], item[1].folder.name))]


def _load(folder: Path, space: str | None = None) -> _Earlier | None:
    try:
        content = json.loads(sweep_file(folder).read_text(encoding="utf-8"))
        if space is not None and content["info"]["name"] != space:
            return None
        kept = content.get("identity")
        identity = None if kept is None else Identity(dict(kept["question"]), dict(kept["means"]))
        return _Earlier(folder, identity, int(content.get("fresh", 0)), content.get("state") == "finished")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from a file: tuples are lists there, keys text."""
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _value(flat: Mapping[str, Any], name: str) -> str:
    return " ".join(json.dumps(flat[name]).split())[:80] if name in flat else "none"


def _some(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"  {line}" for line in lines[:SHOWN] + more]


def _brief(lines: list[str]) -> str:
    return "; ".join(lines[:2]) + (f"; {len(lines) - 2} more" if len(lines) > 2 else "")
