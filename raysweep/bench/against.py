"""A whole sweep against a plain script that scores the same settings: two commands, start-up included.

On real faces and a real embedder where they are at hand (`RAYSWEEP_REAL`), else on drawn faces. Photographs are multiplied, mirrored and
made lighter or darker, until there are enough: what a crop costs does not depend on what it shows.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from raysweep.bench.finding import Finding, How
from raysweep.engine.ledger import read_ledger
from raysweep.errors import StoreError

__all__ = ["against", "as_space", "multiplied", "settings_of"]

MODELS = ("det_yunet_2023mar.onnx", "rec_mobilefacenet_liguiyuan.onnx", "fer_faceapi_expression.onnx")
"""One detector, one embedder, one judge."""
DRAWN = "synthetic:identities=100,images_per_identity=20,seed=5"
DRAWN_QUICK = "synthetic:identities=30,images_per_identity=7,seed=5"


def against(how: How) -> list[Finding]:
    """The sweep's seconds over those of the plain script, once each: minutes both, next to which start-up noise is small."""
    settings = settings_of(6 if how.quick else 30)
    folder, crops = how.folder, 200 if how.quick else 2000
    data, models = DRAWN_QUICK if how.quick else DRAWN, None
    if how.real is not None:
        data, models = str(multiplied(how.real / "faces_id" / "lfw", folder / "photographs", crops)), folder / "models"
        models.mkdir()
        for name in MODELS:
            shutil.copy(how.real / "models" / name, models / name)
    words = ["--data", data, *(["--models", str(models)] if models else [])]
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "settings.yaml").write_text(as_space(settings), encoding="utf-8")
    how.tell(f"sweep: {len(settings)} settings by a plain script")
    scores, runs = folder / "scores.csv", folder / "runs"
    plain = ["-m", "raysweep.bench.plain_sweep", *words, "--settings", str(folder / "settings.json")]
    theirs = _seconds([*plain, "--out", str(scores)], {})
    how.tell("sweep: the same by raysweep")
    place = {"RAYSWEEP_CACHE": str(folder / "cache"), "RAYSWEEP_RUNS": str(runs)}
    ours = _seconds(["-m", "raysweep", "tune", str(folder / "settings.yaml"), *words], place)
    apart = _apart(scores, runs)
    kind = "photographs" if how.real is not None else "drawn faces"
    note = f"{len(settings)} settings, {crops:,} {kind}: {ours:.0f} s and {theirs:.0f} s; largest difference of P or U {apart:.1g}"
    return [Finding("sweep", (ours / theirs,), note, facts={"sweep_s": ours, "plain_s": theirs, "apart": apart})]


def settings_of(count: int) -> list[dict[str, Any]]:
    """So many settings, half blur and half pixelate, from mild to strong."""
    kernels = np.unique(np.linspace(5, 50, count - count // 2).round().astype(int)) * 2 + 1
    blocks = np.unique(np.linspace(4, 4 + 2 * (count // 2 - 1), count // 2).round().astype(int))
    return [{"anonymizer": "blur", "setting": {"kernel_size": int(size)}} for size in kernels] + [
        {"anonymizer": "pixelate", "setting": {"block_size": int(size)}} for size in blocks
    ]


def multiplied(photographs: Path, target: Path, count: int) -> Path:
    """A folder per person with so many photographs in all: those that are there, then changed a little.

    Raises:
        StoreError: there is no photograph.
    """
    from PIL import Image, ImageEnhance, ImageOps

    found = sorted(path for path in photographs.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        raise StoreError(f"{photographs}: no photographs in folders of people")
    for number in range(count):
        path, again = found[number % len(found)], number // len(found)
        place = target / path.parent.name / f"{path.stem}-{again}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            changed = image.convert("RGB")
        if again % 2:
            changed = ImageOps.mirror(changed)
        if again:
            changed = ImageEnhance.Brightness(changed).enhance(1.0 + 0.04 * again)
        changed.save(place, quality=95)
    return target


def as_space(settings: Sequence[Mapping[str, Any]]) -> str:
    """A search space that lists settings, as YAML."""
    arms: dict[str, list[Any]] = {}
    for item in settings:
        arms.setdefault(item["anonymizer"], []).append(item["setting"])
    content = {"summary": "bench", "arms": [{"anonymizer": name, "settings": listed} for name, listed in arms.items()]}
    return yaml.safe_dump(content)


def _seconds(words: Sequence[str], place: Mapping[str, str]) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *words], env={**environment, **place}, capture_output=True, text=True)  # noqa: S603 - our own command lines
    if done.returncode:
        raise StoreError(f"{' '.join(words[:4])} ended with {done.returncode}: {done.stderr[-400:]}")
    return time.perf_counter() - started


def _apart(scores: Path, runs: Path) -> float:
    """Largest difference between the two in privacy or utility: they must have done the same work."""
    records = read_ledger(next(runs.glob("*/ledger.jsonl")))
    ours = {
        (record.anonymizer, *sorted(record.setting.items())): [
            record.metrics[name].value for name in ("privacy", "utility")
        ]
        for record in records
        if not record.control
    }
    differences = []
    with scores.open(newline="", encoding="utf-8") as file:
        for item, *values in csv.reader(file):
            content = json.loads(item)
            key = (content["anonymizer"], *sorted(content["setting"].items()))
            differences += [abs(ours[key][place] - float(value)) for place, value in enumerate(values)]
    return max(differences)
