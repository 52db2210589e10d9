"""Drawn faces, prepared once per bench, and a view that shows nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from raysweep.config import resolve_sweep
from raysweep.engine.items import work_items
from raysweep.engine.worker import WorkerPlan
from raysweep.faces import Faces, open_faces
from raysweep.provenance import protocol_of
from raysweep.schema import IntArray
from raysweep.search.fidelity import Ladder
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.terminal import LiveView, live_view

__all__ = ["drawn_faces", "own_cache", "silent_view", "worker_plan"]


def silent_view(info: SweepInfo) -> LiveView:
    """The plain lines of a sweep, written nowhere."""
    return live_view(info, Console(file=io.StringIO()))


@contextmanager
def own_cache(folder: Path) -> Iterator[Path]:
    """Let this process and its children keep faces in a folder of the bench: the user's cache is left alone."""
    before = os.environ.get("RAYSWEEP_CACHE")
    os.environ["RAYSWEEP_CACHE"] = str(folder / "cache")
    try:
        yield folder / "cache"
    finally:
        if before is None:
            del os.environ["RAYSWEEP_CACHE"]
        else:
            os.environ["RAYSWEEP_CACHE"] = before


def drawn_faces(identities: int, images: int) -> Faces:
    """So many people with so many faces each; drawn at the first call, found in the cache afterwards."""
    run = resolve_sweep("blur", ["engine=local"]).run
    with silent_view(SweepInfo("bench", "", "synthetic", True, "blur", Path())) as view:
        return open_faces(
            run,
            view,
            data=f"synthetic:identities={identities},images_per_identity={images},seed=5",
            kind=None,
            models=None,
            workers=1,
        )


def worker_plan(faces: Faces, threads: int = 1, rungs: int = 1) -> tuple[WorkerPlan, list[list[IntArray]]]:
    """What a sweep would give its workers, and its work items by rung."""
    run = resolve_sweep("blur", ["engine=local", f"rungs={rungs}"]).run
    protocol, ladder = protocol_of(run), Ladder(run.rungs, run.eta)
    plan = WorkerPlan(
        references=str(faces.store.folder),
        zoo=faces.zoo,
        dataset=faces.source.name,
        seed=run.seed,
        shares=None,
        need_privacy=True,
        protocol=protocol,
        batch_size=run.measure_batch,
        threads=threads,
        ladder=ladder,
    )
    return plan, work_items(faces.references.faces, protocol, ladder, run.seed)
