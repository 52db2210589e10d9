"""R19: memory that a command takes at ten times the data, against once the data."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from raysweep.bench.finding import Finding, How
from raysweep.data.shards import write_shards
from raysweep.data.source import open_source
from raysweep.errors import StoreError

__all__ = ["COMMANDS", "memory", "peak_bytes", "peaks", "shared_bytes"]

EVERY_S = 0.1
COMMANDS = {
    "anonymize": ("anonymize", "blur", "kernel_size=31"),
    "prepare": ("prepare",),
}


def memory(how: How) -> list[Finding]:
    """`prepare` and `anonymize` without Ray, so that all memory is of one process."""
    found = []
    for verb in COMMANDS:
        how.tell(f"R19: {verb} of {how.faces} and {10 * how.faces} faces")
        small, large = peaks(verb, how.faces, how.folder)
        note = f"{small / 1e6:.0f} MB at {how.faces:,} faces, {large / 1e6:.0f} MB at {10 * how.faces:,}"
        found.append(Finding(f"R19 {verb}", (large / small,), note, facts={"bytes": [small, large]}))
    return found


def peaks(verb: str, faces: int, folder: Path, engine: str = "local") -> tuple[int, int]:
    """Bytes at the worst moment of a verb at so many drawn faces, and at ten times as many."""
    found = []
    for count in (faces, 10 * faces):
        words = [*COMMANDS[verb], "--engine", engine, "--data", str(_drawn(count, folder))]
        if verb == "anonymize":
            words += ["--out", str(folder / f"out-{count}")]
        environment = {
            **os.environ,
            "RAYSWEEP_CACHE": str(folder / f"cache-{verb}-{count}"),
            "RAYSWEEP_RUNS": str(folder / "runs"),
            "OMP_NUM_THREADS": "1",
        }
        found.append(peak_bytes([sys.executable, "-m", "raysweep", *words], environment))
    return found[0], found[1]


def peak_bytes(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Bytes at the worst moment of a command, over all its processes.

    What counts is memory that cannot be given back (anonymous and shared), not pages of files that the kernel drops when it needs the room.

    Raises:
        StoreError: the command failed; with what it said.
    """
    process = subprocess.Popen(  # noqa: S603 - our own command line
        list(words), env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    most = 0
    while process.poll() is None:
        most = max(most, _sum_of(process.pid, ("Pss_Anon:", "Pss_Shmem:")))
        time.sleep(EVERY_S)
    output = process.communicate()[0]
    if process.returncode:
        raise StoreError(f"{' '.join(words[1:4])} ended with {process.returncode}: {output[-500:]}")
    return most


def _drawn(faces: int, folder: Path) -> Path:
    """Shards of so many faces, ten for each person."""
    source = open_source(f"synthetic:identities={faces // 10},images_per_identity=10,seed=5")
    return write_shards(source, folder / f"faces-{faces}").folder


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in path.read_text().split()]
            except OSError:
                continue  # it has ended meanwhile
    return found


def shared_bytes(pid: int) -> int:
    """Shared memory of a process and its children, such as Ray's object store, right now."""
    return _sum_of(pid, ("Pss_Shmem:",))


def _sum_of(root: int, kinds: tuple[str, ...]) -> int:
    """Bytes of some kinds over a process and its children; pages that several of them share are divided between them."""
    total = 0
    for pid in _tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # it has ended meanwhile
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kinds))
    return total
