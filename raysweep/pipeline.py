"""READ FIRST: the passes over a whole data set with Ray Data, top to bottom.

`prepare`: Parquet shards -> slices of rows -> actor pools (decode, find, align, landmarks, mask; embed and classify) -> reference store.

    shard files --- slices of rows --->      [ CropRows x workers ] ---> [ MeasureCrops x GPUs ] ---> driver: ReferenceWriter
                                            \\___ without a GPU one fused actor: PrepareRows ___/

`release`: Parquet shards -> parts of rows -> actor pool (decode, find every face, align, anonymize, put back, encode) -> driver: PartsFolder.

    shard files --- parts of rows --->      [ ReleaseRows x workers ] ---> driver: one file and one receipt a part

A slice goes in, one block of columns comes out. Nothing depends on order: rows carry their `face_id`, the writer puts them where
they belong, and refuses to end unless every row came back once, as a face or with a reason. The actors only hold models; the
work is in pure functions (`preprocess.rows`, `preprocess.measure`, `engine.apply`), which `prepare_local` and `release_local` call in this
process. A row that kills its actor is found by halving and set aside (`engine.poison`). No more blocks are in flight than the object store
holds: Ray Data makes the actors wait for the driver.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from raysweep.engine.poison import remote_tally
from raysweep.engine.references import ReferenceStore, ReferenceWriter, RowLabels
from raysweep.engine.session import cpu_share, our_error
from raysweep.errors import DataError, StoreError
from raysweep.preprocess.actors import CropRows, MeasureCrops, PrepareRows, read_slice
from raysweep.preprocess.rows import Columns, Recipe, recipe_for
from raysweep.preprocess.tools import open_tools
from raysweep.schema import Frame

if TYPE_CHECKING:
    import pyarrow as pa

    from raysweep.engine.apply import Method, Output, Shared
    from raysweep.engine.parts import Part
    from raysweep.models.zoo import Zoo

__all__ = [
    "CropRows",
    "MeasureCrops",
    "PrepareRows",
    "PrepareSummary",
    "Shards",
    "prepare",
    "prepare_local",
    "read_slice",
    "release",
    "release_local",
]

SLICES, FEWEST_ROWS, MOST_ROWS = 16, 16, 128
"""A small data set is cut into this many work items, so that they spread evenly over the actors; an item has between so few and
so many rows: some MB of crops, some seconds of detection."""

Progress = Callable[[int, int], None]
"""Called with rows done and rows in all."""


class Shards(Protocol):
    """What is asked of a `data.shards.ShardSet`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def synthetic(self) -> bool: ...  # noqa: D102
    @property
    def licence(self) -> str: ...  # noqa: D102
    @property
    def paths(self) -> list[str]: ...  # noqa: D102
    @property
    def repeats(self) -> Mapping[str, str]: ...  # noqa: D102
    def digest(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class PrepareSummary:
    """What became of the rows: `rows_in == faces + quarantined`, always.

    Attributes:
        store: where the faces are.
        rows_in, faces, quarantined: counts of rows.
        reasons: quarantined rows by reason.
        notes: faces about which something else was noted.
        seconds: of this call.
        reused: the store was there; nothing was done.
    """

    store: ReferenceStore
    rows_in: int
    faces: int
    quarantined: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    notes: int = 0
    seconds: float = 0.0
    reused: bool = False


# --------------------------------------------------------------------- the pass
def prepare(
    shards: Shards,
    zoo: Zoo,
    frame: Frame,
    store: ReferenceStore,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Prepare a data set with Ray Data (Ray must run, see `engine.session.start_ray`); at once when the store is there.

    Args:
        shards: the data set.
        zoo: models for this kind of faces (`Zoo.for_data`).
        frame: of the crops.
        store: target, `ReferenceStore.at(shards, frame, zoo)`.
        workers: actors that crop (without a GPU: that do everything); None for one per CPU of the cluster.
        progress: told of every block.

    Raises:
        DataError: a shard cannot be read, or not one face can be used.
        ModelError: a model is missing or not what it should be.
        StoreError: the store cannot be written.
    """

    def blocks(recipe: Recipe, slices: list[dict[str, Any]]) -> Iterator[Columns]:
        import ray
        from ray.data import ActorPoolStrategy

        resources = ray.cluster_resources()
        cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
        count = max(1, min(workers or cpus, cpus, len(slices)))
        share = cpu_share(count)
        crop: dict[str, Any] = {"zoo": zoo, "recipe": recipe, "threads": share, "tally": remote_tally()}
        # One block per slice, else a single actor would get them all; batch_size=1 is one slice.
        data = ray.data.from_items(slices, override_num_blocks=len(slices))
        pool: dict[str, Any] = {"batch_size": 1, "num_cpus": share, "compute": ActorPoolStrategy(size=count)}
        if gpus == 0:
            data = data.map_batches(PrepareRows, fn_constructor_kwargs=crop, **pool)
        else:
            if count == cpus and count > 1:  # leave a CPU to the actors that feed the GPUs
                pool["compute"] = ActorPoolStrategy(size=count - 1)
            data = data.map_batches(CropRows, fn_constructor_kwargs=crop, **pool)
            measure: dict[str, Any] = {"zoo": zoo, "frame": frame, "device": None, "threads": 1}
            data = data.map_batches(
                MeasureCrops,
                fn_constructor_kwargs=measure,
                batch_size=MOST_ROWS,
                num_cpus=0.5,
                num_gpus=1,
                compute=ActorPoolStrategy(size=gpus),
            )
        try:
            yield from data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1)
        except Exception as error:  # Ray wraps what an actor raised in classes of its own
            raise our_error(error) from error

    return _prepare(shards, zoo, frame, store, blocks, progress)


def prepare_local(
    shards: Shards, zoo: Zoo, frame: Frame, store: ReferenceStore, *, threads: int = 1, progress: Progress | None = None
) -> PrepareSummary:
    """The same in this process, without Ray; arguments and errors as in `prepare`."""

    def blocks(recipe: Recipe, slices: list[dict[str, Any]]) -> Iterator[Columns]:
        actor = PrepareRows(zoo, recipe, threads)
        for item in slices:
            yield actor({name: np.array([value]) for name, value in item.items()})

    return _prepare(shards, zoo, frame, store, blocks, progress)


def _prepare(
    shards: Shards,
    zoo: Zoo,
    frame: Frame,
    store: ReferenceStore,
    blocks: Callable[[Recipe, list[dict[str, Any]]], Iterator[Columns]],
    progress: Progress | None,
) -> PrepareSummary:
    """What both ways share: plan, write what comes, count."""
    started = time.perf_counter()
    if store.exists():
        return _summary(store, started, reused=True)
    labels, slices = _plan(shards.paths)
    recipe = recipe_for(_first_row(shards.paths), frame, open_tools(zoo), models=not shards.synthetic)
    about = {
        "name": shards.name,
        "licence": shards.licence,
        "repeats": dict(shards.repeats),
        "landmarks": recipe.landmarks,
        "mask": recipe.mask,
    }
    with store.writing(labels, frame, synthetic=shards.synthetic, about=about) as writer:
        if writer is not None:
            _write_all(writer, blocks(recipe, slices), len(labels.face_id), progress)
    return _summary(store, started, reused=writer is None)


def _write_all(writer: ReferenceWriter, blocks: Iterator[Columns], total: int, progress: Progress | None) -> None:
    if progress:
        progress(0, total)
    for columns in blocks:
        writer.add(columns)
        if progress:
            progress(writer.done, total)


def _summary(store: ReferenceStore, started: float, *, reused: bool) -> PrepareSummary:
    manifest = store.manifest()
    counts = (manifest["rows_in"], manifest["rows"], manifest["quarantined"])
    if counts[0] != counts[1] + counts[2]:
        raise StoreError(
            f"{store.folder}: {counts[0]} rows in, {counts[1]} faces, {counts[2]} quarantined do not add up"
        )
    return PrepareSummary(
        store, *counts, manifest["reasons"], manifest["notes"], time.perf_counter() - started, reused=reused
    )


def release(
    parts: Sequence[Part],
    zoo: Zoo,
    recipe: Recipe,
    method: Method,
    output: Output,
    shared: Shared,
    *,
    workers: int | None = None,
) -> Iterator[pa.Table]:
    """Anonymize with Ray Data (Ray must run); tables of `engine.apply.ReleaseRows` in any order, a part in one or more of them.

    Args:
        parts: what is to be done.
        zoo, recipe: how faces are found and made.
        method, output, shared: what is done and written.
        workers: actors; None for one per CPU of the cluster. They share the GPUs.

    Raises:
        DataError, ModelError, ConfigError: of the actors.
    """
    import ray
    from ray.data import ActorPoolStrategy

    from raysweep.engine.apply import ReleaseRows

    resources = ray.cluster_resources()
    cpus, gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))
    count = max(1, min(workers or cpus, cpus, len(parts)))
    share = cpu_share(count)
    items = [vars(part) | {"part": part.number} for part in parts]
    held = ray.put(shared)  # once, not with each actor
    arguments = {
        "zoo": zoo,
        "recipe": recipe,
        "method": method,
        "output": output,
        "shared": [held],  # in a list, or Ray would put the value in its place
        "device": None,
        "threads": share,
        "tally": remote_tally(),
    }
    data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ReleaseRows,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        num_cpus=share,
        num_gpus=gpus / count if gpus else 0,
        compute=ActorPoolStrategy(size=count),
    )
    try:
        yield from data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    except Exception as error:  # Ray wraps what an actor raised in classes of its own
        raise our_error(error) from error


def release_local(
    parts: Sequence[Part], zoo: Zoo, recipe: Recipe, method: Method, output: Output, shared: Shared, *, threads: int = 1
) -> Iterator[pa.Table]:
    """The same in this process, without Ray; arguments and errors as in `release`."""
    from raysweep.engine.apply import ReleaseRows

    actor = ReleaseRows(zoo, recipe, method, output, shared, None, threads)
    for part in parts:
        yield actor({"path": [part.path], "start": [part.start], "rows": [part.rows], "part": [part.number]})


# --------------------------------------------------------------------- reading
def _plan(paths: list[str]) -> tuple[RowLabels, list[dict[str, Any]]]:
    """Labels of all rows and the work items; opens every footer, since Ray would fail on a damaged one in the middle."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables, sizes = [], []
    for path in paths:
        try:
            tables.append(pq.read_table(path, columns=list(RowLabels.__dataclass_fields__)))
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a readable shard ({error}); remove the folder and prepare again") from error
        sizes.append(tables[-1].num_rows)
    if sum(sizes) == 0:
        raise DataError("no faces: the shards have no rows")
    step = min(max(-(-sum(sizes) // SLICES), FEWEST_ROWS), MOST_ROWS)
    slices = [
        {"path": path, "start": start, "rows": min(step, size - start)}
        for path, size in zip(paths, sizes, strict=True)
        for start in range(0, size, step)
    ]
    return RowLabels.of(pa.concat_tables(tables)), slices


def _first_row(paths: list[str]) -> dict[str, Any]:
    for path in paths:
        rows = read_slice(path, 0, 1)
        if rows:
            return rows[0]
    raise DataError("no faces: the shards have no rows")
