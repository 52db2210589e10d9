"""Apply one point to a whole data set: point -> faces -> what the trial learned -> the pass -> a folder with a manifest.

`anonymize` reads from top to bottom; the pass itself is `pipeline.release`, its rows are `engine.apply`, its folder is `engine.parts`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.anonymizers.base import Anonymizer, FitContext, State, Teachers
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.data.shards import ShardSet, write_shards
from raysweep.data.source import Source, open_source
from raysweep.data.strings import shared_strings
from raysweep.engine.apply import Method, Output, Shared
from raysweep.engine.parts import Counts, Part, PartsFolder, image_names
from raysweep.engine.point import Point
from raysweep.engine.references import ReferenceStore, cache_root, take_faces
from raysweep.engine.states import StateStore, state_digest
from raysweep.engine.worker import pick_device
from raysweep.errors import ConfigError, DataError, StoreError, TrialError
from raysweep.faces import frame_of, session, shares_of
from raysweep.models.zoo import Zoo, open_zoo
from raysweep.preprocess.actors import read_slice
from raysweep.preprocess.rows import Recipe, recipe_for
from raysweep.preprocess.tools import open_tools, tool_names
from raysweep.provenance import anonymizer_digest, code_digest, versions

if TYPE_CHECKING:
    import torch

    from raysweep.schema import AlignedFaces
    from raysweep.tracking.terminal import LiveView

__all__ = ["Released", "anonymize"]

PART_BYTES = 16 * 2**20
"""Of a source shard that make one part: some seconds of work, and what a kill at the wrong moment costs at most per worker."""
PART_ROWS = 128
CURVE_TOLERANCE = 1e-3
"""Training again on other hardware may differ in the last digits of a loss; more is another training."""


@dataclass(frozen=True)
class Released:
    """What `anonymize` leaves.

    Attributes:
        folder: of the user.
        counts: what became of the rows.
        parts, served: how many there are, and how many of them were there already.
        notes: what a person should know, also in the manifest.
    """

    folder: Path
    counts: Counts
    parts: int
    served: int
    notes: tuple[str, ...]


@dataclass
class _Fitted:
    state: State = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def anonymize(
    point: Point,
    *,
    data: str | None,
    kind: str | None,
    models: str | None,
    out: Path,
    layout: Literal["shards", "images"],
    output: Output,
    view: LiveView,
    engine: Literal["ray", "local"] = "ray",
    workers: int | None = None,
    address: str | None = None,
    anyway: bool = False,
) -> Released:
    """Apply a point to a data set.

    Args:
        point: what to apply, from `find_point`.
        data, kind, models: as on the command line.
        out: target; empty, not there, or a release of the same that was interrupted.
        layout: Parquet shards, or image files in the tree of the source.
        output: what is written of each row.
        view: told of the progress.
        engine: Ray Data with an actor pool, or this process.
        workers: actors; None for one per core.
        address: of a running Ray cluster.
        anyway: apply it although the method is not what the sweep measured.

    Raises:
        RaysweepError: the point, the data, the models or the target cannot do; before any face is read, where that can be known.
    """
    anonymizer = get_anonymizer(point.anonymizer, allow_file=point.typed)(**point.setting)
    source = open_source(data, kind=kind)
    _check(point, anonymizer, source, output)
    zoo = open_zoo(models).for_data(synthetic=source.synthetic, needs=() if source.synthetic else ("detector",))
    notes = _differences(point, zoo, anyway)
    with session(point.run.model_copy(update={"engine": engine, "workers": workers, "gpus": None}), address):
        shards = _shards(source, view)
        frame = frame_of(point.run, source.synthetic if point.stored is None else point.stored.info.synthetic)
        recipe = recipe_for(_first_row(shards), frame, open_tools(zoo), models=not shards.synthetic)
        if not anonymizer.needs:
            recipe = Recipe(frame)  # nobody is left out for want of landmarks that nobody looks at
        _check_needs(anonymizer, recipe.landmarks, recipe.mask, shards)
        fitted = _fit(point, anonymizer, shards, zoo, engine, workers, view, anyway)
        notes += _remarks(anonymizer, output, zoo, layout)
        method = Method(
            point.anonymizer,
            point.setting,
            point.seed,
            point.run.assignment == "per_identity",
            shards.synthetic,
            point.typed,
        )
        about = _about(point, anonymizer, method, fitted, zoo, shards, frame.size, frame.margin, output)
        names = _names(shards, output) if layout == "images" else {}
        folder = PartsFolder(out, layout, about, _parts(shards), names)
        people = set(_labels(shards, "identity")["identity"]) - {None}
        persons = {name: index for index, name in enumerate(sorted(people))}
        shared = Shared(fitted.state, persons)
        with folder.writing() as todo:
            total = sum(part.rows for part in todo)
            served = len(folder.done)
            if served:
                view.note(f"{served} parts are there already and are what they were when they were written")
            view.stage("anonymizing", 0, total)
            done = 0
            for table in _pass(engine, todo, zoo, recipe, method, output, shared, workers):
                folder.add(table)
                done += len(table)
                view.stage("anonymizing", done, total)
            shard_set = {
                "name": shards.name,
                "kind": shards.kind,
                "licence": shards.licence,
                "synthetic": shards.synthetic,
                "source_digest": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest(),
            }
            counts = folder.finish({**about, "notes": notes}, shard_set)
    return Released(out, counts, len(folder.done), served, tuple(notes))


def _pass(
    engine: str,
    todo: Sequence[Part],
    zoo: Zoo,
    recipe: Any,
    method: Method,
    output: Output,
    shared: Shared,
    workers: int | None,
) -> Iterator[pa.Table]:
    from raysweep import pipeline

    if not todo:
        return iter(())
    if engine == "ray":
        return pipeline.release(todo, zoo, recipe, method, output, shared, workers=workers)
    return pipeline.release_local(todo, zoo, recipe, method, output, shared)


# --------------------------------------------------------------------- checks
def _check(point: Point, anonymizer: Anonymizer, source: Source, output: Output) -> None:
    """What can be known before any face is read."""
    problems = []
    if point.anonymizer == "identity":
        problems.append("identity changes nothing: what it wrote would be the clear faces")
    if anonymizer.releases == "group" and not output.crops:
        problems.append(
            f"{point.anonymizer} makes people alike within the crop; in their own photographs, hair and surroundings tell them apart again: "
            "add --crops"
        )
    if output.crops and output.keep_undetected:
        problems.append("--keep-undetected passes on whole photographs, --crops writes crops: leave one out")
    if point.stored is not None and point.stored.info.synthetic != source.synthetic and anonymizer.trains:
        kinds = ("drawn", "photographed") if point.stored.info.synthetic else ("photographed", "drawn")
        problems.append(f"{point.words} learned from {kinds[0]} faces, {source.name} has {kinds[1]} ones")
    if problems:
        raise ConfigError(problems)


def _check_needs(anonymizer: Anonymizer, landmarks: str, mask: str, shards: ShardSet) -> None:
    problems = []
    if "landmarks" in anonymizer.needs and landmarks == "none":
        problems.append(
            f"{anonymizer.name} needs dense landmarks (a 68- or 106-point model in --models, or the MediaPipe extra); {shards.name} has none"
        )
    if "mask" in anonymizer.needs and mask == "none":
        problems.append(
            f"{anonymizer.name} needs parsing masks (a BiSeNet file in --models, or data that bring them); {shards.name} has none"
        )
    if problems:
        raise ConfigError(problems)


def _differences(point: Point, zoo: Zoo, anyway: bool) -> list[str]:
    """Where the method is not what the sweep measured: refused, or said; other code elsewhere is only said."""
    if point.stored is None:
        return ["the setting was given, not taken from a sweep: how private its results are was not measured here"]
    basis = point.stored.basis
    wrong = []
    then = dict(basis.get("anonymizers") or {}).get(point.anonymizer)
    if then != anonymizer_digest(point.anonymizer):
        wrong.append(f"the code of {point.anonymizer} is not what the sweep measured")
    for family, sha256 in dict(basis.get("generators") or {}).items():
        if family in get_anonymizer(point.anonymizer)(**point.setting).weights_needed():
            now = zoo.generator(family).sha256
            if now != sha256:
                wrong.append(
                    f"the weights {family} are not those that the sweep measured ({sha256[:12]}, now {now[:12]})"
                )
    if wrong and not anyway:
        raise ConfigError([*wrong, "go back to what the sweep used, measure again, or add --anyway"])
    if basis.get("code") != code_digest():
        wrong.append("other parts of raysweep have changed since the sweep")
    return wrong


def _remarks(anonymizer: Anonymizer, output: Output, zoo: Zoo, layout: str) -> list[str]:
    notes = []
    if not output.crops:
        notes.append(
            "sweeps measure aligned crops; a photograph shows more (hair, clothes, surroundings), so that its privacy is lower"
        )
        if "detector" not in tool_names(zoo):
            notes.append("without a detector only the face that a row points at is replaced, nobody beside it")
    if output.keep_undetected:
        notes.append("--keep-undetected: photographs in which no face was found were passed on as they are")
    guarantee = getattr(anonymizer, "guarantee", None)
    if isinstance(guarantee, Mapping) and guarantee.get("guarantee") == "violated":
        notes.append(f"{anonymizer.name}: the promise of 1/k does not hold: {guarantee.get('reason')}")
    where = "paths, identities and expressions" if layout == "images" else "face ids, identities and expressions"
    return [*notes, f"{where} are those of the source"]


# ---------------------------------------------------------------------- faces
def _shards(source: Source, view: LiveView) -> ShardSet:
    if isinstance(source, ShardSet):
        return source
    view.stage("reading faces", 0, len(source))
    shards = write_shards(source, cache_root() / "shards" / source.digest()[:32])
    view.stage("reading faces", len(source), len(source))
    return shards


def _first_row(shards: ShardSet) -> dict[str, Any]:
    for path in shards.paths:
        rows = read_slice(path, 0, 1)
        if rows:
            return rows[0]
    raise DataError(f"{shards.name}: no rows")


def _names(shards: ShardSet, output: Output) -> dict[str, str]:
    """Path of each face's image."""
    labels = _labels(shards, "face_id", "encoding")
    return image_names(labels["face_id"], labels["encoding"], lossless=output.lossless)


def _labels(shards: ShardSet, *names: str) -> dict[str, list[Any]]:
    """Columns that are small, of all rows."""
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for path in shards.paths:
        try:
            table = pq.read_table(path, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a readable shard ({error}); remove the folder and prepare again") from error
        for name in columns:
            columns[name].extend(shared_strings(table[name]))
    return columns


def _parts(shards: ShardSet) -> list[Part]:
    """Rows of one shard each, of about `PART_BYTES`; the same cut for the same data, so that an interrupted release can go on."""
    found: list[Part] = []
    for path, shard in zip(shards.paths, shards.shards, strict=True):
        step = max(1, min(PART_ROWS, PART_BYTES * shard.rows // max(1, shard.size)))
        for start in range(0, shard.rows, step):
            found.append(Part(len(found), path, start, min(step, shard.rows - start)))
    return found


# ------------------------------------------------------------------- learning
def _fit(
    point: Point,
    anonymizer: Anonymizer,
    shards: ShardSet,
    zoo: Zoo,
    engine: str,
    workers: int | None,
    view: LiveView,
    anyway: bool,
) -> _Fitted:
    """What the trial learned: as kept, or learned again from the same faces with the same seed; groups are formed of the new faces."""
    anonymizer.for_faces(shards.synthetic)
    families = anonymizer.weights_needed()
    if families:
        anonymizer.use_weights({family: zoo.generator(family) for family in families})
    if type(anonymizer).fit is Anonymizer.fit:
        return _Fitted()
    if anonymizer.releases == "group" or point.record is None:
        view.note(f"{point.anonymizer} looks at all faces before it can write the first one")
        faces = _prepared(point, shards, zoo, engine, workers, view)
        fitted = _learn(point, anonymizer, faces, zoo, whole=True)
        fitted.facts = {"state": state_digest(fitted.state), "learned_from": "the released faces"}
        anonymizer.load(fitted.state, pick_device())
        promise = getattr(anonymizer, "guarantee", None)
        return _Fitted(
            fitted.state, fitted.facts | ({"guarantee": dict(promise)} if isinstance(promise, Mapping) else {})
        )
    return _of_trial(point, anonymizer, zoo, view, anyway)


def _of_trial(point: Point, anonymizer: Anonymizer, zoo: Zoo, view: LiveView, anyway: bool) -> _Fitted:
    if point.folder is None or point.stored is None or point.record is None:
        raise StoreError(f"{point.words}: not a trial of a run")
    store = StateStore(point.folder)
    kept = store.read(point.record.key)
    if kept is not None:
        return _Fitted(kept, {"state": state_digest(kept), "learned_from": "kept with the run"})
    view.note(f"{point.words}: what it learned was not kept; learning it again from the same faces with the same seed")
    references = ReferenceStore(cache_root() / "references" / str(point.stored.basis.get("references")))
    if not references.exists():
        raise StoreError(
            f"{point.words} learned from {point.stored.info.dataset}, whose prepared faces are no longer in the cache: "
            "`raysweep prepare --data` with the data, models and frame of that sweep brings them back"
        )
    loaded = references.load(
        dataset=point.stored.info.dataset, seed=point.run.seed, shares=shares_of(point.run), need_privacy=False
    )
    fitted = _learn(point, anonymizer, loaded.faces, zoo, whole=False)
    largest = _curve_difference(fitted.facts["curves"], point.record.curves)
    if largest > CURVE_TOLERANCE and not anyway:
        raise TrialError(
            f"{point.words}: learned again, its losses differ from the recorded ones by up to {largest:.2g} of their size: another "
            "library, device or code trained it. Go back to those, measure again, or add --anyway"
        )
    store.write(point.record.key, fitted.state)
    facts = {"state": state_digest(fitted.state), "learned_from": "the faces of the sweep, again"}
    return _Fitted(fitted.state, facts | {"losses_differ_by": largest if math.isfinite(largest) else None})


def _prepared(
    point: Point, shards: ShardSet, zoo: Zoo, engine: str, workers: int | None, view: LiveView
) -> AlignedFaces:
    """All faces of the data set, aligned, memory-mapped."""
    from raysweep import pipeline

    frame = frame_of(point.run, shards.synthetic)
    store = ReferenceStore.at(shards, frame, zoo)

    def progress(done: int, total: int) -> None:
        view.stage("preparing faces", done, total)

    if engine == "ray":
        pipeline.prepare(shards, zoo, frame, store, workers=workers, progress=progress)
    else:
        pipeline.prepare_local(shards, zoo, frame, store, progress=progress)
    return store.load(dataset=shards.name, seed=point.run.seed, shares=shares_of(point.run), need_privacy=False).faces


def _learn(point: Point, anonymizer: Anonymizer, faces: AlignedFaces, zoo: Zoo, *, whole: bool) -> _Fitted:
    """Fit, as a worker of a sweep does; with `whole` groups are formed of all faces and what trains learns from role G, or from all without one."""
    from raysweep.models.teachers import teachers

    device: torch.device = pick_device()
    curves: dict[str, list[float]] = {}

    def report(numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            curves.setdefault(name, []).append(float(value))

    rows = faces.table.rows("G")
    if whole and not len(rows):
        rows = np.arange(len(faces), dtype=np.int64)
    group = anonymizer.releases == "group"
    context = FitContext(
        background=take_faces(faces, rows[:0] if group else rows),
        releases={"release": faces} if group else {},
        teachers=teachers(zoo, device, faces.frame) if anonymizer.trains else Teachers(),
        device=device,
        seed=point.seed,
        report=report,
    )
    state = {name: tensor.detach().cpu() for name, tensor in anonymizer.fit(context).items()}
    return _Fitted(state, {"curves": curves})


def _curve_difference(again: Mapping[str, Sequence[float]], recorded: Mapping[str, Sequence[float]]) -> float:
    """Largest relative difference of two sets of curves; infinite when they are not of the same kind."""
    if {name: len(values) for name, values in again.items()} != {
        name: len(values) for name, values in recorded.items()
    }:
        return math.inf
    largest = 0.0
    for name, values in again.items():
        old, new = np.asarray(recorded[name]), np.asarray(values)
        scale = max(1e-6, float(np.abs(old).max(initial=0.0)))
        largest = max(largest, float(np.abs(new - old).max(initial=0.0)) / scale)
    return largest


# ------------------------------------------------------------------- manifest
def _about(
    point: Point,
    anonymizer: Anonymizer,
    method: Method,
    fitted: _Fitted,
    zoo: Zoo,
    shards: ShardSet,
    size: int,
    margin: int,
    output: Output,
) -> dict[str, Any]:
    """All that decides what is written, and where it comes from; no path, no time."""
    used = {name: zoo.found[name].sha256 for name in sorted(tool_names(zoo).values()) if name in zoo.found}
    weights = {family: zoo.generator(family).sha256 for family in sorted(anonymizer.weights_needed())}
    return {
        "method": {
            "anonymizer": method.anonymizer if ":" not in method.anonymizer else method.anonymizer.rpartition(":")[2],
            "setting": dict(anonymizer.setting),
            "seed": method.seed,
            "per_person": method.per_person,
            "code": anonymizer_digest(point.anonymizer),
            "weights": weights,
            **fitted.facts,
        },
        "run": _run(point),
        "data": {
            "name": shards.name,
            "digest": shards.digest(),
            "rows": len(shards),
            "synthetic": shards.synthetic,
            "licence": shards.licence,
        },
        "frame": [size, margin],
        "output": {"crops": output.crops, "lossless": output.lossless, "keep_undetected": output.keep_undetected},
        "found_with": {**tool_names(zoo), "sha256": used},
        "code": code_digest(),
        "versions": versions(),
    }


def _run(point: Point) -> dict[str, Any] | None:
    if point.stored is None or point.record is None:
        return None
    objectives = {
        name: point.record.metrics[name].to_dict() for name in ("privacy", "utility") if name in point.record.metrics
    }
    return {
        "name": point.stored.source,
        "key": point.stored.info.key,
        "trial": point.record.number,
        "trial_key": point.record.key,
        "measured_on": point.stored.info.dataset,
        **objectives,
    }
