"""B10: objectives that never move, are never defined, or lie in the corner that counts as nothing: samplers and report go on and say so."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raysweep import sweep
from raysweep.bench.drawn import silent_view
from raysweep.bench.stubs import Kernel, StubWorker
from raysweep.bench.sweeps import FACES, NoTracker
from raysweep.cli import main
from raysweep.config import resolve_sweep
from raysweep.engine.record import Outcome
from raysweep.metrics.value import MetricValue
from raysweep.sweep import Parts, SweepResult
from raysweep.tracking.mlflow_sink import MlflowSink
from raysweep.tracking.standing import standing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOWHERE = MetricValue.undefined("no attacker could be trained")
KINDS = {
    "constant": (MetricValue(0.4, 0.4, 0.4), MetricValue(0.7, 0.7, 0.7)),
    "one constant": (None, MetricValue(0.7, 0.7, 0.7)),
    "at the reference": (MetricValue(0.0, 0.0, 0.0), MetricValue(0.0, 0.0, 0.0)),
    "undefined": (NOWHERE, MetricValue(0.7, 0.7, 0.7)),
}


class Flat(StubWorker):
    """Answers the same for every setting."""

    def __init__(self, plan: Any, kind: str) -> None:
        super().__init__(plan, Kernel())
        self._kind = kind

    def judge(self, task: Any, fitted: object, parts: Any, extras: Any = ()) -> Outcome:
        found = super().judge(task, fitted, parts, extras)
        values = dict(zip(("privacy", "utility"), KINDS[self._kind], strict=True))
        kept = {name: value for name, value in values.items() if value is not None}
        return replace(found, metrics={**found.metrics, **kept}, evidence={})


def play(tmp_path: Path, kind: str, sampler: str, sink_of: Any) -> SweepResult:
    words = ["trials=7", "engine=local", "steps=0", f"sampler={sampler}"]
    config = resolve_sweep("ganonymization", words, data=FACES)
    parts = Parts(lambda plan: Flat(plan, kind), sink_of)
    return sweep.tune(config, runs=tmp_path / sampler / kind.replace(" ", "-"), view_of=silent_view, parts=parts)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "qmc", "random"])
def test_samplers_go_on(tmp_path: Path, sampler: str) -> None:
    for kind in KINDS:
        result = play(tmp_path, kind, sampler, NoTracker)
        now = standing(result.records, result.info)
        trials = [record for record in result.records if not record.control]
        assert len(trials) == 7, kind
        if kind == "undefined":
            assert {record.rankable for record in trials} == {False}
            assert not now.front
        else:
            assert {record.state for record in trials} == {"complete"}
            # Points that nobody beats all lie on the front, equal ones too.
            assert len(now.front) == (1 if kind == "one constant" else 7)
        assert math.isfinite(now.hypervolume)
        assert (now.hypervolume == 0) == (kind in ("at the reference", "undefined"))


def test_report_and_tracker_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        result = play(tmp_path, kind, "tpe", MlflowSink)
        assert not result.delivery.not_logged
        page = tmp_path / f"{kind}.html"
        assert main(["report", str(result.info.run_folder), "--out", str(page)]) == 0
        text = page.read_text(encoding="utf-8")
        assert "7 settings" in text or "7 trials" in text
        if kind == "undefined":
            assert "no attacker could be trained" in text
