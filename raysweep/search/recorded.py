"""Score every setting of a finite space at every rung, for searches in simulated time.

    python -m raysweep.search.recorded --space tests/perf/recorded.yaml --out tests/perf/recorded.csv

scores each setting once in full and judges it again on the nested subsets of people that a search would have seen first; some twenty
minutes on one core. Real parameters are taken at `--steps` equally spaced values. Run again it goes on where it stopped. Attackers take
all their epochs on every rung, where a sweep gives them a share: the table asks more seconds of a rung than a sweep does.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raysweep.errors import RaysweepError
from raysweep.search.fidelity import Ladder
from raysweep.search.parameters import Categorical, Float, Int, Parameter, Value
from raysweep.search.space import Arm, Space, load_space

__all__ = ["grid_of", "main", "record"]

COLUMNS = (
    "anonymizer", "setting", "rung", "eta", "privacy", "privacy_lo", "privacy_hi", "utility", "utility_lo", "utility_hi", "seconds"
)  # fmt: skip


def grid_of(space: Space, steps: int) -> Iterator[tuple[str, dict[str, Value]]]:
    """Every setting, complete with the declared defaults; conditional parameters stay at their default where they do not apply.

    >>> from raysweep.search.space import load_space, find_space
    >>> len(list(grid_of(load_space(find_space("blur")), 5)))
    16
    """
    from raysweep.anonymizers.registry import get_anonymizer

    for arm in space.arms:
        method = get_anonymizer(arm.anonymizer, allow_file=True)
        listed = [dict(setting) for setting in arm.settings] or _product(arm, steps)
        seen = set()
        for setting in listed:
            complete = dict(method(**setting).setting)
            mark = json.dumps(complete, sort_keys=True)
            if mark not in seen:
                seen.add(mark)
                yield arm.anonymizer, complete


def _product(arm: Arm, steps: int) -> list[dict[str, Value]]:
    found = []
    for values in itertools.product(*(_values(item, steps) for item in arm.ranges.values())):
        setting = dict(arm.fixed)
        for name, value in zip(arm.ranges, values, strict=True):
            if arm.active(name, setting):
                setting[name] = value
        found.append(setting)
    return found


def _values(item: Parameter, steps: int) -> Sequence[Value]:
    if isinstance(item, Categorical):
        return item.choices
    if isinstance(item, Int):
        return range(item.low, item.high + 1, item.step)
    if isinstance(item, Float):
        spaced = np.geomspace if item.log else np.linspace
        return [float(f"{value:.4g}") for value in spaced(item.low, item.high, steps)]
    return (False, True)


def record(
    space: Space, ladder: Ladder, data: str, models: str | None, out: Path, steps: int, say: Callable[[str], None]
) -> None:
    """Append the rows of every setting that `out` does not have yet.

    Raises:
        RaysweepError: the faces or models cannot do, or too few people for the ladder.
    """
    import torch

    from raysweep.config import RunSettings
    from raysweep.engine.record import TrialTask
    from raysweep.engine.worker import TrialWorker, WorkerPlan, concatenate, scored_rows, take_measurements
    from raysweep.faces import open_faces, shares_of
    from raysweep.objective import Referee
    from raysweep.provenance import protocol_of
    from raysweep.tracking.info import SweepInfo
    from raysweep.tracking.terminal import live_view

    run = RunSettings(engine="local")
    protocol = protocol_of(run)
    info = SweepInfo("recorded", "", data, synthetic=True, anonymizer="", run_folder=out.parent)
    with live_view(info) as view:
        faces = open_faces(run, view, data=data, kind=None, models=models, workers=1)
    plan = WorkerPlan(
        references=str(faces.store.folder),
        zoo=faces.zoo,
        dataset=faces.source.name,
        seed=run.seed,
        shares=shares_of(run),
        need_privacy=True,
        protocol=protocol,
        batch_size=run.measure_batch,
        threads=torch.get_num_threads(),
    )
    worker = TrialWorker(plan)
    rows = scored_rows(faces.references.faces, protocol)
    table = faces.references.faces.table.take(rows)
    ladder.check(len(np.unique(table.identity[table.rows("E")])))
    rungs = ladder.rows(table, run.seed)
    clear = take_measurements(faces.references.clear, rows)
    referees = [Referee(table.take(chosen), take_measurements(clear, chosen), protocol) for chosen in rungs]
    wanted = list(grid_of(space, steps))
    known = _known(out)
    say(
        f"{len(wanted)} settings, {len(known)} known; people of E per rung: {[r.ground.gallery['E'] for r in referees]} in the gallery"
    )
    with out.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if not known:
            writer.writerow(COLUMNS)
        for number, (name, setting) in enumerate(wanted):
            text = json.dumps(setting, sort_keys=True)
            if (name, text) in known:
                continue
            task = TrialTask(text, number, name, setting, run.seed)
            started = time.perf_counter()
            fitted = worker.fit(task)
            fit = time.perf_counter() - started
            started = time.perf_counter()
            measured = worker.measure(task, fitted, rows)
            measure = time.perf_counter() - started
            together = concatenate([measured.measurements])
            lines = []
            for rung, (chosen, referee) in enumerate(zip(rungs, referees, strict=True)):
                started = time.perf_counter()
                metrics = referee.judge(take_measurements(together, chosen)).metrics
                new = len(chosen) - (len(rungs[rung - 1]) if rung else 0)
                seconds = time.perf_counter() - started + measure * new / len(rows) + (0 if rung else fit)
                lines.append(_line(name, text, rung, ladder.eta, metrics, seconds))
            if all(line is not None for line in lines):
                writer.writerows(line for line in lines if line is not None)
                file.flush()
            say(f"{number + 1}/{len(wanted)} {name} {text[:100]}")


def _line(
    name: str, text: str, rung: int, eta: int, metrics: Mapping[str, Any], seconds: float
) -> list[str | int | float] | None:
    """One row of the table; None when the setting has no privacy or utility."""
    found: list[str | int | float] = []
    for key in ("privacy", "utility"):
        value = metrics[key]
        if not value.ok:
            return None
        low, high = (value.value if np.isnan(end) else end for end in (value.lo, value.hi))
        found += [round(value.value, 5), round(low, 5), round(high, 5)]
    return [name, text, rung, eta, *found, round(seconds, 4)]


def _known(out: Path) -> set[tuple[str, str]]:
    if not out.is_file():
        return set()
    with out.open(encoding="utf-8", newline="") as file:
        return {(row["anonymizer"], row["setting"]) for row in csv.DictReader(file)}


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m raysweep.search.recorded")
    parser.add_argument("--space", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="synthetic:identities=360,images_per_identity=6")
    parser.add_argument("--models")
    parser.add_argument("--rungs", type=int, default=3)
    parser.add_argument("--eta", type=int, default=3)
    parser.add_argument("--steps", type=int, default=13, help="values of each real parameter")
    arguments = parser.parse_args(words)
    try:
        record(
            load_space(arguments.space),
            Ladder(arguments.rungs, arguments.eta),
            arguments.data,
            arguments.models,
            arguments.out,
            arguments.steps,
            lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
        )
    except RaysweepError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
