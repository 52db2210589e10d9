"""Searches in simulated time, on a table of settings that were once scored at every rung: hundreds of trials in seconds.

    python -m raysweep.search.simulate TABLE.csv --seeds 10

compares the default search, with and without early stopping, with random search at full fidelity: hypervolume at the same budget, and the
budget at which random search's hypervolume is reached (ratios R21 and R22). `--record` makes the table (see `raysweep.search.recorded`).
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raysweep.engine.record import TrialRecord
from raysweep.errors import DataError
from raysweep.metrics.front import hypervolume, nondominated
from raysweep.metrics.value import MetricValue
from raysweep.search.fidelity import Ladder
from raysweep.search.parameters import Float, Value
from raysweep.search.sampler import Proposal, Proposer
from raysweep.search.scheduler import Halving, Rated
from raysweep.search.space import Space, canonical_hash

__all__ = ["Table", "Trace", "main", "read_table", "simulate"]


@dataclass(frozen=True)
class Score:
    """One setting at one rung: what it is worth, and what it costs to get there from the rung before and straight away, in seconds."""

    rated: Rated
    seconds: float
    whole: float


@dataclass(frozen=True)
class Table:
    """Scores of a finite set of settings.

    Attributes:
        ladder: the rungs that were scored.
        scores: (anonymizer, canonical setting) -> one score per rung.
        grid: anonymizer -> real parameter -> the values scored; a proposal is moved to the nearest.
    """

    ladder: Ladder
    scores: Mapping[str, tuple[Score, ...]]
    grid: Mapping[str, Mapping[str, tuple[float, ...]]]

    def snap(self, anonymizer: str, setting: Mapping[str, Value]) -> dict[str, Value]:
        """The nearest setting of the table."""
        moved = dict(setting)
        for name, values in self.grid.get(anonymizer, {}).items():
            wanted = float(moved[name])
            moved[name] = min(values, key=lambda value: abs(value - wanted))
        return moved

    def key(self, anonymizer: str, setting: Mapping[str, Value]) -> str:
        """Of the nearest setting."""
        return canonical_hash([anonymizer, self.snap(anonymizer, setting)])

    @property
    def best(self) -> float:
        """Hypervolume of everything at full fidelity."""
        return hypervolume([scores[-1].rated.point for scores in self.scores.values()])


@dataclass(frozen=True)
class Trace:
    """Hypervolume of the settings scored in full, by worker seconds spent.

    Attributes:
        seconds: ascending, after each full score.
        volume: the same length, never falling.
        started, finished: how many settings were begun, and scored in full.
    """

    seconds: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    started: int
    finished: int

    def at(self, budget: float) -> float:
        """Hypervolume when `budget` worker seconds were spent."""
        place = int(np.searchsorted(self.seconds, budget, side="right"))
        return float(self.volume[place - 1]) if place else 0.0

    def reaches(self, volume: float) -> float:
        """Worker seconds at which `volume` is reached; infinite when never."""
        places = np.flatnonzero(self.volume >= volume - 1e-12)
        return float(self.seconds[places[0]]) if len(places) else float("inf")


def simulate(
    table: Table,
    space: Space,
    *,
    sampler: str,
    ladder: Ladder,
    seed: int,
    budget: float,
    workers: int = 2,
    trials: int = 10_000,
    trust: float = 0.5,
) -> Trace:
    """Run one search until `budget` worker seconds are spent.

    Args:
        table: scores of every setting of the space.
        space: what is searched.
        sampler: as in `raysweep.search.sampler`.
        ladder: `Ladder(1)` for full fidelity, or the table's own.
        seed: of the sampler.
        budget: worker seconds, all workers together.
        workers: that run trials side by side.
        trials: the number the sampler is told to plan for.
        trust: of `Halving`.
    """
    if ladder.rungs not in (1, table.ladder.rungs):
        raise DataError(f"the table has {table.ladder.rungs} rungs, not {ladder.rungs}")
    proposer = Proposer(space, sampler=sampler, seed=seed, trials=trials, key_of=lambda a, s, _: table.key(a, s))
    halving = Halving(ladder, trust)
    events: list[tuple[float, int, Proposal, int]] = []
    spent = 0.0
    done: list[tuple[float, tuple[float, ...]]] = []

    def scores_of(proposal: Proposal) -> tuple[Score, ...]:
        rungs = table.scores[table.key(proposal.anonymizer, proposal.setting)]
        return rungs if ladder.rungs > 1 else (replace(rungs[-1], seconds=rungs[-1].whole),)

    def start(now: float) -> None:
        proposal = proposer.ask()
        if proposal is not None:
            heapq.heappush(events, (now + scores_of(proposal)[0].seconds, proposal.number, proposal, 0))

    for _ in range(workers):
        start(0.0)
    while events and spent < budget:
        now, _, proposal, rung = heapq.heappop(events)
        scores = scores_of(proposal)
        spent += scores[rung].seconds
        key = table.key(proposal.anonymizer, proposal.setting)
        if halving.climbs(key, rung, scores[rung].rated):
            heapq.heappush(events, (now + scores[rung + 1].seconds, proposal.number, proposal, rung + 1))
            continue
        if rung + 1 == ladder.rungs:
            done.append((spent, scores[rung].rated.point))
        proposer.tell(_record(proposal, key, scores, rung))
        start(now)
    volumes = []
    front: list[tuple[float, ...]] = []
    for _, point in done:
        front.append(point)
        keep = nondominated(front)
        front = [item for item, kept in zip(front, keep, strict=True) if kept]
        volumes.append(hypervolume(front))
    return Trace(np.array([at for at, _ in done]), np.array(volumes), proposer.number, len(done))


def _record(proposal: Proposal, key: str, scores: Sequence[Score], rung: int) -> TrialRecord:
    """The record of a trial that ended on a rung, as a sweep would keep it."""
    full = rung + 1 == len(scores)
    passed = [
        {
            "privacy": item.rated.point[0],
            "privacy_hi": item.rated.upper[0],
            "utility": item.rated.point[1],
            "utility_hi": item.rated.upper[1],
        }
        for item in scores[: rung if full else rung + 1]
    ]
    point = scores[rung].rated.point
    metrics = {"privacy": MetricValue(point[0]), "utility": MetricValue(point[1])} if full else {}
    return TrialRecord(
        key=key,
        number=proposal.number,
        anonymizer=proposal.anonymizer,
        setting=proposal.setting,
        fidelity={},
        state="complete" if full else "stopped",
        metrics=metrics,
        rungs=tuple(passed),
    )


def read_table(path: Path, space: Space) -> Table:
    """A table as `raysweep.search.recorded` writes it.

    Raises:
        DataError: columns are missing, or a value is not a number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    try:
        rungs = 1 + max(int(row["rung"]) for row in rows)
        eta = int(rows[0]["eta"])
        scores: dict[str, dict[int, Score]] = {}
        values: dict[str, dict[str, set[float]]] = {}
        for row in rows:
            setting: dict[str, Value] = json.loads(row["setting"])
            rated = Rated(
                (float(row["privacy"]), float(row["utility"])), (float(row["privacy_hi"]), float(row["utility_hi"]))
            )
            key = canonical_hash([row["anonymizer"], setting])
            scores.setdefault(key, {})[int(row["rung"])] = Score(rated, float(row["seconds"]), float(row["whole"]))
            arm = next(arm for arm in space.arms if arm.anonymizer == row["anonymizer"])
            for name, item in arm.ranges.items():
                if isinstance(item, Float):
                    values.setdefault(arm.anonymizer, {}).setdefault(name, set()).add(float(setting[name]))
    except (KeyError, ValueError, StopIteration) as error:
        raise DataError(f"{path}: not a table of recorded scores: {error!r}") from error
    grid = {method: {name: tuple(sorted(found)) for name, found in names.items()} for method, names in values.items()}
    complete = {
        key: tuple(found[rung] for rung in range(rungs)) for key, found in scores.items() if len(found) == rungs
    }
    return Table(Ladder(rungs, eta), complete, grid)


def compare(
    table: Table, space: Space, *, seeds: int, share: float, say: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """R21 and R22 of each strategy against random search at full fidelity, over paired seeds.

    Args:
        table, space: what is searched.
        seeds: how many pairs.
        share: of the settings that random search scores within the budget.
        say: told each line.
    """
    full = float(np.sum([scores[-1].whole for scores in table.scores.values()]))
    budget = share * full
    say(
        f"{len(table.scores)} settings, {table.ladder.rungs} rungs, hypervolume of all {table.best:.4f}, budget {budget:.0f} worker seconds"
    )
    strategies: dict[str, tuple[str, Ladder]] = {
        "random": ("random", Ladder(1)),
        "tpe": ("tpe", Ladder(1)),
        "random + halving": ("random", table.ladder),
        "tpe + halving": ("tpe", table.ladder),
    }
    results: dict[str, dict[str, list[float]]] = {
        name: {"volume": [], "ratio": [], "budget": [], "started": [], "finished": []} for name in strategies
    }
    planned = max(20, int(share * len(table.scores)))
    for seed in range(seeds):
        traces = {
            name: simulate(
                table, space, sampler=sampler, ladder=ladder, seed=seed, budget=budget,
                trials=len(table.scores) if ladder.rungs > 1 else planned * 2,
            )
            for name, (sampler, ladder) in strategies.items()
        }  # fmt: skip
        base = traces["random"].at(budget)
        for name, trace in traces.items():
            found = results[name]
            found["volume"].append(trace.at(budget))
            found["ratio"].append(trace.at(budget) / base)
            found["budget"].append(trace.reaches(base) / budget)
            found["started"].append(trace.started)
            found["finished"].append(trace.finished)
    for name, found in results.items():
        low = _lower_bound(found["ratio"])
        say(
            f"{name:18s} hypervolume {np.median(found['volume']):.4f}  ratio {np.median(found['ratio']):.3f} "
            f"(lower 95 % bound of the mean {low:.3f})  budget to random's {np.median(found['budget']):.2f}  "
            f"settings {np.median(found['started']):.0f} begun, {np.median(found['finished']):.0f} in full"
        )
    return results


def _lower_bound(ratios: Sequence[float]) -> float:
    """Of the mean ratio over paired seeds, one-sided 95 %, by bootstrap."""
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios))).mean(axis=1)
    return float(np.quantile(draws, 0.05))


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    from raysweep.search.space import load_space

    parser = argparse.ArgumentParser(prog="python -m raysweep.search.simulate")
    parser.add_argument("table", type=Path)
    parser.add_argument("--space", type=Path, required=True, help="search space that the table was made from")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.3, help="of the settings that random search gets through")
    arguments = parser.parse_args(words)
    space = load_space(arguments.space)
    compare(
        read_table(arguments.table, space),
        space,
        seeds=arguments.seeds,
        share=arguments.share,
        say=lambda line: print(line, file=sys.stdout),  # noqa: T201
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
