"""One Ray session: quiet, authenticated, without telemetry, bounded; and never another one's."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from raysweep.errors import RaysweepError

__all__ = [
    "SessionError",
    "cpu_share",
    "object_store_bytes",
    "our_error",
    "secure_token",
    "short_of_room",
    "start_ray",
]

MAX_OBJECT_STORE = 4 * 2**30
MIN_OBJECT_STORE = 256 * 2**20
RAY_LEAST = 75 * 2**20
"""Ray refuses a smaller object store."""
STORE_LIMIT = "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"
"""Ray's own variable for the largest object store of a machine."""
SPILL_FOLDER, FULLEST_DISK = "RAY_object_spilling_directory", "RAY_local_fs_capacity_threshold"
"""Ray's own variables: where it puts aside what its object store has no room for, and the share of that disk that may be in use (0.95)."""
KNOCK_S = 10.0
RETRY_ADVICE = "\nFailed to apply UDF transform"
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    # Ray Data 2.60 prints an error of no consequence for every actor pool (ray-project/ray#53727); failures come as exceptions.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # A call whose answer nobody asked for, of Ray's own helpers: what we ask for is raised here.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # Under `uv run` Ray would pack the working folder, runs and faces included, start every worker by a `uv run` of its own, and refuse to
    # start below the folder of a project. Workers run this interpreter, and a cluster's machines have the project installed.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


class SessionError(RaysweepError):
    """Ray cannot be started or reached."""


@contextmanager
def start_ray(
    cpus: int | None = None, address: str | None = None, *, gpus: int | None = None, log_to_driver: bool = False
) -> Iterator[None]:
    """Start a local Ray or join a cluster; end at the end what was started here, and nothing else.

    When Ray runs in this process already, it is used as it is and left as it is. Telemetry is off (set before Ray is imported), the
    dashboard of a local Ray is not started, its ports ask for a token, and its token file is readable by its owner only.

    Args:
        cpus: of a local Ray; None for all.
        address: of a running cluster (`auto`, `host:port`, `ray://...`); None starts a local Ray beside whatever else runs.
        gpus: of a local Ray; None for all.
        log_to_driver: show what workers print.

    Raises:
        SessionError: says what to do.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    has_token = secure_token(create=address is None)
    if address is not None and has_token and "RAY_AUTH_MODE" not in os.environ:
        _use_token()
    store = object_store_bytes()  # before Ray is imported, which would only say that something is no number
    import ray

    if ray.is_initialized():
        _quiet_data()
        yield
        return
    try:
        with warnings.catch_warnings(), _without_line("RAY_BACKEND_LOG_LEVEL"):
            warnings.simplefilter("ignore", FutureWarning)
            if address is None:
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    num_gpus=gpus,
                    include_dashboard=False,
                    object_store_memory=store,
                    log_to_driver=log_to_driver,
                    logging_level=logging.ERROR,
                )
            else:
                _knock(address)
                ray.init(address=address, log_to_driver=log_to_driver, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, its own and gRPC's
        raise SessionError(_advice(address, error)) from error
    try:
        _quiet_data()
        yield
    finally:
        ray.shutdown()


def object_store_bytes() -> int:
    """Size of a local object store: a quarter of the memory and at most 4 GiB, less where /dev/shm is smaller or `STORE_LIMIT` says so.

    The stages stream, so that a larger one would only hold more batches in flight.

    Raises:
        SessionError: the variable is no number of bytes that Ray takes.
    """
    limit = os.environ.get(STORE_LIMIT, "").strip()
    if limit and (not limit.isdecimal() or int(limit) < RAY_LEAST):
        raise SessionError(f"{STORE_LIMIT}={limit}: must be a number of bytes, at least {RAY_LEAST} (75 MiB)")
    most = int(limit) if limit else MAX_OBJECT_STORE
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    size = min(most, memory // 4)
    shared = Path("/dev/shm")  # noqa: S108 - where Ray keeps it, not a temporary file of ours
    if shared.is_dir():
        free = int(shutil.disk_usage(shared).free * 0.9)
        if free >= MIN_OBJECT_STORE:  # below that Ray uses a file in its session folder
            size = min(size, free)
    return max(size, min(most, MIN_OBJECT_STORE))


def cpu_share(actors: int, machines: Sequence[int] | None = None) -> int:
    """CPUs for each of some actors that work side by side: as many as the machines have room for, at least one.

    An actor that asks for more CPUs than any single machine has would never start.

    Args:
        actors: how many.
        machines: CPUs of each; None for those of the session.

    >>> cpu_share(2, [8]), cpu_share(1, [4, 4]), cpu_share(3, [4, 4]), cpu_share(9, [4, 4])
    (4, 4, 2, 1)
    """
    if machines is None:
        import ray

        machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    fitting = (share for share in range(max(machines), 1, -1) if sum(cpus // share for cpus in machines) >= actors)
    return next(fitting, 1)


def secure_token(*, create: bool, home: Path | None = None) -> bool:
    """Make Ray's token file readable by its owner only, and write one when there is none (Ray itself would, with mode 644).

    Args:
        create: write a new token where there is none.
        home: holds `.ray/auth_token`; the user's when None.

    Returns:
        Whether there is a token, in the file or in Ray's environment variables.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else (home or Path.home()) / ".ray" / "auth_token"
    try:
        if path.is_file():
            if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
                path.chmod(0o600)
            return True
        if not create or given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # Linked into place whole: another process that starts at this moment sees no token or a complete one.
        new = path.with_name(f".auth_token.{os.getpid()}")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(new, path)
        new.unlink()
    except OSError as error:
        raise SessionError(
            f"{path}: the token of Ray's authentication cannot be kept there ({error.strerror})"
        ) from error
    return True


def _knock(address: str) -> None:
    """Open and close a connection: Ray itself would knock for many minutes where nobody is."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _use_token() -> None:
    """Ray answers a token to a cluster only when told so before it is configured."""
    os.environ["RAY_AUTH_MODE"] = "token"
    if "ray" in sys.modules:
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")  # as Ray does itself after it set the variable


@contextmanager
def _without_line(word: str) -> Iterator[None]:
    """Hold back what native code writes to stderr, and let it go afterwards without the lines that hold `word`."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if word.encode() not in line:
                    os.write(2, line)


def _quiet_data() -> None:
    """Ray Data of this process: no bars, no plan on screen, and pools that may take their time to load models."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # our errors keep their class and message
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised


def _advice(address: str | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if address is None:
        return f"Ray cannot be started on this machine: {reason}"
    return f"no Ray cluster can be joined at {address!r}: {reason}. Is it running, and is its token in ~/.ray/auth_token or RAY_AUTH_TOKEN?"


def _short_of_memory(error: BaseException) -> SessionError:
    found = re.search(r"was ([\d.]+ ?GB) used / ([\d.]+ ?GB)", str(error))
    much = f" ({found[1]} of {found[2]} were in use, by all programs)" if found else ""
    return SessionError(
        f"this machine ran short of memory{much}, so Ray ended workers. Close what else runs here, or use fewer workers "
        "(workers=1) or smaller batches (measure_batch=32); the same command goes on"
    )


def short_of_room(error: BaseException) -> SessionError | None:
    """What to tell the user when Ray's object store is full and cannot spill; None for any other error.

    That is no fault of a trial: whatever runs must stop, and can go on when there is room.
    """
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError

    if not isinstance(error, ObjectStoreFullError | OutOfDiskError):
        return None
    given = os.environ.get(SPILL_FOLDER)
    folder = Path(given or Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray")
    where = f"{folder} on one of the machines"
    room = "Make room"
    share = float(os.environ.get(FULLEST_DISK) or 0.95)
    if folder.is_dir():
        disk = shutil.disk_usage(folder)
        lacking = disk.total - disk.free - share * disk.total
        if lacking > 0:
            where = f"{folder}: that disk is {100 * (1 - disk.free / disk.total):.0f} % full, and Ray stops at {100 * share:g} %"
            room = f"Free {max(lacking / 1e9, 0.1):.1f} GB"
    return SessionError(
        f"Ray's object store is full, and what it has no room for cannot be put aside in {where}. {room} there, or name a folder on another "
        f"disk ({SPILL_FOLDER}=DIR); the same command goes on"
    )


def our_error(error: BaseException) -> BaseException:
    """Our own error inside what Ray made of it, without the advice on retries that Ray Data appends; else the error itself.

    That Ray ended workers for want of memory, or found no room on disk, is no bug of anybody: it becomes a `SessionError`.
    """
    from ray.exceptions import OutOfMemoryError

    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        if isinstance(current, OutOfMemoryError):
            return _short_of_memory(current)
        if (found := short_of_room(current)) is not None:
            return found
        inner = getattr(current, "cause", None) or current.__cause__
        if isinstance(current, RaysweepError) and not isinstance(inner, RaysweepError):
            return type(current)(str(current).split(RETRY_ADVICE)[0])
        current = inner
    return error
