"""The files that a finished sweep leaves in its run folder, whether MLflow is there or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from raysweep.engine.record import TrialRecord
from raysweep.tracking.figures import attackers_table, front_csv, front_html, front_png, trials_csv
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.note import sweep_note

__all__ = ["write_report"]


def write_report(records: Sequence[TrialRecord], info: SweepInfo, folder: Path) -> list[Path]:
    """Write front.html, front.png, front.csv, trials.csv, attackers.json, config.yaml and README.md.

    Args:
        records: trials and controls of the sweep.
        info: of the sweep.
        folder: made when missing; files of the same names are replaced.

    Returns:
        The files written.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "attackers.json": json.dumps(attackers_table(records, info), allow_nan=False),
        "config.yaml": yaml.safe_dump(
            json.loads(json.dumps(info.to_dict(), default=str)), sort_keys=False, allow_unicode=True
        ),
        "README.md": sweep_note(records, info, limit=100_000) + "\n",
    }
    files = [
        front_html(records, info, folder / "front.html"),
        front_png(records, info, folder / "front.png"),
        front_csv(records, info, folder / "front.csv"),
        trials_csv(records, info, folder / "trials.csv"),
    ]
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files
