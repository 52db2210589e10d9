"""R19: peak memory at ten times the data over that at once the data, when a data set streams.

    RAYSWEEP_MEMORY_FACES=5000 pytest -m slow -s tests/perf/test_memory.py

draws that many faces and ten times as many. What counts is memory that cannot be given back (RssAnon and RssShmem of the process and all
its children), not pages of files that the kernel drops when it needs the room. Without the variable: 300 and 3,000 faces.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysweep.data.shards import write_shards
from raysweep.data.source import open_source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

FACES = int(os.environ.get("RAYSWEEP_MEMORY_FACES", "300"))
ENGINE = os.environ.get("RAYSWEEP_MEMORY_ENGINE", "local")
EVERY_S = 0.1
LIMIT = 1.10
COMMANDS = {
    "anonymize": ("anonymize", "blur", "kernel_size=31"),
    "prepare": ("prepare",),
}


def drawn(faces: int, folder: Path) -> Path:
    """Shards of so many faces, ten for each person."""
    source = open_source(f"synthetic:identities={faces // 10},images_per_identity=10,seed=5")
    return write_shards(source, folder / f"faces-{faces}").folder


def peak(words: tuple[str, ...], environment: dict[str, str]) -> int:
    """Bytes at the worst moment of a command, over all its processes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "raysweep", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    most = 0
    while process.poll() is None:
        most = max(most, sum(_memory(pid) for pid in _tree(process.pid)))
        time.sleep(EVERY_S)
    output = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, output[-2000:]
    return most


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in path.read_text().split()]
            except OSError:
                continue  # it has ended meanwhile
    return found


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


@pytest.mark.parametrize("verb", COMMANDS)
def test_ten_times_the_data_takes_no_more_memory(verb: str, tmp_path: Path) -> None:
    peaks = []
    for faces in (FACES, 10 * FACES):
        words = (*COMMANDS[verb], "--engine", ENGINE, "--data", str(drawn(faces, tmp_path)))
        if verb == "anonymize":
            words += ("--out", str(tmp_path / f"out-{faces}"))
        environment = {**os.environ, "RAYSWEEP_CACHE": str(tmp_path / f"cache-{faces}"), "OMP_NUM_THREADS": "1"}
        peaks.append(peak(words, environment))
    ratio = peaks[1] / peaks[0]
    print(
        f"{verb}, {ENGINE}: {peaks[0] / 1e6:.0f} MB at {FACES} faces, {peaks[1] / 1e6:.0f} MB at {10 * FACES}: {ratio:.3f}"
    )
    assert ratio <= LIMIT
