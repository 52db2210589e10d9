"""R20 and R7: what a dry run foretells, held against the run, both as commands of their own, as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysweep.bench.finding import Finding, How

__all__ = ["again", "foretold"]

FACES = "synthetic:identities=60,images_per_identity=14,seed=5"
SWEEPS = (("blur", "trials=40"), ("ganonymization", "trials=12", "steps=40"))
"""One whose trials only measure, on faces that must be prepared first; one whose trials train."""
QUICK = (("blur", "trials=4", "--engine", "local"),)


def foretold(how: How) -> list[Finding]:
    """R20: seconds that `--dry-run` foretells over seconds until the last trial of the same command is recorded."""
    timings = []
    for words in QUICK if how.quick else SWEEPS:
        how.tell(f"R20: tune {' '.join(words)}, foretold and run")
        timings.append(_both(how, "R20", words))
    values = tuple(timing["predicted_s"] / timing["actual_s"] for timing in timings)
    inside = sum(timing["low_s"] <= timing["actual_s"] <= timing["high_s"] for timing in timings)
    said = ", ".join(f"{timing['predicted_s']:.0f} s foretold, {timing['actual_s']:.0f} s taken" for timing in timings)
    note = f"{said}; {inside} of {len(timings)} within the range that was stated"
    return [Finding("R20", values, note, facts={"timings": timings})]


def again(how: How) -> list[Finding]:
    """R7: a sweep of one trial on new faces, then once more on the same, against what was foretold of both."""
    values = []
    first, second = {}, {}
    for turn in range(1 if how.quick else 2):
        how.tell(f"R7: one trial on new faces, then one more, round {turn + 1}")
        words = ("blur", "trials=1", "--engine", "local", f"seed={turn}")
        first = _both(how, f"R7-{turn}", words)
        second = _both(how, f"R7-{turn}", (*words, "--fresh"))
        found, expected = (second[name] / first[name] for name in ("actual_s", "predicted_s"))
        values.append(found / expected)
    note = f"{first['actual_s']:.0f} s, then {second['actual_s']:.0f} s; foretold {first['predicted_s']:.0f} s and {second['predicted_s']:.0f} s"
    return [Finding("R7", tuple(values), note)]


def _both(how: How, name: str, words: Sequence[str]) -> dict[str, Any]:
    """The dry run and the run; `timing` of its record."""
    folder = how.folder / name
    environment = os.environ | {
        "RAYSWEEP_CACHE": str(folder / "cache"),
        "RAYSWEEP_RUNS": str(folder / "runs"),
        "MLFLOW_TRACKING_URI": "",
    }
    faces = FACES.replace("60,", "24,").replace("=14", "=7") if how.quick else FACES
    command = [sys.executable, "-m", "raysweep", "tune", *words, "--data", faces]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/sweep.json")}
    _run([*(word for word in command if word != "--fresh"), "--dry-run"], environment)
    _run(command, environment)
    changed = [path for path in folder.glob("runs/*/sweep.json") if before.get(path) != path.stat().st_mtime_ns]
    timing: dict[str, Any] = json.loads(changed[0].read_text(encoding="utf-8"))["info"]["timing"]
    if "predicted_s" not in timing or timing["basis"] != "its dry run":
        raise RuntimeError(f"the run of {' '.join(words)} was not held against its dry run: {timing}")
    return timing


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(  # noqa: S603 - this interpreter, words of our own
        command, env=environment, capture_output=True, text=True, cwd=_package_parent()
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr.strip()[-300:]}")


def _package_parent() -> Path:
    """Where `-m raysweep` finds the code that is running."""
    return Path(__file__).resolve().parents[2]
