"""Two sweeps at once on a team's MLflow: real PostgreSQL, real S3, the server of `raysweep ui --team`; nothing missing, nothing twice, no secret told.

Needs PostgreSQL's server programs (Debian: `apt-get install postgresql`), the extras `team` and `storage` (psycopg, boto3, obstore) and an
S3 server (`s3_server` says which). initdb refuses to run as root: it then runs as `nobody`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3, s3_server

from raysweep.engine.ledger import read_ledger
from raysweep.errors import ConfigError
from raysweep.tracking.team import DATABASE, DESTINATION, team_environment

PLANTED = "planted-database-password-0815"
FACES = "synthetic:identities=12,images_per_identity=7"
PATIENCE_S = 600.0


# ------------------------------------------------------------------ what is asked for
def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        team_environment({}, "*")
    text = str(caught.value)
    for word in (DATABASE, DESTINATION, "PGPASSWORD", "--allowed-hosts"):
        assert word in text


def test_another_database_is_refused_and_its_password_not_repeated() -> None:
    with pytest.raises(ConfigError, match="needs PostgreSQL") as caught:
        team_environment({DATABASE: f"mysql://me:{PLANTED}@host/runs", DESTINATION: "s3://bucket/x"})
    assert PLANTED not in str(caught.value)


# ------------------------------------------------------------------ the servers
def _program(name: str) -> str:
    found = shutil.which(name) or next((str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
    if found is None:
        pytest.skip(f"{name} is not installed: apt-get install postgresql")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Address without password of an empty database; the password is asked for, also on the loopback address."""
    for name in ("psycopg", "boto3"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: uv sync --extra team")
    initdb, control, port = _program("initdb"), _program("pg_ctl"), _free_port()
    folder = Path(tempfile.mkdtemp(prefix="raysweep-postgres-"))
    word = folder / "password"
    word.write_text(PLANTED)
    word.chmod(0o600)
    user: list[str] = []
    if os.geteuid() == 0:
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        shutil.chown(folder, "nobody", "nogroup")
        shutil.chown(word, "nobody", "nogroup")
    data, log = folder / "data", folder / "postgres.log"
    how = ["-U", "team", "--auth-host=scram-sha-256", "--auth-local=reject", f"--pwfile={word}", "-E", "UTF8"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, "timeout": 120}
    subprocess.run([*user, initdb, "-D", str(data), *how], **quiet)
    subprocess.run([*user, control, "-D", str(data), "-w", "-l", str(log), "-o", options, "start"], **quiet)
    try:
        yield f"postgresql://team@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*user, control, "-D", str(data), "-w", "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def team(database: str, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and output of the server that one command starts."""
    output = tmp_path_factory.mktemp("team") / "server.txt"
    environment = {
        **os.environ,
        **s3.environment,
        DATABASE: database,
        DESTINATION: f"{s3.url}/artifacts",
        "PGPASSWORD": PLANTED,
    }
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "raysweep", "ui", "--team", "--port", str(_free_port())],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"MLflow UI: (http://127\.0\.0\.1:\d+)", output.read_text())):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield found[1], output
    finally:
        process.terminate()
        process.wait(timeout=30)


def _secrets_in(texts: dict[str, bytes], s3: S3) -> list[str]:
    secrets = [PLANTED.encode(), s3.environment["AWS_SECRET_ACCESS_KEY"].encode()]
    return [name for name, text in texts.items() if any(secret in text for secret in secrets)]


def _files(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_sweeps_at_once(database: str, s3: S3, team: tuple[str, Path], tmp_path: Path) -> None:
    uri, server_output = team
    place = f"{s3.url}/runs"
    environment = {
        **os.environ,
        **s3.environment,
        "MLFLOW_TRACKING_URI": uri,
        "RAYSWEEP_RUNS": place,
        "RAYSWEEP_CACHE": str(tmp_path / "cache"),
        "COLUMNS": "200",
    }
    machines = {"blur": tmp_path / "one", "pixelate": tmp_path / "two"}
    processes = {}
    for space, machine in machines.items():
        words = ["tune", space, "--trials", "3", "--engine", "local", "--data", FACES, "attackers=A0", "bootstrap=100"]
        with (tmp_path / f"{space}.txt").open("wb") as output:
            processes[space] = subprocess.Popen(
                [sys.executable, "-m", "raysweep", *words],
                env={**environment, "XDG_CACHE_HOME": str(machine)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    time.sleep(3.0)
    commands = {str(path): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path)}
    assert any(b"mlflow" in text for text in commands.values())
    for space, process in processes.items():
        assert process.wait(timeout=PATIENCE_S) == 0, (tmp_path / f"{space}.txt").read_text()

    from mlflow import MlflowClient

    client: Any = MlflowClient(tracking_uri=uri)
    experiments = [item for item in client.search_experiments() if item.name.startswith("raysweep/")]
    assert len(experiments) == 1
    parents = client.search_runs([experiments[0].experiment_id], "tags.`raysweep.kind` = 'sweep'")
    assert sorted(Counter(run.data.params["sweep"] for run in parents).items()) == [("blur", 1), ("pixelate", 1)]
    for parent in parents:
        assert parent.info.status == "FINISHED"
        (ledger,) = machines[parent.data.params["sweep"]].glob("raysweep/mirrors/*/*/ledger.jsonl")
        records = {record.key: record for record in read_ledger(ledger)}
        children = client.search_runs(
            [experiments[0].experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=500
        )
        assert sorted(run.data.tags["raysweep.trial_key"] for run in children) == sorted(records)
        for run in children:
            record = records[run.data.tags["raysweep.trial_key"]]
            for name in ("privacy", "utility"):
                assert run.data.metrics[name] == pytest.approx(record.metrics[name].value, abs=1e-12)
                assert len(client.get_metric_history(run.info.run_id, name)) == 1
        report = {path.name for path in (ledger.parent / "report").iterdir()}
        assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= report - {"config.yaml"}
        page = client.download_artifacts(parent.info.run_id, "report.html", str(tmp_path))
        assert Path(page).read_bytes() == (ledger.parent / "report" / "report.html").read_bytes()

    texts = _files(tmp_path, server_output.parent) | commands | _tables(database)
    if s3.log is not None:
        texts |= _files(s3.log.parent / "data")
    assert len(texts) > 100
    assert _secrets_in(texts, s3) == []


def _readable(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def _tables(database: str) -> dict[str, bytes]:
    """Every row of every table, as text."""
    import psycopg
    from psycopg import sql

    found = {}
    with psycopg.connect(database, password=PLANTED) as connection:
        names = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        for (name,) in names:
            rows = connection.execute(sql.SQL("select * from {}").format(sql.Identifier(name))).fetchall()
            found[f"table {name}"] = json.dumps(rows, default=str).encode()
    assert "table runs" in found
    return found
