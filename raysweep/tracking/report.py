"""The files that a finished sweep leaves in its run folder, whether MLflow is there or not, and those that `report` writes on request."""

from __future__ import annotations

import csv as csv_files
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from raysweep.engine.record import TrialRecord
from raysweep.errors import StoreError
from raysweep.storage.files import write_whole
from raysweep.tracking.analysis import Analysis, analyse
from raysweep.tracking.contact import drawn_sheet
from raysweep.tracking.figures import attackers_table, front_csv, front_html, front_png, trials_csv
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.latex import latex
from raysweep.tracking.note import sweep_note
from raysweep.tracking.page import build_page
from raysweep.tracking.parts import Block
from raysweep.tracking.recompute import Difference
from raysweep.tracking.sections import attackers_by_setting, front_rows, trial_rows
from raysweep.tracking.stored import StoredRun, load_run
from raysweep.tracking.text import csv_cell, plain

__all__ = ["write_page", "write_report", "write_tables"]


def write_report(records: Sequence[TrialRecord], info: SweepInfo, folder: Path) -> list[Path]:
    """Write report.html, front.html, front.png, front.csv, trials.csv, attackers.json, config.yaml and README.md.

    Args:
        records: trials and controls of the sweep.
        info: of the sweep; its run folder has the evidence.
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
    found = analyse(_stored(records, info))
    files = [
        write_page(found, folder / "report.html", sheet=drawn_sheet(found)),
        front_html(records, info, folder / "front.html"),
        front_png(records, info, folder / "front.png"),
        front_csv(records, info, folder / "front.csv"),
        trials_csv(records, info, folder / "trials.csv"),
    ]
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files


def write_page(
    found: Analysis,
    path: Path,
    *,
    names: Mapping[int, str] | None = None,
    sheet: Sequence[Block] = (),
    checked: Sequence[Difference] | None = None,
    flags: Sequence[str] = (),
) -> Path:
    """Write the page of `page.build_page`, arguments as there; a reader sees the old page or the new one.

    Raises:
        StoreError: it cannot be written.
    """
    return _write(path, build_page(found, names=names, sheet=sheet, checked=checked, flags=flags))


def write_tables(found: Analysis, *, csv: Path | None = None, latex_folder: Path | None = None) -> list[Path]:
    """Write front, trials and attackers as CSV (all columns, for a program) and as LaTeX (as on the page).

    Raises:
        StoreError: a file cannot be written.
    """
    run = found.run
    written = []
    try:
        if csv is not None:
            written += [
                front_csv(run.records, run.info, csv / "front.csv"),
                trials_csv(run.records, run.info, csv / "trials.csv"),
            ]
            table = attackers_table(run.records, run.info)
            text = io.StringIO()
            writer = csv_files.writer(text, lineterminator="\n")
            writer.writerow([csv_cell(name) for name in table["columns"]])
            writer.writerows([[csv_cell(cell) for cell in row] for row in table["data"]])
            written.append(_write(csv / "attackers.csv", text.getvalue()))
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or csv}: {error.strerror}") from error
    if latex_folder is not None:
        name = f"{plain(run.info.name, 80)} on {plain(run.info.dataset, 80)}"
        tables = {"front": front_rows(found), "trials": trial_rows(found), "attackers": attackers_by_setting(found)}
        written += [
            _write(latex_folder / f"{key}.tex", latex(table, f"{name}: {key}")) for key, table in tables.items()
        ]
    return written


def _stored(records: Sequence[TrialRecord], info: SweepInfo) -> StoredRun:
    """The run as it lies on disk, told by the records in hand; without a run folder, the records alone."""
    in_hand = StoredRun(info, tuple(records), source=info.run_folder.name)
    try:
        stored = load_run(info.run_folder)
    except StoreError:
        return in_hand
    evidence = {record.key: record.evidence for record in stored.records}
    attached = tuple(replace(record, evidence=evidence.get(record.key, {})) for record in records)
    return replace(stored, info=info, records=attached)


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode("utf-8", "replace"))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    return path
