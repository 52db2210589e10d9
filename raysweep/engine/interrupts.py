"""Ctrl-C and SIGTERM while trials run: once drains, twice stops at once.

| signal | exit code | what happens |
|---|---|---|
| SIGINT or SIGTERM, once | 130 or 143 | no new trial starts; those that run end and are recorded; report and tracker are brought up to date |
| a second one | 130 or 143 | the process ends at once; what is recorded is kept |

After both the same command goes on. Outside the trials (while faces are prepared, or the report is written) the first one ends the process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from raysweep.errors import RaysweepError

__all__ = ["Interrupts", "StopNow", "SweepInterruptedError", "SweepStoppedError"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SweepStoppedError(RaysweepError):
    """Too many trials failed; what is finished is kept."""


class SweepInterruptedError(RaysweepError):
    """A sweep ended early, and in order, because of a signal."""

    def __init__(self, signum: int, recorded: int) -> None:
        self.exit_code = 128 + signum
        super().__init__(
            f"interrupted ({signal.Signals(signum).name}); {recorded} trials are recorded, the same command goes on"
        )


class StopNow(KeyboardInterrupt):
    """The second signal. Like KeyboardInterrupt: no error, so that no `except Exception` takes it for a failed trial."""

    def __init__(self, signum: int) -> None:
        self.exit_code = 128 + signum
        super().__init__(signal.Signals(signum).name)


class Interrupts:
    """Listens in the main thread while its block runs; elsewhere, where Python hears no signals, it does nothing.

    Args:
        tell: called with one line at the first signal.
        drain: called at the first signal; must only take note.

    Attributes:
        signum: of the first signal, None before it.
    """

    def __init__(self, tell: Callable[[str], None], drain: Callable[[], None]) -> None:
        self._tell, self._drain = tell, drain
        self._before: dict[int, Any] = {}
        self.signum: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._take) for signum in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, signal.SIG_DFL if before is None else before)

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            raise StopNow(signum)
        self.signum = signum
        self._drain()
        # From a thread: the handler may have cut into the very code that prints, which holds its lock.
        line = "stopping after the trials that run; once more stops at once"
        threading.Thread(target=self._tell, args=(line,), daemon=True).start()
