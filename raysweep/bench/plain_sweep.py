"""The same settings scored by a plain script in one process: what one writes without raysweep's engine.

    python -m raysweep.bench.plain_sweep --data PATH --models DIR --settings settings.json --out scores.csv

It decodes, finds, aligns and measures the faces once, then takes one setting after the other with the same networks, the same attackers and
the same numbers. No Ray, no ledger, no tracker, no report; nothing is kept for a next time, and a kill loses everything.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raysweep.anonymizers.batch import face_batch
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.config import resolve_sweep
from raysweep.data.roles import face_table
from raysweep.engine.worker import scored_rows
from raysweep.faces import find_faces, frame_of
from raysweep.metrics.realism import psnr, ssim
from raysweep.models.base import Embedder, ExpressionModel
from raysweep.objective import Referee
from raysweep.preprocess.measure import measure
from raysweep.preprocess.rows import crop_rows, recipe_for
from raysweep.preprocess.tools import open_tools
from raysweep.provenance import protocol_of
from raysweep.schema import AlignedFaces, Frame, IntArray, Measurements

__all__ = ["main"]

BATCH = 128


def main() -> None:
    """Read the faces, score each setting, write a row for each."""
    parser = argparse.ArgumentParser()
    for name in ("--data", "--models", "--settings", "--out"):
        parser.add_argument(name, required=name in ("--settings", "--out"))
    given = parser.parse_args()
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = resolve_sweep("blur", []).run
    source, zoo = find_faces(given.data, None, given.models)
    frame = frame_of(run, source.synthetic)
    embedders, judges = zoo.embedders(device, threads=threads), zoo.expression_models(device, threads=threads)
    rows: list[dict[str, Any]] = [dict(row) for row in source.rows()]
    tools = open_tools(zoo, str(device), threads)
    columns = crop_rows(rows, recipe_for(rows[0], frame, tools, models=not source.synthetic), tools)
    good = np.flatnonzero(columns["reason"] == "")
    used = [rows[row] for row in good.tolist()]
    faces = AlignedFaces(
        table=face_table(
            [row["face_id"] for row in used],
            [row["identity"] for row in used],
            [row["expression"] for row in used],
            dataset=source.name,
            seed=run.seed,
            attributes=[row["attributes"] for row in used],
        ),
        frame=frame,
        crop=columns["crop"][good],
        points=columns["points"][good],
        landmarks=None,
        mask=None,
        synthetic=source.synthetic,
    )
    del rows, used, columns
    protocol = protocol_of(run)
    chosen = scored_rows(faces, protocol)
    faces = faces.take(chosen)
    referee = Referee(faces.table, measure(faces.crop, frame, embedders, judges, device), protocol)
    with Path(given.out).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        for item in json.loads(Path(given.settings).read_text(encoding="utf-8")):
            measured = _score(faces, item, embedders, judges, device)
            metrics = referee.judge(measured).metrics
            table.writerow([json.dumps(item), metrics["privacy"].value, metrics["utility"].value])


def _score(
    faces: AlignedFaces,
    item: Mapping[str, Any],
    embedders: list[Embedder],
    judges: list[ExpressionModel],
    device: torch.device,
) -> Measurements:
    """Anonymize everything with one setting and measure it; expressions and realism only where the referee looks."""
    anonymizer = get_anonymizer(item["anonymizer"])(**item["setting"])
    anonymizer.load({}, device)
    parts = [
        _batch(faces, np.arange(start, min(start + BATCH, len(faces))), anonymizer, embedders, judges, device)
        for start in range(0, len(faces), BATCH)
    ]
    embeddings, probabilities, realism = (
        {name: np.concatenate([part[kind][name] for part in parts]) for name in parts[0][kind]} for kind in range(3)
    )
    return Measurements(embeddings, probabilities, realism)


def _batch(
    faces: AlignedFaces,
    rows: IntArray,
    anonymizer: Any,
    embedders: list[Embedder],
    judges: list[ExpressionModel],
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    frame: Frame = faces.frame
    batch = face_batch(faces.take(rows), 0, device, False)
    role = faces.table.role[rows]
    shown, realist = np.flatnonzero(role != "T"), np.flatnonzero(role == "E")
    with torch.inference_mode():
        image = anonymizer.anonymize(batch)
        embeddings = {model.name: model.embed(image, frame) for model in embedders}
        probabilities = {}
        for model in judges:
            whole = np.zeros((len(rows), 7), np.float32)
            if len(shown):
                whole[shown] = model.probabilities(image[shown], frame)
            probabilities[model.name] = whole
        realism = {}
        for name, compare in (("psnr", psnr), ("ssim", ssim)):
            values = np.full(len(rows), np.nan, np.float32)
            if len(realist):
                values[realist] = compare(batch.image[realist], image[realist]).cpu().numpy()
            realism[name] = values
    return embeddings, probabilities, realism


if __name__ == "__main__":
    main()
