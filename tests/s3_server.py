"""A real S3 server on the loopback address, for tests: buckets are folders, requests are those that any S3 gets.

`uv pip install localbucket` (one file, no dependencies, a second) brings the server; it keeps conditional writes and checks no signatures. Or
`RAYSWEEP_TEST_S3=http://127.0.0.1:PORT` names one that runs already and does both, with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
RAYSWEEP_TEST_BUCKET (made when it is not there): `tests/ceph_s3.sh` starts Ceph's gateway in half a minute.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

KEY, SECRET = "key-of-the-tests", "PLANTED-secret-key-4711"
CARELESS = """
import sys, localbucket
kept = localbucket.S3Handler._write_object
def careless(self, *rest):
    del self.headers["If-None-Match"]
    return kept(self, *rest)
localbucket.S3Handler._write_object = careless
sys.exit(localbucket.main())
"""
PATIENCE_S = 60.0


@dataclass(frozen=True)
class S3:
    """A running server.

    Attributes:
        bucket: to write to.
        environment: what a process needs to reach it.
        log: what the server printed; None when it is not ours.
    """

    bucket: str
    environment: dict[str, str]
    log: Path | None

    @property
    def url(self) -> str:
        """A prefix that nobody else uses."""
        return f"s3://{self.bucket}/{secrets.token_hex(4)}"


@contextmanager
def s3_server(folder: Path, *, careless: bool = False) -> Iterator[S3]:
    """Start a server, or use the one that is named; skips where there is none.

    Args:
        folder: for its buckets and its log.
        careless: it ignores conditional writes, as some do.
    """
    if find_spec("obstore") is None:
        pytest.skip("the extra is not installed: uv sync --extra storage")
    named = os.environ.get("RAYSWEEP_TEST_S3")
    if named and not careless:
        given = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        _make_bucket(named, os.environ["RAYSWEEP_TEST_BUCKET"])
        yield S3(
            os.environ["RAYSWEEP_TEST_BUCKET"], {"AWS_ENDPOINT_URL": named, "AWS_REGION": "us-east-1", **given}, None
        )
        return
    if find_spec("localbucket") is None:
        pytest.skip("no S3 server: uv pip install localbucket, or name one in RAYSWEEP_TEST_S3")
    (folder / "data" / "bucket").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = ["-c", CARELESS] if careless else ["-m", "localbucket"]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *start, str(folder / "data"), "--port", str(port)], stdout=output, stderr=output
        )
    try:
        _wait_for(port)
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        yield S3("bucket", environment, log)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _make_bucket(endpoint: str, name: str) -> None:
    """Ours already, or new."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: uv sync --extra team")
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=name)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
