"""R10: work of a sweep that is killed again and again, against the same sweep left alone.

    python -m raysweep.bench.kills RUNS TRIALS LOG

is the sweep: real in all but its kernels, which sleep a second and leave a line in LOG when they begin.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raysweep.bench.drawn import own_cache
from raysweep.bench.finding import Finding, How
from raysweep.bench.stubs import Kernel, StubWorker
from raysweep.engine.ledger import read_ledger
from raysweep.engine.record import TrialTask
from raysweep.errors import StoreError
from raysweep.schema import IntArray

__all__ = ["LoggingWorker", "kills", "main"]

KERNEL = Kernel(measure_s=1.0)


@dataclass(frozen=True)
class _Sizes:
    trials: int
    every_s: float
    kills: int


def kills(how: How) -> list[Finding]:
    """kill -9 once a minute of work, then the same command again; work is counted in items begun."""
    sizes = _Sizes(25, 8.0, 2) if how.quick else _Sizes(150, 60.0, 2)
    with own_cache(how.folder):
        runs, log = how.folder / "runs", how.folder / "items.txt"
        log.touch()
        for number in range(sizes.kills):
            how.tell(f"R10: {sizes.trials} trials of a second, killed after {sizes.every_s:g} s of work, {number + 1}")
            _kill_after(sizes, runs, log)
        how.tell("R10: the same command to its end")
        done = subprocess.run(_command(sizes, runs, log), capture_output=True, text=True)  # noqa: S603 - this module
        if done.returncode:
            raise StoreError(f"the sweep could not go on: {done.stderr[-300:]}")
    (ledger,) = runs.glob("*/ledger.jsonl")
    recorded = len(read_ledger(ledger))
    begun = len(log.read_text(encoding="utf-8").splitlines())
    note = f"{sizes.kills} kills, one each {sizes.every_s:g} s of work: {begun} items of 1 s begun, {recorded} needed"
    return [Finding("R10", (begun / recorded,), note)]


def _command(sizes: _Sizes, runs: Path, log: Path) -> list[str]:
    return [sys.executable, "-m", "raysweep.bench.kills", str(runs), str(sizes.trials), str(log)]


def _kill_after(sizes: _Sizes, runs: Path, log: Path) -> None:
    """Start the sweep and kill it when it has worked for so long: its start is not work."""
    before = log.stat().st_size
    process = subprocess.Popen(_command(sizes, runs, log), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603 - this module
    try:
        while log.stat().st_size == before and process.poll() is None:
            time.sleep(0.05)
        # Not after whole seconds: a kill falls anywhere within a trial.
        time.sleep(sizes.every_s + 0.5)
        if process.poll() is not None:
            said = process.stderr.read()[-300:] if process.stderr else ""
            raise StoreError(f"the sweep ended before it was killed: {said}")
    finally:
        process.kill()
        process.communicate()


class LoggingWorker(StubWorker):
    """Leaves a line when an item begins."""

    def __init__(self, plan: Any, kernel: Kernel, log: str) -> None:
        super().__init__(plan, kernel)
        self._log = log

    def measure(self, task: TrialTask, fitted: object, rows: IntArray) -> Any:
        """As always, with a line."""
        with Path(self._log).open("a", encoding="utf-8") as file:
            file.write(f"{task.key} {len(rows)}\n")
        return super().measure(task, fitted, rows)


def main() -> None:
    """The sweep that is killed."""
    from raysweep.bench.sweeps import NoTracker, stub_sweep

    runs, trials, log = sys.argv[1:]
    stub_sweep(
        Path(runs), int(trials), KERNEL, sink_of=NoTracker, worker_of=partial(LoggingWorker, kernel=KERNEL, log=log)
    )


if __name__ == "__main__":
    main()
