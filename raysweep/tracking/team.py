"""An MLflow server for a team: PostgreSQL for runs, an object store for artifacts, both named by the environment.

| variable | content |
|---|---|
| MLFLOW_BACKEND_STORE_URI | `postgresql://user@host/database`; the password in it, or better in PGPASSWORD or ~/.pgpass |
| MLFLOW_ARTIFACTS_DESTINATION | `s3://bucket/prefix` with AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...; or a folder |

Sweeps talk to the server (`MLFLOW_TRACKING_URI=http://...`) and know neither. Nothing secret is put on a command line, which every user of a
machine can list. The server listens on the loopback address: others come through SSH or a proxy that asks who they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from raysweep.errors import ConfigError, StoreError
from raysweep.redaction import redacted
from raysweep.storage.objects import Objects, is_url
from raysweep.tracking.text import plain, redact
from raysweep.tracking.ui import free_port, run_server, say_line

__all__ = ["DATABASE", "DESTINATION", "serve_team", "team_environment"]

DATABASE, DESTINATION = "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"
CONNECT_S = 10
WORKERS = 4
EXTRA = "uv sync --extra team"


def serve_team(
    port: int = 5000, allowed_hosts: str = "", workers: int = WORKERS, say: Callable[[str], None] | None = None
) -> int:
    """Check the database and the artifact store, then run the server until it is interrupted.

    Args:
        port: on the loopback address; the nearest free one above is used where it is taken.
        allowed_hosts: names under which a proxy passes requests on, separated by commas; loopback names are always allowed.
        workers: processes of the server.
        say: takes each line for the person; stdout by default.

    Returns:
        Process exit code.

    Raises:
        ConfigError: a variable or a package is missing; names all that are.
        StoreError: the database or the artifact store refuses, or the server does not start.
    """
    say = say or say_line
    host = "127.0.0.1"
    environment = team_environment(os.environ, allowed_hosts)
    _knock_at_database(environment[DATABASE])
    if is_url(environment[DESTINATION]):
        Objects.open(environment[DESTINATION]).look("raysweep-check")
    chosen = free_port(host, port)
    say(
        f"runs in {plain(redact(environment[DATABASE]), 200)}, artifacts in {plain(redact(environment[DESTINATION]), 200)}"
    )
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        host,
        "--port",
        str(chosen),
        "--workers",
        str(workers),
    ]
    return run_server(
        command,
        environment,
        host,
        port,
        chosen,
        say=say,
        links=lambda: [
            f"sweeps of this machine:  MLFLOW_TRACKING_URI=http://{host}:{chosen}",
            f"of others:               ssh -L {chosen}:{host}:{chosen} THIS-MACHINE, then the same",
        ],
    )


def team_environment(environment: Mapping[str, str], allowed_hosts: str = "") -> dict[str, str]:
    """What the server process is given.

    Args:
        environment: of this process.
        allowed_hosts: see `serve_team`.

    Raises:
        ConfigError: lists everything that is missing or wrong; repeats no secret.
    """
    problems = []
    database, destination = environment.get(DATABASE, ""), environment.get(DESTINATION, "")
    scheme = urlsplit(database).scheme.partition("+")[0]
    if not database:
        problems.append(f"{DATABASE} is not set: postgresql://user@host/database, its password in PGPASSWORD")
    elif scheme not in ("postgresql", "postgres"):
        problems.append(
            f"{DATABASE} begins with {scheme or 'no'}://; a team needs PostgreSQL: postgresql://user@host/database"
        )
    elif find_spec("psycopg") is None:
        problems.append(f"PostgreSQL needs psycopg: {EXTRA}")
    if not destination:
        problems.append(f"{DESTINATION} is not set: s3://bucket/prefix, or a folder")
    elif destination.startswith("s3:") and find_spec("boto3") is None:
        problems.append(f"artifacts in S3 need boto3: {EXTRA}")
    names = [name.strip() for name in allowed_hosts.split(",") if name.strip()]
    if any(name == "*" for name in names):
        problems.append(
            "--allowed-hosts * would let any web page that a member of the team opens read the results: name the hosts"
        )
    if problems:
        raise ConfigError(problems)
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
    return {
        **environment,
        # MLflow and SQLAlchemy take the driver from the scheme; psycopg is the one that is kept up.
        DATABASE: "postgresql+psycopg://" + database.partition("://")[2],
        DESTINATION: destination if is_url(destination) else os.path.abspath(os.path.expanduser(destination)),
        **({"MLFLOW_S3_ENDPOINT_URL": endpoint} if endpoint else {}),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(["localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*", *names]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _knock_at_database(uri: str) -> None:
    """MLflow itself would try for minutes, and print what it tries.

    Raises:
        StoreError: it cannot be reached, or refuses.
    """
    import psycopg

    try:
        psycopg.connect("postgresql://" + uri.partition("://")[2], connect_timeout=CONNECT_S).close()
    except psycopg.Error as error:
        reason = " ".join(redacted(str(error)).split())[:300]
        raise StoreError(
            f"no database at {plain(redact(uri), 200)}: {reason}. Check {DATABASE} and PGPASSWORD"
        ) from None
