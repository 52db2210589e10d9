"""R11 and R12: what the record and the tracker cost a sweep, whose trials sleep half a second each in this process."""

from __future__ import annotations

import http.server
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raysweep.bench.drawn import own_cache
from raysweep.bench.finding import Finding, How
from raysweep.bench.overhead import make_proposer
from raysweep.bench.stubs import Kernel, StubPlan, items, stub_worker
from raysweep.bench.sweeps import NoTracker, Run, stub_sweep
from raysweep.engine.pools import LocalPool
from raysweep.engine.record import TrialTask, Work
from raysweep.engine.trial import run_trial

__all__ = ["record_cost", "slow_server", "tracker_cost"]

KERNEL = Kernel(measure_s=1.0)
SLOW_S = 5.0


def record_cost(how: How) -> list[Finding]:
    """R11: trials with ledger, checksums, evidence and live view, against the same trials whose records are dropped."""
    trials = 8 if how.quick else 20
    with own_cache(how.folder):
        stub_sweep(how.folder / "warm", 1, Kernel(), sink_of=NoTracker)
        values = []
        for turn in range(min(3, how.repeats)):
            how.tell(f"R11: {trials} trials of a second, without and with a record, round {turn + 1}")
            bare = _dropped(trials)
            run = stub_sweep(how.folder / f"runs-{turn}", trials, KERNEL, sink_of=NoTracker)
            values.append(bare / _trials_s(run))
    return [
        Finding(
            "R11",
            tuple(values),
            f"{trials} trials of 1 s, a record of {_record_bytes(how.folder / 'runs-0') / 1000:.0f} kB each",
        )
    ]


def tracker_cost(how: How) -> list[Finding]:
    """R12: trials with MLflow on SQLite, with a server that is down, and with one that answers slowly, against no tracker.

    Counted until the last trial is recorded: what is sent afterwards holds up no trial (its time is among the facts).
    """
    trials = 6 if how.quick else 20
    values: dict[str, list[float]] = {"up": [], "down": [], "slow": []}
    closing: dict[str, list[float]] = {"up": [], "down": [], "slow": []}
    with own_cache(how.folder), slow_server(SLOW_S) as slow:
        stub_sweep(how.folder / "warm", 1, Kernel())
        for turn in range(2 if how.quick else 3):
            bare = _trials_s(stub_sweep(how.folder / f"none-{turn}", trials, KERNEL, sink_of=NoTracker))
            uris = {"up": None, "down": "http://127.0.0.1:9", "slow": slow}
            for name, uri in uris.items():
                how.tell(f"R12: tracker {name}, round {turn + 1}")
                run = stub_sweep(how.folder / f"{name}-{turn}", trials, KERNEL, tracking_uri=uri, patience_s=10.0)
                values[name].append(_trials_s(run) / bare)
                closing[name].append(run.seconds - run.trials_s)
    return [
        Finding(
            f"R12 {name}",
            tuple(found),
            f"{trials} trials of 1 s; {statistics.median(closing[name]):.1f} s after the last one, the report included",
            facts={"closing_s": closing[name]},
        )
        for name, found in values.items()
    ]


def _trials_s(run: Run) -> float:
    """From the first control's start to the last record."""
    first = min(record.ended_at - float(record.seconds["wall"]) for record in run.result.records)
    return max(record.ended_at for record in run.result.records) - first


def _dropped(trials: int) -> float:
    """Seconds of as many trials (and the controls) with the same proposals and nothing kept."""
    pool = LocalPool(StubPlan(), worker_of=stub_worker(KERNEL))
    started = time.perf_counter()
    for number in range(3):
        run_trial(TrialTask(f"control-{number}", -1, "stub", {}, 0, "stub"), pool, Work(items(1)))
    proposer = make_proposer(trials)
    while (proposal := proposer.ask()) is not None:
        task = TrialTask(f"trial-{proposal.number}", proposal.number, proposal.anonymizer, proposal.setting, 0)
        proposer.tell(run_trial(task, pool, Work(items(1))))
    return time.perf_counter() - started


def _record_bytes(runs: Path) -> float:
    ledger = next(runs.glob("*/ledger.jsonl"))
    lines = ledger.read_bytes().count(b"\n")
    return ledger.stat().st_size / max(1, lines)


@contextmanager
def slow_server(seconds: float) -> Iterator[str]:
    """Address of a server on loopback that takes its time, and then answers that it cannot."""
    stopping = threading.Event()

    class Answer(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            stopping.wait(seconds)
            with suppress(OSError):  # whoever asked may have gone
                self.send_error(503)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - names of http.server

        def log_message(self, format: str, *given: object) -> None:
            """Nothing on screen."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
