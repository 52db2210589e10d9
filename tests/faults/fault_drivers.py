"""Drivers of sweeps that can be killed, suspended and started twice, from outside."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysweep.engine.ledger import read_ledger
from raysweep.engine.record import TrialRecord

FACES = "synthetic:identities=12,images_per_identity=7"
BASE = ("--engine", "local", "--data", FACES, "attackers=A0", "bootstrap=100")
PATIENCE_S = 240.0
"""For machines that do much else."""


class Driver:
    """One started command."""

    def __init__(self, drivers: Drivers, pid: int, output: Path) -> None:
        self._drivers, self.pid, self._output = drivers, pid, output

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    def signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Exit code, negative for a signal."""
        return self._drivers.wait(self.pid, timeout_s)

    def wait_for(self, words: str, timeout_s: float = PATIENCE_S) -> None:
        """Until the driver has printed something."""
        deadline = time.monotonic() + timeout_s
        while words not in self.output:
            if time.monotonic() > deadline or self._drivers.has_ended(self.pid):
                raise AssertionError(f"{words!r} was not printed:\n{self.output}")
            time.sleep(0.01)


class Drivers:
    """The process that has imported everything, and what it started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        environment = {
            **os.environ,
            "RAYSWEEP_CACHE": str(home / "cache"),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        for name in ("MLFLOW_TRACKING_URI", "RAYSWEEP_RUNS", "RAYSWEEP_FAULT"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._ended: dict[int, int] = {}
        self._count = 0
        threading.Thread(target=self._listen, daemon=True).start()
        assert "ready" in self._lines.get(timeout=PATIENCE_S)

    def start(
        self,
        *words: str,
        runs: Path | str | None,
        fault: str | None = None,
        env: Mapping[str, str] | None = None,
        **stub: Any,
    ) -> Driver:
        """A command line; `runs` becomes its `--runs`, None for a verb that has none."""
        self._count += 1
        output = self.home / f"driver-{self._count}.txt"
        output.touch()
        order = {
            "argv": [*words, *(() if runs is None else ("--runs", str(runs)))],
            "env": dict(env or {}),
            "fault": fault,
            "stub": stub,
            "output": str(output),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        while True:
            line = self._lines.get(timeout=PATIENCE_S)
            if "started" in line:
                return Driver(self, int(line["started"]), output)
            self._ended[line["ended"]] = line["status"]

    def tune(self, *words: str, runs: Path, trials: int = 3, **options: Any) -> Driver:
        """`tune blur` on a few faces, to its end."""
        driver = self.start("tune", "blur", "--trials", str(trials), *BASE, *words, runs=runs, **options)
        driver.wait()
        return driver

    def wait(self, pid: int, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while pid not in self._ended:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"process {pid} did not end within {timeout_s:.0f} s") from None
            self._ended[line["ended"]] = line["status"]
        return self._ended[pid]

    def has_ended(self, pid: int) -> bool:
        while not self._lines.empty():
            line = self._lines.get()
            self._ended[line["ended"]] = line["status"]
        return pid in self._ended

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))


def ledger_of(runs: Path) -> Path:
    """The only ledger of a folder of runs."""
    (path,) = runs.glob("*/ledger.jsonl")
    return path


def content_of(runs: Path) -> list[dict[str, Any]]:
    """What a ledger says, without what differs from run to run (times)."""
    return [stripped(record) for record in read_ledger(ledger_of(runs))]


def stripped(record: TrialRecord) -> dict[str, Any]:
    return {name: value for name, value in record.to_dict().items() if name not in ("ended_at", "seconds")}
