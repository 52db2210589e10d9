"""What the intervals cost: a trial judged with the default number of resamplings and without any.

    pytest -m slow -s tests/perf/test_bootstrap_share.py

The trial is one of the main job, trained generator and all, on fewer people; processor time is compared.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
from raysweep.engine.record import TrialTask
from raysweep.engine.worker import TrialWorker


@pytest.mark.slow
def test_intervals_cost_little_beside_a_trial(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with own_cache(tmp_path):
        plan, (chunks,) = worker_plan(drawn_faces(120, 12))
        with_draws, without = (
            TrialWorker(item) for item in (plan, replace(plan, protocol=replace(plan.protocol, bootstrap=0)))
        )
        setting = {"steps": 120}
        task = TrialTask("key", 0, "ganonymization", setting, 0)
        started = time.process_time()
        fitted = with_draws.fit(task)
        parts = [with_draws.measure(task, fitted, rows) for rows in chunks]
        begun = time.process_time() - started
        judged = {"with": [], "without": []}
        for _ in range(4):
            for name, worker in (("with", with_draws), ("without", without)):
                started = time.process_time()
                worker.judge(task, fitted, parts)
                judged[name].append(time.process_time() - started)
    torch.set_num_threads(before)
    # The first judgement of a worker prepares the clear side, once per sweep.
    spent = min(judged["with"][1:]) - min(judged["without"][1:])
    whole = begun + min(judged["with"][1:])
    print(
        f"intervals {spent:.3f} s of a trial's {whole:.1f} s of processor time: {spent / whole:.2%} ({sum(map(len, chunks)):,} faces, {plan.protocol.bootstrap:,} draws)"
    )
    assert spent / whole < 0.02
