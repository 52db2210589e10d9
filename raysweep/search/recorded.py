"""Score every setting of a finite space at every rung, for searches in simulated time.

    python -m raysweep.search.recorded --space tests/perf/recorded.yaml --out tests/perf/recorded.csv
    python -m raysweep.search.recorded --space tests/perf/recorded.yaml --out tests/perf/recorded.csv --retime 5

The first line scores each setting once in full and judges it again on the nested subsets of people that a search would have seen first:
some forty minutes on one core. Real parameters are taken at `--steps` equally spaced values. Run again it goes on where it stopped.
A setting that trains, and can stop and go on, is trained in stages and measured anew on each rung, as in a sweep.
Attackers take all their epochs on every rung, where a sweep gives them a share: the table asks more seconds of a rung than a sweep does.
The second line times a few settings of each method again, on a quiet machine.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raysweep.anonymizers.registry import trains_in_stages
from raysweep.errors import RaysweepError
from raysweep.search.fidelity import Ladder
from raysweep.search.parameters import Categorical, Float, Int, Parameter, Value
from raysweep.search.space import Arm, Space, load_space

if TYPE_CHECKING:
    from raysweep.engine.record import TrialTask
    from raysweep.engine.worker import Measured
    from raysweep.objective import Referee
    from raysweep.schema import IntArray

__all__ = ["Recorder", "Scored", "grid_of", "main", "record", "retime"]

Setting = tuple[str, dict[str, Value]]

COLUMNS = (
    "anonymizer", "setting", "rung", "eta", "privacy", "privacy_lo", "privacy_hi", "utility", "utility_lo", "utility_hi", "seconds", "whole"
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


@dataclass(frozen=True)
class Scored:
    """A setting on one rung.

    Attributes:
        metrics: as judged there.
        seconds: of a processor, from the rung before; other jobs do not change these much.
        whole: of a processor, from nothing straight to this rung (a training in stages included, which costs a little more than one in one go).
    """

    metrics: Mapping[str, Any]
    seconds: float
    whole: float


class Recorder:
    """Scores settings at every rung, with the faces, networks and attackers of a sweep.

    Args:
        data, models: as of a sweep.
        ladder: rungs and their shares of the people.
        folder: named where a sweep would name its run.

    Raises:
        RaysweepError: the faces or models cannot do, or too few people for the ladder.
    """

    def __init__(self, data: str, models: str | None, ladder: Ladder, folder: Path) -> None:
        import torch

        from raysweep.config import RunSettings
        from raysweep.engine.worker import TrialWorker, WorkerPlan, scored_rows, take_measurements
        from raysweep.faces import open_faces, shares_of
        from raysweep.objective import Referee
        from raysweep.provenance import protocol_of
        from raysweep.tracking.info import SweepInfo
        from raysweep.tracking.terminal import live_view

        run = RunSettings(engine="local")
        protocol = protocol_of(run)
        info = SweepInfo("recorded", "", data, synthetic=True, anonymizer="", run_folder=folder)
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
            ladder=ladder,
        )
        self._worker, self._seed = TrialWorker(plan), run.seed
        self._rows = scored_rows(faces.references.faces, protocol)
        table = faces.references.faces.table.take(self._rows)
        ladder.check(len(np.unique(table.identity[table.rows("E")])))
        self._rungs = ladder.rows(table, run.seed)
        clear = take_measurements(faces.references.clear, self._rows)
        self._referees = [
            Referee(table.take(chosen), take_measurements(clear, chosen), protocol) for chosen in self._rungs
        ]

    @property
    def people(self) -> list[int]:
        """Of role E in the gallery, per rung."""
        return [referee.ground.gallery["E"] for referee in self._referees]

    def score(self, name: str, setting: Mapping[str, Value], number: int = 0) -> list[Scored]:
        """What is found on each rung, and what it takes."""
        from raysweep.engine.record import TrialTask

        staged = trains_in_stages(name, setting)
        task = TrialTask(json.dumps(setting, sort_keys=True), number, name, setting, self._seed, staged=staged)
        return self._in_stages(task) if staged else self._at_once(task)

    def _at_once(self, task: TrialTask) -> list[Scored]:
        """Learned and measured in full; every rung takes its rows of that."""
        fitted, fit = _timed(self._worker.fit, task)
        measured, measure = _timed(self._worker.measure, task, fitted, self._rows)
        found: list[Scored] = []
        before = 0
        for chosen, referee in zip(self._rungs, self._referees, strict=True):
            metrics, judge = self._judge(referee, measured, chosen)
            row = measure / len(self._rows)
            climbed = (0.0 if before else fit) + row * (len(chosen) - before) + judge
            found.append(Scored(metrics, climbed, fit + row * len(chosen) + judge))
            before = len(chosen)
        return found

    def _in_stages(self, task: TrialTask) -> list[Scored]:
        """Learned further on each rung, and its rows measured anew."""
        found: list[Scored] = []
        fitted, learned = None, 0.0
        for rung, (chosen, referee) in enumerate(zip(self._rungs, self._referees, strict=True)):
            last = rung + 1 == len(self._rungs)
            fitted, fit = _timed(self._worker.fit, task, None if last else rung, fitted)
            learned += fit
            measured, measure = _timed(self._worker.measure, task, fitted, self._rows[chosen])
            metrics, judge = self._judge(referee, measured, np.arange(len(chosen)))
            found.append(Scored(metrics, fit + measure + judge, learned + measure + judge))
        return found

    def _judge(self, referee: Referee, measured: Measured, chosen: IntArray) -> tuple[Mapping[str, Any], float]:
        """Metrics of some of the measured rows, and seconds of a processor."""
        from raysweep.engine.worker import take_measurements

        judgement, seconds = _timed(referee.judge, take_measurements(measured.measurements, chosen))
        return judgement.metrics, seconds


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What it returns, and seconds of a processor."""
    started = time.process_time()
    return work(*arguments), time.process_time() - started


def record(recorder: Recorder, wanted: Sequence[Setting], eta: int, out: Path, say: Callable[[str], None]) -> None:
    """Append the rows of every setting that `out` does not have yet."""
    known = {(row["anonymizer"], row["setting"]) for row in _read(out)} if out.is_file() else set()
    say(f"{len(wanted)} settings, {len(known)} known; people of E per rung: {recorder.people} in the gallery")
    with out.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if not known:
            writer.writerow(COLUMNS)
        for number, (name, setting) in enumerate(wanted):
            text = json.dumps(setting, sort_keys=True)
            if (name, text) in known:
                continue
            scores = recorder.score(name, setting, number)
            lines = [_line(name, text, rung, eta, scored) for rung, scored in enumerate(scores)]
            if all(line is not None for line in lines):
                writer.writerows(line for line in lines if line is not None)
                file.flush()
            say(f"{number + 1}/{len(wanted)} {name} {text[:100]}")


def retime(recorder: Recorder, wanted: Sequence[Setting], count: int, out: Path, say: Callable[[str], None]) -> None:
    """Replace the seconds of all rows by the median over `count` settings of the same method, scored again one after the other.

    Settings of one method cost the same where nothing is trained; what else the machine did in the hours of recording should not count.
    """
    medians: dict[tuple[str, str], list[float]] = {}
    for method in dict.fromkeys(name for name, _ in wanted):
        settings = [setting for name, setting in wanted if name == method]
        chosen = [settings[at] for at in np.linspace(0, len(settings) - 1, count).round().astype(int)]
        taken = [[(scored.seconds, scored.whole) for scored in recorder.score(method, setting)] for setting in chosen]
        for rung, pair in enumerate(np.median(taken, axis=0).round(4).tolist()):
            medians[method, str(rung)] = pair
            say(f"{method}, rung {rung}: {pair[0]} s from the rung before, {pair[1]} s at once")
    rows = _read(out)
    for row in rows:
        row["seconds"], row["whole"] = (str(value) for value in medians[row["anonymizer"], row["rung"]])
    part = out.with_name(out.name + ".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(out)


def _line(name: str, text: str, rung: int, eta: int, scored: Scored) -> list[str | int | float] | None:
    """One row of the table; None when the setting has no privacy or utility."""
    found: list[str | int | float] = []
    for key in ("privacy", "utility"):
        value = scored.metrics[key]
        if not value.ok:
            return None
        low, high = (value.value if np.isnan(end) else end for end in (value.lo, value.hi))
        found += [round(value.value, 5), round(low, 5), round(high, 5)]
    return [name, text, rung, eta, *found, round(scored.seconds, 4), round(scored.whole, 4)]


def _read(out: Path) -> list[dict[str, str]]:
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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
    parser.add_argument(
        "--retime", type=int, metavar="N", help="time N settings of each method again, score nothing anew"
    )
    arguments = parser.parse_args(words)
    ladder = Ladder(arguments.rungs, arguments.eta)
    try:
        recorder = Recorder(arguments.data, arguments.models, ladder, arguments.out.parent)
        wanted = list(grid_of(load_space(arguments.space), arguments.steps))
        if arguments.retime:
            retime(recorder, wanted, arguments.retime, arguments.out, _say)
        else:
            record(recorder, wanted, arguments.eta, arguments.out, _say)
    except RaysweepError as error:
        _say(f"{parser.prog}: {error}")
        return 2
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
