"""Rows that kill the process that works on them: told from bad luck by counting, halved down to, and set aside.

A row can end a process without an exception (a decoder that crashes, a library that aborts, memory that runs out). The work item it lies in
is then given to a fresh process, which would die of it in turn, without end. So each process says what it begins and what it has
ended to a tally that outlives it. An item that was begun `PATIENCE` times and never ended is worked through in halves; a half that was begun and
never ended is halved again; a single row of which that is true gets a reason in place of a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["PATIENCE", "Begun", "RemoteTally", "Tally", "careful", "remote_tally"]

PATIENCE = 2
"""Processes that an item may cost before it is suspected: one may have been killed by somebody else."""

Begun = tuple[str, int, int]
"""A shard, the first row and how many."""
Result = TypeVar("Result")


class Tally(Protocol):
    """Counts what was begun and not ended, outside of the process that works.

    A death is never forgotten: results of a process that dies later in the same item are lost, and its successor must not run into
    what is known already.
    """

    def begin(self, what: Begun) -> int:
        """Note that work begins; returns how many processes had begun it before and not ended it."""

    def end(self, what: Begun) -> None:
        """Note that this process has ended it."""


class Counts:
    """A tally in memory."""

    def __init__(self) -> None:
        self._open: Counter[Begun] = Counter()

    def begin(self, what: Begun) -> int:
        """As `Tally.begin`."""
        before = self._open[what]
        self._open[what] += 1
        return before

    def end(self, what: Begun) -> None:
        """As `Tally.end`."""
        self._open[what] -= 1


class RemoteTally:
    """A tally in a Ray actor of its own; picklable.

    Args:
        actor: handle of an actor of `Counts`.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, what: Begun) -> int:
        """As `Tally.begin`; waits, so that the note is there before the work."""
        import ray

        return int(ray.get(self._actor.begin.remote(what)))

    def end(self, what: Begun) -> None:
        """As `Tally.end`."""
        import ray

        ray.get(self._actor.end.remote(what))


def remote_tally() -> RemoteTally:
    """Start a tally in the Ray session; it ends with the last handle."""
    import ray

    return RemoteTally(ray.remote(Counts).options(num_cpus=0).remote())


def careful(
    what: Begun,
    work: Callable[[Begun], Result],
    give_up: Callable[[Begun], Result],
    tally: Tally | None,
    patience: int = PATIENCE,
) -> list[Result]:
    """Work on some rows; in one piece, or around the rows that kill.

    Args:
        what: the rows.
        work: called for the rows, or for parts of them.
        give_up: called for one row that has killed a process that worked on it alone.
        tally: None where nothing can be survived anyway: then simply `work`.
        patience: how many deaths are forgiven.

    Returns:
        The results, in the order of the rows.
    """
    if tally is None:
        return [work(what)]
    path, start, rows = what
    if tally.begin(what) < patience:
        results = [work(what)]
    elif rows == 1:
        results = [give_up(what)]
    else:
        half = rows // 2
        results = []
        for part in ((path, start, half), (path, start + half, rows - half)):
            results += careful(part, work, give_up, tally, patience=1)
    tally.end(what)
    return results
