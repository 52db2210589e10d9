"""From a path to prepared faces: source -> shards -> reference store. What is there already is used again."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.config import RunSettings
from raysweep.data.roles import face_table
from raysweep.data.shards import ShardSet, write_shards
from raysweep.data.source import Source, open_source
from raysweep.engine.pools import default_workers
from raysweep.engine.references import References, ReferenceStore, cache_root
from raysweep.engine.session import start_ray
from raysweep.errors import ConfigError, ModelError
from raysweep.models.teachers import teacher_entries
from raysweep.models.zoo import Zoo, open_zoo
from raysweep.schema import Frame
from raysweep.search.parameters import Categorical, Float, Int, Value
from raysweep.search.space import Arm, Space
from raysweep.storage.entries import far_cache
from raysweep.tracking.terminal import LiveView

if TYPE_CHECKING:
    from raysweep.anonymizers.base import Anonymizer

__all__ = [
    "Faces",
    "check_models",
    "check_needs",
    "cores_and_gpus",
    "find_faces",
    "frame_of",
    "generator_weights",
    "open_faces",
    "prepare",
    "session",
    "shares_of",
]

SYNTHETIC_FRAME = Frame(112, 0)
PHOTOGRAPH_FRAME = Frame(160, 24)
"""Twenty-four template pixels around the ArcFace crop, at scale 1: expression models look beyond it."""


@dataclass(frozen=True)
class Faces:
    """A prepared data set.

    Attributes:
        source: where it came from.
        store: reference store of the clear faces.
        references: its content.
        zoo: the models that measured it.
        conflicting: images left out because their bytes stand under two identities.
    """

    source: Source
    store: ReferenceStore
    references: References
    zoo: Zoo
    conflicting: int = 0

    def left_out(self) -> dict[str, int]:
        """How many images are not used, by reason."""
        reasons = Counter(str(row["reason"]) for row in self.references.quarantine)
        if self.conflicting:
            reasons["the same image under two identities"] = self.conflicting
        return dict(sorted(reasons.items()))


def frame_of(run: RunSettings, synthetic: bool) -> Frame:
    """The crop's geometry: as set, else by kind of faces."""
    default = SYNTHETIC_FRAME if synthetic else PHOTOGRAPH_FRAME
    size, margin = run.frame.size, run.frame.margin
    if size is None and margin is not None:
        size = 112 + 2 * margin
    return Frame(default.size if size is None else size, default.margin if margin is None else margin)


def shares_of(run: RunSettings) -> Mapping[str, float] | None:
    """Shares of identities per role, None for the default."""
    return run.roles.model_dump() if run.roles is not None else None


def find_faces(data: str | None, kind: str | None, models: str | None) -> tuple[Source, Zoo]:
    """A source and the models for its kind of faces, before any work on them; arguments as in `open_faces`.

    Raises:
        DataError, ModelError: the data or the models cannot do.
    """
    source = open_source(data, kind=kind)
    needs: tuple[Any, ...] = ("embedder", "expression") if source.synthetic else ("embedder", "expression", "detector")
    return source, open_zoo(models).for_data(synthetic=source.synthetic, needs=needs)


def open_faces(
    run: RunSettings,
    view: LiveView,
    *,
    data: str | None,
    kind: str | None,
    models: str | None,
    workers: int | Callable[[], int],
    need_privacy: bool = True,
    found: tuple[Source, Zoo] | None = None,
) -> Faces:
    """Source -> shards -> references; what is there already is used again.

    Args:
        run: settings.
        view: told of the progress.
        data, kind, models: as on the command line.
        workers: actors per pool, or what tells (it may start Ray; asked only when there is something to prepare).
        need_privacy: False lets a data set without identities pass: privacy is then undefined.
        found: what `find_faces` found, when it was asked already.

    Raises:
        DataError, ModelError: before any work on the faces, when the data or the models cannot do.
    """
    source, zoo = found or find_faces(data, kind, models)
    frame = frame_of(run, source.synthetic)
    view.stage("reading faces", 0, len(source))
    shards = write_shards(source, cache_root() / "shards" / source.digest()[:32], conflicts=run.conflicts)
    view.stage("reading faces", len(source), len(source))
    labels = shards.labels()
    # Too few identities are told before hours of detection, not after.
    face_table(
        labels.face_id,
        labels.identity,
        labels.expression,
        dataset=source.name,
        seed=run.seed,
        shares=shares_of(run),
        need_privacy=need_privacy,
    )
    store = ReferenceStore.at(shards, frame, zoo)
    if not store.exists():
        _prepare(run.engine, shards, zoo, frame, store, workers() if callable(workers) else workers, view)
    references = store.load(dataset=source.name, seed=run.seed, shares=shares_of(run), need_privacy=need_privacy)
    return Faces(source, store, references, zoo, len(shards.dropped))


def _prepare(
    engine: str, shards: ShardSet, zoo: Zoo, frame: Frame, store: ReferenceStore, workers: int, view: LiveView
) -> None:
    from raysweep import pipeline

    started = time.perf_counter()

    def progress(done: int, total: int) -> None:
        view.stage("preparing faces", done, total, done / max(1e-9, time.perf_counter() - started))

    if engine == "ray":
        pipeline.prepare(shards, zoo, frame, store, workers=workers, progress=progress)
    else:
        pipeline.prepare_local(shards, zoo, frame, store, progress=progress)


def prepare(
    run: RunSettings,
    *,
    view: LiveView,
    data: str | None,
    kind: str | None,
    models: str | None,
    address: str | None = None,
) -> Faces:
    """Prepare a data set and stop there; arguments as in `open_faces` and `tune`."""
    with session(run, address, view.note):
        workers = run.workers or default_workers(*cores_and_gpus(run.engine))
        return open_faces(run, view, data=data, kind=kind, models=models, workers=workers, need_privacy=False)


@contextmanager
def session(
    run: RunSettings,
    address: str | None,
    tell: Callable[[str], None] = lambda line: None,
    needed: Sequence[Path] = (),
) -> Iterator[None]:
    """A Ray session where the engine needs one; in a cluster with the machines that are asked for, all of them fit to work.

    Args:
        run: settings.
        address: of a running cluster; None for a local Ray.
        tell: called with one line when there is something to wait for.
        needed: files and folders that every machine must see.

    Raises:
        ConfigError: machines that were asked for do not come, or some cannot work; says which and why.
        SessionError: Ray cannot be started or reached.
    """
    if run.engine != "ray":
        yield
        return
    with start_ray(cpus=os.cpu_count() or 1, address=address):
        if address is not None:
            from raysweep.engine.machines import check_machines, wait_for

            wait_for(run.gpus, run.workers, tell)
            # What lies in an object store is copied by each machine for itself.
            check_machines([] if far_cache() is not None else [cache_root()], needed)
        yield


def cores_and_gpus(engine: str) -> tuple[int, int]:
    """CPUs and GPUs of the session; one core for the engine without Ray."""
    if engine != "ray":
        return 1, 0
    import ray

    resources = ray.cluster_resources()
    return int(resources.get("CPU", 1)), int(resources.get("GPU", 0))


def check_needs(space: Space, faces: Faces) -> None:
    """What an anonymizer needs of the faces must be there.

    Raises:
        ConfigError: names each need that is not met, and what would meet it.
    """
    from raysweep.anonymizers.registry import get_anonymizer

    loaded = faces.references.faces
    remedies = {
        "landmarks": (
            loaded.landmarks is not None,
            "dense landmarks (a 68- or 106-point model in --models, or the MediaPipe extra)",
        ),
        "mask": (
            loaded.mask is not None,
            "parsing masks (a BiSeNet file in --models, or a data set that brings masks)",
        ),
        "background": (len(loaded.table.rows("G")) > 0, "identities of role G (more identities, or roles.G=...)"),
        "identity": (bool((loaded.table.identity >= 0).any()), "identities"),
    }
    problems = [
        f"{arm.anonymizer} needs {remedies[need][1]}; {faces.source.name} has none"
        for arm in space.arms
        for need in sorted(get_anonymizer(arm.anonymizer, allow_file=True).needs)
        if not remedies[need][0]
    ]
    problems += _missing_models(space, faces.zoo)
    if problems:
        raise ConfigError(problems)


def check_models(space: Space, zoo: Zoo) -> None:
    """What a space needs of the weights at hand; no image is read for it.

    Raises:
        ConfigError: names each network that is not there, or does not fit the setting.
    """
    if problems := _missing_models(space, zoo):
        raise ConfigError(problems)


def _missing_models(space: Space, zoo: Zoo) -> list[str]:
    return _missing_teachers(space, zoo) + _missing_weights(space, zoo)


def _missing_weights(space: Space, zoo: Zoo) -> list[str]:
    """Published generators that the space offers and that are not at hand."""
    found: dict[str, str] = {}
    for arm, words, setting in _offers(space):
        try:
            method = _told(arm, setting, zoo)
            families = method.weights_needed()
        except ConfigError as error:
            found.setdefault(str(error), f"{arm.anonymizer}{words}: {error}")
            continue
        weights = {}
        for family in families:
            try:
                weights[family] = zoo.generator(family)
            except ModelError as error:
                found.setdefault(family, f"{arm.anonymizer}{words}: {error}")
        if families and len(weights) == len(families):
            try:
                method.use_weights(weights)  # the setting must be that of the network in the file
            except (ConfigError, ModelError) as error:
                found.setdefault(str(error), str(error))
    return list(found.values())


def generator_weights(space: Space, zoo: Zoo) -> dict[str, str]:
    """sha256 by family of the published generators that the space may compute with: they decide results."""
    families = {family for arm, _, setting in _offers(space) for family in _told(arm, setting, zoo).weights_needed()}
    return {family: zoo.generator(family).sha256 for family in sorted(families)}


def _method(arm: Arm) -> type[Anonymizer]:
    from raysweep.anonymizers.registry import get_anonymizer

    return get_anonymizer(arm.anonymizer, allow_file=True)


def _told(arm: Arm, setting: Mapping[str, Value], zoo: Zoo) -> Anonymizer:
    """The anonymizer of a setting, knowing what kind of faces will come."""
    made = _method(arm)(**setting)
    made.for_faces(bool(zoo.synthetic))
    return made


def _offers(space: Space) -> Iterator[tuple[Arm, str, dict[str, Value]]]:
    """Settings that together show everything a space may ask for: each choice of each parameter once, and each listed setting."""
    for arm in space.arms:
        least = {name: item.low if isinstance(item, Float | Int) else item.default for name, item in arm.ranges.items()}
        changes: list[tuple[str, Mapping[str, Value]]] = [] if arm.settings else [("", {})]
        changes += [
            (f" with {name}={choice}", {name: choice})
            for name, item in arm.ranges.items()
            if isinstance(item, Categorical)
            for choice in item.choices
        ]
        changes += [(f" with {dict(setting)}", setting) for setting in arm.settings]
        for words, change in changes:
            setting: dict[str, Value] = {**least, **arm.fixed, **change}
            if not _method(arm).problems(setting):
                yield arm, words, setting


def _missing_teachers(space: Space, zoo: Zoo) -> list[str]:
    """Loss terms that the space offers but nothing at hand can compute: told once, not by trial after trial."""
    embedder, expression = teacher_entries(zoo)
    at_hand = {"identity": embedder is not None, "expression": expression is not None}
    found: dict[str, str] = {}
    for arm, words, setting in _offers(space):
        for need in _method(arm)(**setting).teachers_needed():
            if not at_hand[need]:
                found.setdefault(
                    f"{arm.anonymizer}{words}/{need}",
                    f"{arm.anonymizer}{words} needs a torch {need} model to teach it, and none is at hand: add one "
                    f"(`raysweep ls models`), or switch that loss off "
                    f"({'identity=0' if need == 'identity' else 'expression_loss=none'})",
                )
    return list(found.values())
