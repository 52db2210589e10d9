"""What a sweep would take on this machine: a short calibration with the sweep's own workers, and the forecast that follows from it.

Where the faces are prepared already, the workers load them as they would for the sweep. Where they are not, or where loading them would take
long, a few of them are prepared in a temporary folder by the same pass; people are then made up (what a face costs does not depend on
whose it is), and the referee is timed on made-up measurements of the full size.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from raysweep import pipeline
from raysweep.anonymizers.registry import trains_in_stages
from raysweep.config import RunSettings, SweepConfig
from raysweep.data.shards import is_shard_set, open_shards, write_shards
from raysweep.data.source import Source
from raysweep.engine.cache import cache_root
from raysweep.engine.calibration import Judging, Survey, calibration_worker, judging, surveys
from raysweep.engine.forecast import ArmRates, Forecast, Rates, Scope, Span, forecast, forecast_key
from raysweep.engine.items import CHUNK_ROWS, work_items
from raysweep.engine.pools import LocalPool, Pool, RayPool, default_workers
from raysweep.engine.record import TrialTask
from raysweep.engine.references import ReferenceStore
from raysweep.engine.session import cpu_share
from raysweep.engine.worker import WorkerPlan
from raysweep.errors import DataError
from raysweep.faces import cores_and_gpus, find_faces, frame_of, session, shares_of
from raysweep.models.zoo import Zoo
from raysweep.provenance import identity_of, protocol_of
from raysweep.schema import Frame
from raysweep.search.fidelity import Ladder
from raysweep.search.sampler import Proposer
from raysweep.search.space import canonical_hash
from raysweep.storage.entries import far_cache
from raysweep.sweep import planned_trials

__all__ = ["LIMIT_S", "Outlook", "look_ahead"]

LIMIT_S = 20.0
"""For measuring; starting Ray and the workers comes on top, as it does in the sweep."""
STEP_LIMIT_S = 120.0
"""After which a worker that still works on one setting is ended: a setting so slow is not foretold."""
WHOLE_ROWS = 20_000
"""More prepared faces are not loaded for a calibration."""
SAMPLE_ROWS, LEAST_ROWS, SAMPLE_IMAGES = 240, 96, 4
"""Faces of a sample, fewest of them, and how many are given to each made-up person."""
JUDGED_ROWS = 6000
"""More made-up faces are not judged; what more of them would take follows from two smaller numbers."""
DRAWS = 64
ROLES_SHARE = 0.90
"""Of the faces, those that a trial anonymizes by default: all but role G."""


@dataclass(frozen=True)
class Outlook:
    """A forecast and what it was made from.

    Attributes:
        forecast: seconds, bytes, trials per rung.
        rates: of the calibration.
        work: of the sweep.
        machines: of the session, for the price.
        batch: faces per forward pass.
        key: under which the forecast is kept, see `engine.forecast`.
    """

    forecast: Forecast
    rates: Rates
    work: Scope
    machines: int
    batch: int
    key: str


@dataclass(frozen=True)
class _Place:
    """Faces that the workers of a calibration load.

    Attributes:
        store: of all faces, or of a sample.
        name, synthetic: of the data set.
        whole: all of them.
        shard_s: seconds to read or draw an image.
        first_s, row_s: of the preparing pass: until its first faces, and per face.
        shard_bytes, store_bytes: per image.
        images: of each person.
        shares: of people per role.
    """

    store: ReferenceStore
    name: str
    whole: bool
    shard_s: float = 0.0
    first_s: float = 0.0
    row_s: float = 0.0
    shard_bytes: float = 0.0
    store_bytes: float = 0.0
    images: int = SAMPLE_IMAGES
    shares: Any = None


@dataclass(frozen=True)
class _Sample:
    """The first images of a source, given to made-up people."""

    source: Source
    taken: list[dict[str, object]] = field(repr=False)

    kind = "parquet"

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def licence(self) -> str:
        return self.source.licence

    @property
    def synthetic(self) -> bool:
        return self.source.synthetic

    def __len__(self) -> int:
        return len(self.taken)

    def digest(self) -> str:
        return canonical_hash([self.source.digest(), "sample", len(self.taken)], 64)

    def rows(self) -> Iterator[dict[str, object]]:
        for place, row in enumerate(self.taken):
            yield {**row, "identity": f"person {place // SAMPLE_IMAGES:04d}"}


def look_ahead(
    config: SweepConfig, tell: Callable[[str], None], *, address: str | None = None, limit_s: float = LIMIT_S
) -> Outlook:
    """Calibrate and foretell.

    Args:
        config: of the sweep.
        tell: called with a line of progress.
        address: of a running Ray cluster; None for a local one.
        limit_s: for measuring.

    Raises:
        RaysweepError: the sweep could not run, or nothing could be measured.
    """
    began = time.monotonic()
    run = config.run
    source, zoo = find_faces(config.data, config.kind, config.models)
    frame = frame_of(run, source.synthetic)
    draws = _draws(config)
    tell("calibrating: starting " + ("Ray" if run.engine == "ray" else "in this process"))
    with session(run, address, tell), _temporary() as folder:
        session_s = time.monotonic() - began
        workers = 1 if run.engine == "local" else run.workers or default_workers(*cores_and_gpus(run.engine))
        place = _prepared(source, zoo, frame, run) or _sampled(source, zoo, frame, run, workers, folder, tell)
        plan = _plan(run, zoo, place, workers)
        tell(f"calibrating: loading models into {workers} workers")
        started = time.monotonic()
        with _pool(plan, run, workers) as pool:
            pool_s = time.monotonic() - started
            work, people = _work(config, place, len(source), workers)
            tell("calibrating: a few settings, few steps, few faces")
            found, problems = surveys(pool, _tasks(config, draws, workers), len(draws), 0.75 * limit_s)
            missing = set(draws) - {item.anonymizer for item in found}
            if missing:
                lines = [f"no setting of {', '.join(sorted(missing))} could be measured:", *dict.fromkeys(problems)]
                raise DataError("\n".join(lines))
            judged, once_s, judge_share = _judging(pool, run, place, work, people)
        tune_s = _tune_s(run)
        machines = _machines(run)
    # Each worker does everything for a first time, all of them side by side.
    first_s = once_s + sum(item.warm_s for item in found) / workers
    total = planned_trials(config.space, run)
    rates = Rates(
        arms=tuple(_arm(name, share * total, settings, found, work) for name, (share, settings) in draws.items()),
        start_s=Span.about(session_s + pool_s + tune_s + first_s, 0.25),
        prepare_s=Span.about(_prepare_s(place, len(source)), 0.0 if place.whole else 0.25),
        judge_s=tuple(Span.about(item.judge_s, judge_share) for item in judged),
        store_bytes=place.store_bytes * len(source),
        shard_bytes=place.shard_bytes * len(source),
        prepared=place.whole,
        evidence_bytes=judged[-1].evidence_bytes,
        record_bytes=judged[-1].record_bytes + _curve_bytes(draws, found),
        controls=_controls(config),
        seconds=time.monotonic() - began,
        notes=tuple(f"failed: {line}" for line in dict.fromkeys(problems)),
    )
    key = forecast_key(identity_of(config, source, zoo), run)
    return Outlook(forecast(work, rates), rates, work, machines, run.measure_batch, key)


# --------------------------------------------------------------------- what is asked
Draws = dict[str, tuple[float, list[dict[str, Any]]]]
"""By anonymizer: its share of the trials, and settings of it in a random order."""


def _draws(config: SweepConfig) -> Draws:
    """Settings as the sweep may propose them; a study's own."""
    space, run = config.space, config.run
    blind = replace(space, arms=tuple(replace(arm, try_first=()) for arm in space.arms))
    listed = sum(len(arm.settings) for arm in space.arms)
    proposer = Proposer(
        blind,
        sampler="random",
        seed=run.seed,
        trials=min(listed + DRAWS, planned_trials(space, run)),
        key_of=lambda name, setting, repeat: canonical_hash([name, dict(setting), repeat], 16),
    )
    drawn = list(iter(proposer.ask, None))
    counts = Counter(proposal.anonymizer for proposal in drawn)
    order = np.random.default_rng(run.seed).permutation(len(drawn)).tolist()
    return {
        name: (
            count / len(drawn),
            [dict(drawn[place].setting) for place in order if drawn[place].anonymizer == name],
        )
        for name, count in counts.items()
    }


def _tasks(config: SweepConfig, draws: Draws, workers: int) -> list[TrialTask]:
    """One setting of each anonymizer, then another of each, and so on."""
    extras = protocol_of(config.run).extras
    columns = [
        [(name, setting) for setting in itertools.islice(itertools.cycle(settings), max(len(settings), workers))]
        for name, (_, settings) in draws.items()
    ]
    rounds = itertools.zip_longest(*columns)
    chosen = [item for turn in rounds for item in turn if item is not None]
    return [
        TrialTask(f"calibration-{number}", number, name, setting, config.run.seed + number, extras=extras)
        for number, (name, setting) in enumerate(chosen)
    ]


def _controls(config: SweepConfig) -> int:
    from raysweep.anonymizers.registry import get_anonymizer

    return 2 + sum(get_anonymizer(arm.anonymizer, allow_file=True).trains for arm in config.space.arms)


# --------------------------------------------------------------------- faces
@contextmanager
def _temporary() -> Iterator[Path]:
    """A folder in the cache, which machines of a cluster share; `cache purge` removes what a killed process leaves there."""
    parent = cache_root() / "references"
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".00000000.writing-", dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _prepared(source: Source, zoo: Zoo, frame: Frame, run: RunSettings) -> _Place | None:
    """The data set's own store, when it is there and can be loaded quickly."""
    folder = cache_root() / "shards" / source.digest()[:32]
    if len(source) > WHOLE_ROWS or not is_shard_set(folder):
        return None
    try:
        shards = open_shards(folder)
    except DataError:
        return None  # damaged: the sweep writes them again
    if shards.dropped and run.conflicts != "drop":
        return None
    store = ReferenceStore.at(shards, frame, zoo)
    if not store.exists():
        return None
    size = sum(shard.size for shard in shards.shards) / len(shards)
    return _Place(
        store,
        source.name,
        True,
        shard_bytes=size,
        store_bytes=_bytes_under(store.folder) / len(shards),
        shares=shares_of(run),
    )


def _sampled(
    source: Source, zoo: Zoo, frame: Frame, run: RunSettings, workers: int, folder: Path, tell: Callable[[str], None]
) -> _Place:
    """A few images, prepared as the sweep would prepare all of them."""
    if run.engine == "ray" and far_cache() is not None:
        raise DataError(
            "a sample cannot be shared with the machines that read an object store: prepare the faces first"
        )
    wanted = min(SAMPLE_ROWS, len(source))
    tell(f"calibrating: preparing {wanted} of {len(source):,} images")
    started = time.monotonic()
    taken, people = [], Counter[str]()
    for row in itertools.islice(source.rows(), wanted):
        taken.append(row)
        people[str(row["identity"])] += 1
    shards = write_shards(_Sample(source, taken), folder / "shards", conflicts="drop")
    shard_s = (time.monotonic() - started) / len(taken)
    store = ReferenceStore.at(shards, frame, zoo, folder / "references")
    marks: list[tuple[float, int]] = []

    def progress(done: int, total: int) -> None:
        marks.append((time.monotonic(), done))

    if run.engine == "ray":
        pipeline.prepare(shards, zoo, frame, store, workers=workers, progress=progress)
    else:
        pipeline.prepare_local(shards, zoo, frame, store, progress=progress)
    (began, _), (first_at, first), (last_at, last) = marks[0], marks[min(1, len(marks) - 1)], marks[-1]
    # Where there was but one block, start and work cannot be told apart.
    row_s = (last_at - first_at) / (last - first) if last > first else (last_at - began) / max(1, last)
    return _Place(
        store,
        source.name,
        False,
        shard_s=shard_s,
        first_s=max(0.0, first_at - began - first * row_s),
        row_s=row_s,
        shard_bytes=sum(shard.size for shard in shards.shards) / len(shards),
        store_bytes=_bytes_under(store.folder) / len(shards),
        images=int(np.clip(np.median(list(people.values())), 3, 50)),
    )


def _prepare_s(place: _Place, faces: int) -> float:
    return 0.0 if place.whole else place.first_s + faces * (place.shard_s + place.row_s)


def _bytes_under(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


# --------------------------------------------------------------------- workers
def _plan(run: RunSettings, zoo: Zoo, place: _Place, workers: int) -> WorkerPlan:
    return WorkerPlan(
        references=str(place.store.folder),
        zoo=zoo,
        dataset=place.name,
        seed=run.seed,
        shares=place.shares,
        need_privacy=True,
        protocol=protocol_of(run),
        batch_size=run.measure_batch,
        precision=run.measure_precision,
        threads=run.threads or (cpu_share(workers) if run.engine == "ray" else os.cpu_count() or 1),
        ladder=Ladder(run.rungs, run.eta) if place.whole else Ladder(),
    )


@contextmanager
def _pool(plan: WorkerPlan, run: RunSettings, workers: int) -> Iterator[Pool]:
    """As of the sweep; a worker that takes too long over one setting is ended."""
    if run.engine == "local":
        yield LocalPool(plan, STEP_LIMIT_S, calibration_worker)
        return
    gpus = cores_and_gpus("ray")[1]
    pool = RayPool(plan, workers, float(min(gpus, workers)), STEP_LIMIT_S, calibration_worker)
    try:
        pool.wait_ready(lambda ready: None)
        yield pool
    finally:
        pool.close()


def _tune_s(run: RunSettings) -> float:
    """Seconds until Ray Tune's first trial runs: it is imported here, and once more by the process of the trial."""
    if run.engine != "ray":
        return 0.0
    started = time.monotonic()
    import_module("raysweep.search.tuner")
    return 2 * (time.monotonic() - started)


def _machines(run: RunSettings) -> int:
    if run.engine != "ray":
        return 1
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"]) or 1


def _work(config: SweepConfig, place: _Place, faces: int, workers: int) -> tuple[Scope, int]:
    """What there is to do, exactly where the faces are prepared; and images of each person."""
    run, ladder = config.run, Ladder(config.run.rungs, config.run.eta)
    trials = planned_trials(config.space, run)
    if place.whole:
        loaded = place.store.load(dataset=place.name, seed=run.seed, shares=place.shares).faces
        items = work_items(loaded, protocol_of(run), ladder, run.seed)
        rows = tuple(sum(map(len, chunks)) for chunks in items)
        count = sum(map(len, items))
    else:
        shares = [0.0, *ladder.shares]
        whole = faces * _scored_share(run)
        rows = tuple(round(whole * (now - before)) for before, now in itertools.pairwise(shares))
        count = max(1, round(sum(rows) / CHUNK_ROWS))
    return Scope(trials, workers, rows, count, ladder, run.budget), place.images


def _scored_share(run: RunSettings) -> float:
    return ROLES_SHARE if run.roles is None else run.roles.T + run.roles.S + run.roles.E


def _judging(
    pool: Pool, run: RunSettings, place: _Place, work: Scope, images: int
) -> tuple[list[Judging], float, float]:
    """What judging costs on each rung; what each worker spends once; and how far off the first may be."""
    task = TrialTask("calibration", -1, "identity", {}, run.seed, "identity")
    if place.whole:
        lower = [judging(pool, task, "judged", rung) for rung in range(len(work.rows) - 1)]
        judged = [judging(pool, task, "judged", None), *lower]
        return [*lower, judged[0]], sum(item.clear_s + item.warm_s for item in judged), 0.1
    sizes = np.cumsum(work.rows).tolist()
    largest = min(sizes[-1], JUDGED_ROWS)
    # Roles of made-up faces: G is a tenth of them.
    full = judging(pool, task, "judged_made_up", round(largest / ROLES_SHARE), images)
    half = judging(pool, task, "judged_made_up", round(largest / ROLES_SHARE / 2), images)
    power = float(np.clip(np.log2(full.judge_s / half.judge_s), 0.3, 2.0))
    scaled = [
        replace(
            full,
            judge_s=full.judge_s * (size / largest) ** power,
            evidence_bytes=round(full.evidence_bytes * size / largest),
        )
        for size in sizes
    ]
    once_s = full.warm_s + full.clear_s * (sizes[-1] / largest) ** power
    return scaled, once_s, 0.15 if largest == sizes[-1] else 0.35


def _arm(
    name: str, trials: float, settings: Sequence[dict[str, Any]], found: Sequence[Survey], work: Scope
) -> ArmRates:
    """The mean over the settings that were measured, each at the mean number of steps of those that may come."""
    own = [item for item in found if item.anonymizer == name]
    steps = float(np.mean([float(setting.get("steps", 0)) for setting in settings]))
    extras = [item.extras_s * sum(work.rows) / item.extras_rows if item.extras_rows else 0.0 for item in own]
    return ArmRates(
        name,
        trials,
        len(own),
        fit_s=_span([item.fixed_s + item.step_s * steps for item in own], trials),
        anonymize_s=_span([item.anonymize_s for item in own], trials),
        measure_s=_span([item.measure_s for item in own], trials),
        extras_s=_span(extras, trials),
        state_bytes=max(item.state_bytes for item in own),
        fixed_s=_span([item.fixed_s for item in own], trials),
        staged=float(np.mean([trains_in_stages(name, setting) for setting in settings])),
    )


def _span(values: Sequence[float], trials: float) -> Span:
    """The mean of all trials, by those that were measured: two standard errors, and never less than the jitter of a machine."""
    mean = float(np.mean(values))
    if len(values) < 2 or mean <= 0:
        return Span.about(mean, 0.2)
    error = float(np.std(values, ddof=1)) * (1 / len(values) + 1 / max(1.0, trials)) ** 0.5 / mean
    return Span.about(mean, min(0.9, max(0.1, 2 * error)))


def _curve_bytes(draws: Draws, found: Sequence[Survey]) -> float:
    """Training curves of a record."""
    total = 0.0
    for name, (share, settings) in draws.items():
        steps = float(np.mean([float(setting.get("steps", 0)) for setting in settings]))
        own = [item.curve_bytes for item in found if item.anonymizer == name] or [0.0]
        total += share * steps * float(np.mean(own))
    return total
