"""What is wrong with a cluster, and the fix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from raysweep.doctor import Finding

if TYPE_CHECKING:
    from raysweep.engine.machines import Facts

__all__ = ["check_cluster", "of_code", "of_dashboard", "of_folder", "of_telemetry", "of_token"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_cluster(address: str) -> list[Finding]:
    """Join a cluster, ask each of its machines, and leave it as it is.

    Args:
        address: as for `tune --address`.
    """
    from raysweep.engine.cache import cache_root
    from raysweep.engine.machines import ask_machines, facts_here, marked
    from raysweep.engine.session import SessionError, start_ray
    from raysweep.errors import ConfigError
    from raysweep.storage.objects import is_url

    places = {"cache": str(cache_root()), "runs": "runs"}
    given = {name: os.environ.get(f"RAYSWEEP_{name.upper()}", place) for name, place in places.items()}
    # What lies in an object store is copied by each machine for itself.
    folders = {name: Path(place).expanduser().absolute() for name, place in given.items() if not is_url(place)}
    try:
        with start_ray(address=address):
            import ray

            url = ray.init(address=address, ignore_reinit_error=True, logging_level="ERROR").dashboard_url
            resources = ray.cluster_resources()
            with marked(list(folders.values())) as marks:
                machines = ask_machines(marks)
                here = facts_here(marks)
    except SessionError as error:
        return [Finding("cluster", "wrong", str(error), "start it with `ray up`; run this on its head")]
    except ConfigError as error:
        return [
            Finding("cluster", "wrong", str(error), "name folders that can be written: RAYSWEEP_CACHE, RAYSWEEP_RUNS")
        ]
    cpus, gpus = (int(resources.get(name, 0)) for name in ("CPU", "GPU"))
    findings = [Finding("cluster", "ok", f"{len(machines)} machines, {cpus} CPUs, {gpus} GPUs")]
    findings += [of_token(machines), of_dashboard(url), of_telemetry(machines), of_code(here, machines)]
    return findings + [
        of_folder(name, folder, mark, machines) for (name, folder), mark in zip(folders.items(), marks, strict=True)
    ]


def _every(machines: list[Facts]) -> str:
    """Of those that did not answer nothing is known but that (`of_code` names them)."""
    return "every machine that answered" if any(facts.error for facts in machines) else "every machine"


def of_token(machines: list[Facts]) -> Finding:
    """Without it whoever reaches Ray's ports can run code."""
    open_ = [facts.machine for facts in machines if not facts.token and not facts.error]
    if open_:
        return Finding(
            "cluster token",
            "wrong",
            f"{', '.join(open_)}: nobody is asked for a token, so whoever reaches Ray's ports can run code",
            "`ray get-auth-token --generate`, the same ~/.ray/auth_token on all machines, and RAY_AUTH_MODE=token before `ray start`",
        )
    return Finding("cluster token", "ok", f"{_every(machines)} asks for it")


def of_dashboard(url: str | None) -> Finding:
    """It shows everything and takes jobs."""
    host = urlsplit(f"//{url}" if url and "//" not in url else url or "").hostname
    if not host:
        return Finding(
            "dashboard", "note", "none: `ray job submit` does not work", "install `ray[default]` on the head"
        )
    if host in LOOPBACK:
        return Finding("dashboard", "ok", f"{url}, on the head alone")
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return Finding("dashboard", "note", f"{url}: open to the pods that the network policy lets in")
    return Finding(
        "dashboard",
        "wrong",
        f"{url} can be reached from other machines",
        "start the head with --dashboard-host=127.0.0.1",
    )


def of_telemetry(machines: list[Facts]) -> Finding:
    """Ray's own launcher switches it on."""
    on = [facts.machine for facts in machines if facts.telemetry and not facts.error]
    if on:
        return Finding(
            "telemetry",
            "wrong",
            f"{', '.join(on)}: Ray may send usage data",
            "set RAY_USAGE_STATS_ENABLED=0 in the command that starts Ray there (`ray up` exports 1 before it)",
        )
    return Finding("telemetry", "ok", f"off on {_every(machines)}")


def of_code(here: Facts, machines: list[Facts]) -> Finding:
    """Python, Ray and raysweep must be the same everywhere."""
    from raysweep.engine.machines import differences

    lines = [line for machine in machines for line in differences(here, machine)]
    if lines:
        return Finding(
            "cluster code", "wrong", "; ".join(lines), "`ray up` again brings the same files to all machines"
        )
    versions = here.versions
    return Finding(
        "cluster code", "ok", f"Python {versions['python']}, Ray {versions['ray']}, raysweep {versions['code']}"
    )


def of_folder(name: str, folder: Path, mark: str, machines: list[Facts]) -> Finding:
    """Workers read faces from the cache; runs are written where the sweep is started, and hold what trials learned only if shared."""
    blind = [facts.machine for facts in machines if not facts.error and not facts.sees.get(mark)]
    variable = f"RAYSWEEP_{name.upper()}"
    if not blind:
        return Finding(f"shared {name}", "ok", f"{folder}: seen by {_every(machines)}")
    fix = f"set {variable} to a folder that all machines share"
    if name == "runs":
        words = f"{folder} is not seen by {', '.join(blind)}: results are complete, what generators learned there is not kept"
        return Finding(f"shared {name}", "note", words, fix)
    return Finding(f"shared {name}", "wrong", f"{folder} is not seen by {', '.join(blind)}: workers find no faces", fix)
