"""The machines of a cluster: waiting for those that are started on demand, and whether all of them have what a sweep needs.

A cluster of other people's machines fails late and strangely: in the middle of a pass, with an import error of one actor. So each machine is
asked first, by a task that imports nothing heavy: which code and libraries it has, and whether it sees the folders and files that are to be used.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysweep.errors import ConfigError

__all__ = [
    "Facts",
    "ask_machines",
    "check_machines",
    "differences",
    "facts_here",
    "marked",
    "own_code",
    "problems",
    "wait_for",
]

WAIT_S = 1800.0
"""For machines that have to be rented, started and installed."""
ANSWER_S = 120.0
"""For the answers of all machines, which are asked side by side: a process is started on each."""
NAMES = {"python": "Python", "ray": "Ray", "code": "raysweep's source"}


@dataclass(frozen=True)
class Facts:
    """What one machine says of itself.

    Attributes:
        machine: its address.
        versions: of Python and Ray, and a digest of raysweep's source; empty when it did not answer.
        sees: path -> digest of a file, `folder`, or empty when it is not there.
        token: whether its Ray asks for the token.
        telemetry: whether its Ray may send usage data.
        error: why it did not answer.
    """

    machine: str
    versions: Mapping[str, str] = field(default_factory=dict)
    sees: Mapping[str, str] = field(default_factory=dict)
    token: bool = True
    telemetry: bool = False
    error: str = ""


def own_code() -> str:
    """Digest of all source files of this package, 16 digits."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def facts_here(paths: Sequence[str], machine: str = "") -> Facts:
    """Of the machine that this process runs on.

    Args:
        paths: folders and files that are to be there.
        machine: what to call it.
    """
    import ray
    from ray._raylet import (  # type: ignore[attr-defined]
        AuthenticationMode,
        get_authentication_mode,
    )

    versions = {"python": platform.python_version(), "ray": ray.__version__, "code": own_code()}
    token = get_authentication_mode() == AuthenticationMode.TOKEN
    telemetry = os.environ.get("RAY_USAGE_STATS_ENABLED") != "0"
    return Facts(machine, versions, {path: _mark(Path(path)) for path in paths}, token, telemetry)


def ask_machines(paths: Sequence[str]) -> list[Facts]:
    """Ask every machine of the session (Ray must run), side by side; those that do not answer say why."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(facts_here)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            on_it = ask.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked[on_it.remote(list(paths), node["NodeManagerAddress"])] = node
    found = []
    until = time.monotonic() + ANSWER_S
    for answer, node in asked.items():
        try:
            found.append(ray.get(answer, timeout=max(0.0, until - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            found.append(Facts(node["NodeManagerAddress"], error=f"no answer within {ANSWER_S:.0f} s"))
        except Exception as error:  # of any kind: raysweep may be missing there, or the machine gone
            lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
            found.append(Facts(node["NodeManagerAddress"], error=lines[-1].strip()[:300]))
    return found


def problems(here: Facts, others: Sequence[Facts]) -> list[str]:
    """In which way machines are not fit to work for the process that `here` is about; one line each, empty when all are."""
    found = []
    for other in others:
        found += differences(here, other)
        if other.error:
            continue
        for path, mark in here.sees.items():
            if not other.sees.get(path):
                found.append(f"{other.machine} does not see {path}")
            elif other.sees[path] != mark:
                found.append(f"{other.machine} has another {path}")
    return found


def differences(here: Facts, other: Facts) -> list[str]:
    """In which versions a machine differs from the one that `here` is about, or that it did not answer; a part of `problems`."""
    if other.error:
        return [f"{other.machine} cannot work: {other.error}"]
    return [
        f"{other.machine} has {words} {other.versions[name]}, here it is {here.versions[name]}"
        for name, words in NAMES.items()
        if other.versions[name] != here.versions[name]
    ]


def check_machines(folders: Sequence[Path], files: Sequence[Path] = ()) -> None:
    """Make sure that every machine of the session has this code and sees what will be used; quick when there is but one.

    Args:
        folders: that are shared: what is written here must be seen there. Made when they do not exist.
        files: that are read there.

    Raises:
        ConfigError: every problem, and what to do.
    """
    import ray

    if sum(1 for node in ray.nodes() if node["Alive"]) < 2:
        return
    with marked(folders) as marks:
        paths = [*marks, *map(str, files)]
        found = problems(facts_here(paths), ask_machines(paths))
    if found:
        raise ConfigError(
            [
                "the machines of the cluster are not alike:",
                *(f"  {line}" for line in found),
                "use a folder that all of them share (RAYSWEEP_CACHE, --models, --data), and bring the code to all of them: `ray up` again, "
                "or `ray job submit --working-dir`",
            ]
        )


@contextmanager
def marked(folders: Sequence[Path]) -> Iterator[list[str]]:
    """A new file in each folder while the block runs: who sees it sees the same folder, not one of the same name."""
    marks: list[str] = []
    try:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                handle, name = tempfile.mkstemp(prefix=".seen-", dir=folder)
            except OSError as error:
                raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from error
            os.close(handle)
            marks.append(name)
        yield marks
    finally:
        for name in marks:
            with suppress(OSError):
                os.unlink(name)


def wait_for(gpus: int | None, cpus: int | None, tell: Callable[[str], None], wait_s: float = WAIT_S) -> None:
    """Wait until a cluster has so many GPUs, or CPUs; one that starts machines on demand starts them now.

    What is waited for is asked for by a placement group, which goes when it is there, or with this process: unlike a standing request it keeps
    no machine running that nobody uses.

    Args:
        gpus: None for those that are there.
        cpus: None for those that are there; looked at when no GPUs are asked for.
        tell: called with one line when there is something to wait for.
        wait_s: at most.

    Raises:
        ConfigError: they did not come.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    name, wanted = ("GPU", gpus) if gpus else ("CPU", cpus)
    there = int(ray.cluster_resources().get(name, 0))
    if not wanted or there >= wanted:
        return
    tell(f"waiting for {wanted} {name}s, {there} are there: machines may have to be started")
    bundle: dict[str, Any] = {"GPU": 1, "CPU": 1} if name == "GPU" else {"CPU": 1}
    group = placement_group([bundle] * wanted)
    try:
        started = time.monotonic()
        while not group.wait(5):
            before, there = there, int(ray.cluster_resources().get(name, 0))
            if there != before:
                tell(f"{there} of {wanted} {name}s are there")
            if time.monotonic() - started > wait_s:
                raise ConfigError(
                    f"{wanted} {name}s were asked for and {there} came within {wait_s / 60:.0f} minutes; "
                    "`ray status` on the head says what it waits for. Ask for fewer, or raise max_workers and the quota"
                )
    finally:
        remove_placement_group(group)


def _mark(path: Path) -> str:
    try:
        if path.is_dir():
            return "folder"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
