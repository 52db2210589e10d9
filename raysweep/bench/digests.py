"""R24: the same records on 1, 2 and 7 workers, and after twenty kills.

    python -m raysweep.bench.digests sweep RUNS SPACE key=value ...
    python -m raysweep.bench.digests killed RUNS SPACE KILLS

are the sweeps: real in all but the tracker, on drawn faces, with settings that are listed, since how many trials run at once decides what a
sampler knows when it is asked for the next one. Workers have one thread each: sums that a training divides over more of them come out in
another order, and what it learns then differs; by how much is measured too.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.bench.against import as_space, settings_of
from raysweep.bench.drawn import own_cache, silent_view
from raysweep.bench.finding import Finding, How
from raysweep.engine.ledger import read_ledger
from raysweep.errors import StoreError

__all__ = ["Agreement", "agreement", "digests", "main"]

FACES = "synthetic:identities=24,images_per_identity=7,seed=5"
THREADS = "threads=1"
NEAR = 1e-6
LIFE_S = (0.5, 6.0)
"""A driver that is to be killed lives so long: from before its first trial to some trials later."""
TIMES = ("ended_at", "seconds")
"""What differs from run to run, and may."""


class Agreement:
    """How far the records of two sweeps agree.

    Attributes:
        equal: share of records that are the same in every bit, the digest of their arrays included.
        near: share of records whose numbers all lie within 1e-6.
        apart: the largest difference between two numbers.
    """

    def __init__(self, equal: float, near: float, apart: float) -> None:
        self.equal, self.near, self.apart = equal, near, apart

    def __str__(self) -> str:
        return f"{100 * self.equal:.0f} % of records equal in every bit, {100 * self.near:.0f} % within {NEAR:g}, largest difference {self.apart:.1g}"


def digests(how: How) -> list[Finding]:
    """Listed settings of blur, pixelate and a small generator that is trained, by one worker in this process; then in other ways."""
    count, trained, teams, kills = (4, 1, (1, 2), 4) if how.quick else (8, 2, (1, 2, 7), 20)
    with own_cache(how.folder):
        space = how.folder / "settings.yaml"
        space.write_text(_space(count, trained), encoding="utf-8")
        how.tell(f"R24: {count + trained} settings, undisturbed")
        whole = _records(how.folder / "whole", ["sweep", space, "engine=local", THREADS])
        how.tell("R24: the same with all cores for one worker")
        apart = agreement(whole, _records(how.folder / "threads", ["sweep", space, "engine=local"]))
        shares, said = [], []
        for workers in teams:
            how.tell(f"R24: the same on {workers} workers")
            found = agreement(
                whole, _records(how.folder / f"workers-{workers}", ["sweep", space, f"workers={workers}", THREADS])
            )
            shares.append(found.equal)
            said.append(f"{workers}: {found}")
        how.tell(f"R24: the same, killed {kills} times")
        killed = agreement(whole, _records(how.folder / "killed", ["killed", space, kills]))
        done = int((how.folder / "killed" / KILLS).read_text(encoding="utf-8"))
    return [
        Finding(
            "R24 workers",
            tuple(shares),
            f"{len(whole)} records, {trained} of them trained generators; workers {'; '.join(said)}. {os.cpu_count()} threads: {apart}",
        ),
        Finding("R24 kills", (killed.equal,), f"{done} kills: {killed}"),
    ]


def agreement(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> Agreement:
    """Compare records, as of `TrialRecord.to_dict`, whatever their order; one that is missing on either side agrees with none."""
    sides = [{str(record["key"]): dict(_leaves(record)) for record in records} for records in (first, second)]
    keys = sides[0].keys() | sides[1].keys()
    equal = near = 0
    worst = 0.0
    for key in keys:
        left, right = (side.get(key) for side in sides)
        if left is None or right is None or len(first) != len(second):
            worst = math.inf
            continue
        apart = max((_apart(left.get(name), right.get(name)) for name in left.keys() | right.keys()), default=0.0)
        worst = max(worst, apart)
        equal += left == right
        near += apart <= NEAR
    return Agreement(equal / len(keys), near / len(keys), worst)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything a record says, by its place in it; numbers as they are written, so that NaN equals NaN."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if name or key not in TIMES:
                yield from _leaves(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{name}/{place}")
    else:
        yield name, json.dumps(value)


def _apart(left: str | None, right: str | None) -> float:
    """Between two numbers; 0 for what is the same, and for digests of arrays, whose numbers stand in the record."""
    if left == right:
        return 0.0
    try:
        apart = abs(float(str(left)) - float(str(right)))
    except ValueError:
        return 0.0 if _is_digest(left) and _is_digest(right) else math.inf
    return math.inf if math.isnan(apart) else apart


def _is_digest(text: str | None) -> bool:
    return text is not None and len(text) == 66 and set(text.strip('"')) <= set("0123456789abcdef")


def _space(count: int, trained: int) -> str:
    settings = settings_of(count)
    for number in range(trained):
        setting = {"steps": 4, "landmark_noise": 0.01 * number}
        settings.append({"anonymizer": "ganonymization", "setting": setting})
    return as_space(settings)


# ------------------------------------------------------------------- the sweeps
KILLS = "kills.txt"


def _records(runs: Path, words: Sequence[object]) -> list[dict[str, Any]]:
    """Of a sweep in a process of its own."""
    verb, *rest = map(str, words)
    command = [sys.executable, "-m", "raysweep.bench.digests", verb, str(runs), *rest]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - this module
    if done.returncode:
        raise StoreError(f"a sweep ended with {done.returncode}: {done.stderr[-400:]}")
    (ledger,) = runs.glob("*/ledger.jsonl")
    return [record.to_dict() for record in read_ledger(ledger)]


def _sweep(runs: Path, space: str, words: Sequence[str]) -> None:
    from raysweep import sweep
    from raysweep.bench.sweeps import NoTracker
    from raysweep.config import resolve_sweep

    config = resolve_sweep(space, list(words), data=FACES)
    sweep.tune(config, runs=runs, view_of=silent_view, parts=sweep.Parts(sink_of=NoTracker))


def _killed(runs: Path, space: str, kills: int) -> int:
    """Drivers that are killed, as children of this process, which has imported everything; then one that may end. Returns how many were."""
    for name in ("raysweep.sweep", "raysweep.engine.worker", "raysweep.bench.sweeps"):
        importlib.import_module(name)  # what a driver needs, before it is forked

    draw, count = np.random.default_rng(7), 0
    for _ in range(kills):
        pid = os.fork()
        if not pid:
            _drive(runs, space)
        deadline = time.monotonic() + draw.uniform(*LIFE_S)
        status = None
        while status is None and time.monotonic() < deadline:
            ended, code = os.waitpid(pid, os.WNOHANG)
            status = code if ended else None
            time.sleep(0.01)
        if status is None:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            raise StoreError(f"a driver ended with {code}")
        count += code == -signal.SIGKILL
        if code == 0:
            break
    _sweep(runs, space, ["engine=local", THREADS])
    return count


def _drive(runs: Path, space: str) -> None:
    """The life of a forked driver."""
    code = 1
    try:
        _sweep(runs, space, ["engine=local", THREADS])
        code = 0
    except BaseException as error:  # nothing of the parent may run on in this process
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """One of the two sweeps."""
    verb, runs, space, *rest = sys.argv[1:]
    if verb == "sweep":
        _sweep(Path(runs), space, rest)
    else:
        count = _killed(Path(runs), space, int(rest[0]))
        (Path(runs) / KILLS).write_text(str(count), encoding="utf-8")


if __name__ == "__main__":
    main()
