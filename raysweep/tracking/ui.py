"""The MLflow UI on this machine, for a store that lies on this machine, with the links that lead straight to the newest sweep."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from types import FrameType
from typing import IO, Any
from urllib.parse import urlsplit

from raysweep.errors import StoreError
from raysweep.redaction import redacted
from raysweep.tracking.mlflow_sink import quiet_mlflow, sqlite_path
from raysweep.tracking.preset import front_table_url, front_url, sweeps_url, view_url
from raysweep.tracking.text import plain, redact

__all__ = ["free_port", "newest_sweep", "run_server", "say_line", "serve_ui", "sweep_links"]

START_TIMEOUT_S = 180.0
"""The server imports all of MLflow in several processes: up to half a minute on a busy machine."""
PORTS_TRIED = 50


def serve_ui(
    tracking_uri: str, host: str = "127.0.0.1", port: int = 5000, say: Callable[[str], None] | None = None
) -> int:
    """Run the MLflow UI until it is interrupted; a store behind http needs no server, then only the links are said.

    Args:
        tracking_uri: of the store.
        host: loopback unless the caller knows what he does: the UI has no password.
        port: wanted; the nearest free one above is used where it is taken.
        say: takes each line for the person; stdout by default.

    Returns:
        Process exit code.

    Raises:
        StoreError: there is no store, no free port, or the server does not start.
    """
    say = say or say_line
    if urlsplit(tracking_uri).scheme in ("http", "https"):
        say(f"the store is a server: {plain(redact(tracking_uri), 200)}")
        for line in sweep_links(tracking_uri, host, port):
            say(line)
        return 0
    path = sqlite_path(tracking_uri)
    if path is not None and not path.is_file():
        raise StoreError(
            f"no MLflow store at {path}: run a sweep first (python -m raysweep tune blur), or name a store with MLFLOW_TRACKING_URI"
        )
    chosen = free_port(host, port)
    return run_server(
        _command(host, chosen),
        _environment(tracking_uri),
        host,
        port,
        chosen,
        say=say,
        links=lambda: sweep_links(tracking_uri, host, chosen),
    )


def run_server(
    command: Sequence[str],
    environment: Mapping[str, str],
    host: str,
    port: int,
    chosen: int,
    *,
    say: Callable[[str], None],
    links: Callable[[], Sequence[str]],
) -> int:
    """Run an MLflow server until it is interrupted.

    Args:
        command, environment: what is started; secrets belong into the environment.
        host, port, chosen: where it listens: what was asked for, and the port that was free.
        say: takes each line for the person.
        links: asked for once, while the server starts.

    Returns:
        Process exit code.

    Raises:
        StoreError: it does not start, or ends by itself.
    """
    if chosen != port:
        say(f"port {port} is taken, using {chosen}")
    say("starting the MLflow UI (some seconds) ...")
    with tempfile.TemporaryFile() as output, _terminate_as_interrupt():
        process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            lines = links()
            _wait_until_up(process, host, chosen, output)
            say(f"MLflow UI: http://{host}:{chosen}  (Ctrl-C ends it)")
            for line in lines:
                say(line)
            code = process.wait()
            raise StoreError(f"the MLflow UI ended with code {code}{_last_words(output)}")
        except KeyboardInterrupt:
            say("stopped")
            return 0
        finally:
            _end(process)


def sweep_links(tracking_uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """Lines with the links of the newest sweep; says so when the store has none."""
    found = newest_sweep(tracking_uri)
    if found is None:
        return ["no sweep in this store yet: python -m raysweep tune blur"]
    experiment_id, run_id, key, name = found
    return [
        f"newest sweep, {name}: {front_url(tracking_uri, experiment_id, run_id, host, port)}",
        f"its trials as charts: {view_url(tracking_uri, experiment_id, key, host, port)}",
        f"its front as a table: {front_table_url(tracking_uri, experiment_id, key, host, port)}",
        f"all sweeps on these faces: {sweeps_url(tracking_uri, experiment_id, host, port)}",
    ]


def newest_sweep(tracking_uri: str) -> tuple[str, str, str, str] | None:
    """Experiment id, parent run id, sweep key and name of the sweep started last, None when there is none."""
    path = sqlite_path(tracking_uri)
    if path is not None and not path.is_file():
        return None  # asking MLflow would make an empty store
    quiet_mlflow()
    from mlflow import MlflowClient

    client: Any = MlflowClient(tracking_uri=tracking_uri)
    experiments = [item.experiment_id for item in client.search_experiments(max_results=1000)]
    runs = client.search_runs(
        experiments, "tags.`raysweep.kind` = 'sweep'", max_results=1, order_by=["attributes.start_time DESC"]
    )
    if not runs:
        return None
    run = runs[0]
    return run.info.experiment_id, run.info.run_id, run.data.tags["raysweep.sweep_key"], plain(run.info.run_name, 120)


def free_port(host: str, port: int) -> int:
    """The first free port from `port` upwards.

    Raises:
        StoreError: none of the next ones is free.
    """
    for candidate in range(port, min(port + PORTS_TRIED, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((host, candidate))
                return candidate
    raise StoreError(f"no free port from {port} to {port + PORTS_TRIED - 1} on {host}: name another with --port")


def _command(host: str, port: int) -> list[str]:
    return [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port), "--workers", "1"]


def _environment(tracking_uri: str) -> dict[str, str]:
    """Through the environment, not the command line: a database address may hold a password, and all users can list commands."""
    return {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        # Background jobs serve language-model evaluation: not needed here, and they slow the start.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _wait_until_up(process: subprocess.Popen[bytes], host: str, port: int, output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StoreError(f"the MLflow UI ended at once with code {process.returncode}{_last_words(output)}")
        connection = HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            time.sleep(0.3)
        finally:
            connection.close()
    raise StoreError(f"the MLflow UI did not answer on {host}:{port} within {START_TIMEOUT_S:.0f} s")


def _last_words(output: IO[bytes], lines: int = 12) -> str:
    output.seek(0)
    text = output.read()[-20_000:].decode("utf-8", "replace").strip().splitlines()[-lines:]
    return ":\n" + "\n".join(plain(redacted(line), 400) for line in text) if text else ""


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let a polite kill end the server too; it lives in its own session and would stay behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers (they share its process group)."""
    # Also when it has ended by itself: its workers may be left.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def say_line(line: str) -> None:
    """To stdout, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
