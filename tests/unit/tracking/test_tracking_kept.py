"""A report is kept as it is only when all of it is there, and only it is passed on."""

from __future__ import annotations

from pathlib import Path

import fake_sweep as fake

from raysweep.tracking.kept import REPORT_FILES, kept_report
from raysweep.tracking.report import write_report


def test_what_a_report_writes_is_what_is_kept(tmp_path: Path) -> None:
    written = write_report(fake.sweep(), fake.sweep_info(tmp_path), tmp_path / "report")
    (tmp_path / "report" / "contact.html").write_text("faces", encoding="utf-8")
    kept = kept_report(tmp_path / "report")
    assert {path.name for path in written} == set(REPORT_FILES)
    assert set(kept) == set(written)
    (tmp_path / "report" / "front.png").unlink()
    assert kept_report(tmp_path / "report") == []
