"""The report that an earlier run of the same sweep has left: it is not written again when nothing was added."""

from __future__ import annotations

from pathlib import Path

__all__ = ["REPORT_FILES", "kept_report"]

REPORT_FILES = (
    "report.html",
    "front.html",
    "front.png",
    "front.csv",
    "trials.csv",
    "attackers.json",
    "config.yaml",
    "README.md",
)
"""What `report.write_report` writes; whatever else lies there (a contact sheet) is the user's, and is sent nowhere."""


def kept_report(folder: Path) -> list[Path]:
    """Its files; none when one of them is missing."""
    files = [folder / name for name in REPORT_FILES]
    return files if all(file.is_file() for file in files) else []
