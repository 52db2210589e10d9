"""Named places at which a test may end the process as a power cut would.

`RAYSWEEP_FAULT=ledger.after_write:3` ends it by SIGKILL when it passes `ledger.after_write` for the third time (`:1` when no count is
given): nothing is flushed, no handler runs. Unset, which is always but in tests, a place costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading

from raysweep.errors import ConfigError, nearest

__all__ = ["POINTS", "VARIABLE", "arm", "fault_point"]

VARIABLE = "RAYSWEEP_FAULT"

POINTS: dict[str, str] = {
    "lease.before_claim": "the next lease number is known, its file is not made yet",
    "lease.after_claim": "the file of the lease is made and on disk, the old one still there",
    "lease.before_release": "all work is done, the lease not given back",
    "ledger.before_append": "a record is complete in memory only",
    "ledger.after_write": "a record is written, not yet forced to disk",
    "ledger.after_fsync": "a record is on disk, nobody was told",
    "settings.before_write": "the run folder is made, its settings are not",
    "settings.after_write": "new settings are in a temporary file, not yet forced to disk",
    "settings.before_replace": "new settings are on disk under their temporary name",
    "settings.after_replace": "new settings have replaced the old ones",
    "evidence.before_write": "a trial's arrays are in memory only",
    "evidence.after_write": "a trial's arrays are in a temporary file, not yet forced to disk",
    "evidence.before_replace": "a trial's arrays are on disk under their temporary name",
    "evidence.after_replace": "a trial's arrays are in place, its record is not",
    "sampler.before_tell": "a record is in the ledger, the sampler does not know it",
    "sampler.after_tell": "the sampler knows a record",
    "mlflow.before_send": "a record is in the ledger, nothing of it in MLflow",
    "mlflow.half_sent": "a trial's numbers are in MLflow, the mark that it is complete is not",
    "mlflow.after_send": "a trial is complete in MLflow, this process has not noted it",
    "sweep.before_finish": "all trials are recorded, no report, MLflow's run still open",
    "sweep.after_finish": "the report is written and delivered, the run not marked as finished",
}
"""Every place there is and what has happened there; a test holds the code to this list."""

_armed: str | None = None
_left = 0
_lock = threading.Lock()


def arm(text: str | None) -> None:
    """Choose the place, as `RAYSWEEP_FAULT` does: `name` or `name:count`; None or empty for none.

    Raises:
        ConfigError: there is no such place, or the count is no positive number.
    """
    global _armed, _left
    if not text:
        _armed = None
        return
    name, _, count = text.partition(":")
    if name not in POINTS:
        raise ConfigError(
            f"{VARIABLE}: unknown place {name!r}{nearest(name, list(POINTS))}; known: {', '.join(POINTS)}"
        )
    if count and (not count.isascii() or not count.isdecimal() or int(count) < 1):
        raise ConfigError(f"{VARIABLE}: {count!r} is not how many times {name} is to be passed")
    _armed, _left = name, int(count or 1)


def fault_point(name: str) -> None:
    """Pass a place; end here when it is the armed one."""
    if _armed is not None and name == _armed:
        _end()


def _end() -> None:
    global _left
    with _lock:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE))
