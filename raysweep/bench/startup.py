"""R25 and R26: how long it takes until something happens."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from raysweep.bench.finding import Finding, How

__all__ = ["pool_start", "startup"]


def startup(how: How) -> list[Finding]:
    """`python -m raysweep --help` and `python -c pass`, in turn."""
    bare, helped = [], []
    for turn in range(2 * how.repeats + 1):
        first, second = _seconds("-c", "pass"), _seconds("-m", "raysweep", "--help")
        if turn:  # the first one fills the file system's cache
            bare.append(first)
            helped.append(second)
    ratios = tuple(ours / theirs for ours, theirs in zip(helped, bare, strict=True))
    return [
        Finding(
            "R25",
            ratios,
            f"{1000 * min(helped):.0f} ms and {1000 * min(bare):.0f} ms at best",
            facts={"help_s": helped, "bare_s": bare},
        )
    ]


def _seconds(*words: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)  # noqa: S603 - our own interpreter, fixed words
    return time.perf_counter() - started


def pool_start(how: How) -> list[Finding]:
    """R26: all workers at once against one alone, each loading the networks for drawn faces."""
    from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
    from raysweep.engine.pools import RayPool, default_workers
    from raysweep.engine.session import start_ray
    from raysweep.faces import cores_and_gpus

    with own_cache(how.folder), start_ray(cpus=os.cpu_count() or 1):
        cores, gpus = cores_and_gpus("ray")
        workers = default_workers(cores, gpus)
        plan, _ = worker_plan(drawn_faces(30, 7), max(1, cores // workers))
        seconds: dict[int, list[float]] = {1: [], workers: []}
        for turn in range(min(3, how.repeats) + 1):
            for count, found in seconds.items():
                how.tell(f"R26: {count} workers, round {turn + 1}")
                started = time.perf_counter()
                pool = RayPool(plan, count, float(min(gpus, count)))
                pool.wait_ready(lambda ready: None)
                if turn:
                    found.append(time.perf_counter() - started)
                pool.close()
    ratios = tuple(both / one for one, both in zip(seconds[1], seconds[workers], strict=True))
    note = f"{workers} workers in {min(seconds[workers]):.1f} s, one in {min(seconds[1]):.1f} s at best; on {cores} cores they share what loading takes"
    return [Finding("R26", ratios, note)]
