"""Shared by all tests: telemetry off, few threads, and where the real faces lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# A machine that does much else must not fail a test for one slow example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_root() -> Path:
    """Folder of real faces and models; the test skips where there is none."""
    root = Path(os.environ.get("RAYSWEEP_REAL", REPOSITORY.parent / "shared" / "real"))
    if not (root / "models").is_dir():
        pytest.skip(f"no real faces and models at {root}: set RAYSWEEP_REAL")
    return root
