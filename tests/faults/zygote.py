"""Starts drivers of sweeps as children of one process that has imported everything: a driver then begins in milliseconds.

Reads a JSON line per driver from stdin, answers `{"started": pid}`, and `{"ended": pid, "status": ...}` when it has ended. A driver is
the real command line on the real reference store; its *worker* is a stub that computes nothing (the driver is what is tested here).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

HEAVY = (
    "raysweep.sweep",
    "raysweep.engine.worker",
    "raysweep.commands.tune",
    "optuna.samplers",
)
TRACKER = ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "pandas")
REPORT = ("raysweep.tracking.report", "raysweep.tracking.figures")


def main() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    say({"ready": os.getpid()})
    children: set[int] = set()
    buffer = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02 if children else 5.0)
        if readable:
            data = os.read(0, 65536)
            if not data:
                break
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                children.add(start(json.loads(line)))
        for pid in list(children):
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    children.discard(pid)
                    say({"ended": pid, "status": os.waitstatus_to_exitcode(status)})
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(0)


def say(content: dict[str, Any]) -> None:
    os.write(1, json.dumps(content).encode() + b"\n")


def start(order: dict[str, Any]) -> int:
    for wanted, names in (("mlflow", TRACKER), ("report", REPORT)):
        for name in names if order["stub"].get(wanted) else ():
            importlib.import_module(name)
    pid = os.fork()
    if pid:
        say({"started": pid})
        return pid
    code = 70
    try:
        output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = drive(order)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def drive(order: dict[str, Any]) -> int:
    from raysweep import cli
    from raysweep.engine import faults, lease, worker
    from raysweep.storage import copy

    os.environ.update(order["env"])
    stub = order["stub"]
    StubWorker.behaviour = stub
    worker.TrialWorker = StubWorker  # type: ignore[misc, assignment]
    lease.TIMEOUT_S = stub.get("lease_timeout_s", lease.TIMEOUT_S)
    lease.BEAT_S = stub.get("lease_beat_s", lease.BEAT_S)
    copy.TIMEOUT_S = stub.get("lease_timeout_s", copy.TIMEOUT_S)
    copy.BEAT_S = stub.get("lease_beat_s", copy.BEAT_S)
    copy.LOOK_S = min(copy.LOOK_S, copy.BEAT_S)
    if not stub.get("report"):
        import raysweep.tracking.mlflow_sink as sink

        sink.write_report = lambda records, info, folder: []  # type: ignore[assignment]
    if not stub.get("mlflow"):
        silence_mlflow()
    if "clock" in stub:
        jumping_clock(stub["clock"])
    if "file_bytes" in stub:  # what a full disk does, without one
        resource.setrlimit(resource.RLIMIT_FSIZE, (stub["file_bytes"], stub["file_bytes"]))
    faults.arm(order.get("fault"))
    return cli.main(order["argv"])


def silence_mlflow() -> None:
    """No tracker: the sink takes everything and sends nothing."""
    from raysweep.tracking.mlflow_sink import MlflowSink

    MlflowSink._deliver = lambda self, status: not self._pending.clear()  # type: ignore[assignment, method-assign, func-returns-value]
    MlflowSink.start = lambda self: None  # type: ignore[method-assign]

    from raysweep.tracking.mlflow_sink import Delivery

    MlflowSink.finish = lambda self, records, status="FINISHED", *, unchanged=False: Delivery()  # type: ignore[assignment, method-assign]


def jumping_clock(steps: list[float]) -> None:
    """The wall clock adds the next step at each look."""
    real, looks = time.time, iter(range(10**9))

    def jumped() -> float:
        return real() + steps[next(looks) % len(steps)]

    time.time = jumped  # type: ignore[assignment]


class StubWorker:
    """Answers as a worker does; its numbers follow from the trial's key alone.

    Behaviour: `sleep` seconds per trial; `log`, a file that gets a line per measured chunk; `fail`, how trials fail by number modulo its
    length (`""` not at all).
    """

    behaviour: dict[str, Any] = {}  # noqa: RUF012 - one per process

    def __init__(self, plan: Any) -> None:
        self.plan = plan

    def tuned(self) -> dict[str, str]:
        return {}

    def clear_summary(self) -> dict[str, Any]:
        return {}

    def common_evidence(self) -> dict[str, Any]:
        import numpy as np

        return {"rank/E/class": np.arange(3, dtype=np.int32)}

    def fit(self, task: Any) -> Any:
        from raysweep.engine.fitted import Fitted, Learned

        fail = self.behaviour.get("fail") or [""]
        kind = fail[task.number % len(fail)] if not task.control else ""
        if kind == "raise":
            raise RuntimeError("no such thing")
        if kind == "hang":
            while True:
                time.sleep(0.01)
        if kind == "leak":
            home, token = os.environ["HOME"], os.environ["PLANTED_API_TOKEN"]
            raise RuntimeError(
                f"cannot open {home}/private/faces.png with {token} at https://bob:planted-password@example.org/x?key=planted-key"
            )
        return Fitted(Learned({}), {"loss": (1.0, 0.5)}, {"fit": 0.0})

    def measure(self, task: Any, fitted: Any, rows: Any) -> Any:
        from raysweep.engine.worker import Measured

        if "log" in self.behaviour:
            with open(self.behaviour["log"], "a", encoding="utf-8") as file:
                file.write(f"{task.key} {len(rows)}\n")
        if not task.control:
            time.sleep(self.behaviour.get("sleep", 0.0))
        return Measured(rows, None, {"embed": 0.0})  # type: ignore[arg-type]

    def judge(self, task: Any, fitted: Any, parts: Any, extras: Any = ()) -> Any:
        import numpy as np

        from raysweep.engine.record import Outcome
        from raysweep.metrics.value import MetricValue

        digest = hashlib.sha256(task.key.encode()).digest()
        privacy, utility = digest[0] / 255, digest[1] / 255
        special = (self.behaviour.get("privacy") or [None])[task.number % len(self.behaviour.get("privacy") or [None])]
        if special is not None and not task.control:
            privacy = float(special)
        metrics = {"privacy": MetricValue(privacy, privacy, privacy), "utility": MetricValue(utility)}
        missing = self.behaviour.get("missing", "")
        metrics.pop(missing, None)
        return Outcome(
            metrics=metrics,
            attackers=({"attacker": "A0", "advantage_S": privacy},),
            curves=fitted.curves,
            seconds={"judge": 0.0},
            notes={},
            evidence={"draws/privacy": np.full(4, privacy)},
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
