"""What `raysweep doctor` says of this machine: each failure with its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysweep import doctor
from raysweep.commands import doctor as command
from raysweep.doctor import Finding
from raysweep.models.zoo import open_zoo


def test_what_photographs_lack_is_named_with_weights_that_anyone_may_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSWEEP_MODELS", str(tmp_path))
    found = doctor._weights()
    assert found.state == "note"
    assert f"no detector, no embedder, no expression in {tmp_path}" in found.detail
    entries = {entry.name: entry for entry in open_zoo(None).entries}
    for task, name in doctor.FREE.items():
        assert f"models fetch {name}" in found.fix
        assert (entries[name].task, entries[name].non_commercial) == (task, False)


def test_little_memory_is_worth_knowing(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       25276510 kB\nMemFree: 1 kB\nMemAvailable:    1200000 kB\n")
    short = doctor._memory(file)
    assert (short.state, short.detail) == ("note", "1.2 of 25.3 GB free")
    assert short.fix
    file.write_text(file.read_text().replace(" 1200000 ", " 9000000 "))
    assert doctor._memory(file).state == "ok"
    assert doctor._memory(tmp_path / "none").state == "note"


def test_onnxruntime_without_cuda_beside_a_gpu_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    found = doctor._onnxruntime()
    assert found.state == "wrong"
    assert "onnxruntime-gpu" in found.fix


def test_findings_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("dashboard", "wrong", "none in /runs/[red]x", "install `ray[default]` on the head")]
    monkeypatch.setattr(doctor, "check_all", lambda: findings)
    import argparse

    assert command.run(argparse.Namespace(address=None)) == 1
    shown = capsys.readouterr().out
    assert "/runs/[red]x" in shown
    assert "→ install `ray[default]` on the head" in shown
