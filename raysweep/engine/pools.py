"""Standing workers behind one interface: `call` hands out a work item, `result` waits for it.

`LocalPool` runs items in this process, `RayPool` in actors that live as long as the sweep. A handle may be passed as an
argument of a further call: the values then go from worker to worker without passing through the caller.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from raysweep.engine.session import short_of_room
from raysweep.errors import StoreError, TrialError

__all__ = [
    "LocalPool",
    "Plan",
    "Pool",
    "RayPool",
    "RayPoolClient",
    "ResultLostError",
    "WorkerOf",
    "default_workers",
]

QUEUED_PER_WORKER = 2
"""Items handed to one actor at a time: the second one waits beside it, so that the actor never idles between items."""

AHEAD = 2
"""Trials at a time beyond those that fill the workers: while one begins and one is judged, the others go on."""

READY_TIMEOUT_S = 300.0
"""Until all workers have loaded their models: importing torch alone takes 10 s on a loaded core."""


MOST_IN_A_BATCH = 8
"""Trials that share a batch: with more under way at once the search knows less when it asks for the next one."""

HAND_OVER_S = 1e-4
"""In which a worker's other thread takes Python's lock and begins, before the result of this one is stored."""

LOOK_S = 0.25
"""Between two looks at whether an item has run for too long, or whether a worker is back."""

FOR_GOOD = 20
"""Times in a row that Ray says a worker will not be started again before that is believed: it says so of one that is being restarted, too."""

TRIES = 3
"""Of an item whose worker dies: beside others, and then alone, since a node may go at the second try as well."""


class ResultLostError(TrialError):
    """A result went with the machine that held it, before it was used: what led to it must be done again."""


class Plan(Protocol):
    """What a pool must know of what its workers load."""

    @property
    def threads(self) -> int:
        """CPU threads of each worker."""


WorkerOf = Callable[[Any], Any]
"""Makes a worker of a plan. Picklable by reference; it imports what is heavy only when called."""


def trial_worker(plan: Any) -> Any:
    """The real one: it loads models and attacks."""
    from raysweep.engine.worker import TrialWorker

    return TrialWorker(plan)


class Pool(Protocol):
    """Where the work items of a trial run."""

    size: int

    def call(self, method: str, *arguments: Any) -> Any:
        """Start `TrialWorker.method(*arguments)`; arguments may be handles, or lists of handles."""

    def wait(self, handles: Sequence[Any]) -> None:
        """Wait until the items are done, without fetching their values; their errors show when a value is used."""

    def result(self, handle: Any) -> Any:
        """Wait for the value of a handle, or raise what the item raised."""


class _Spent:
    """Seconds that the work items of each trial have taken, against what a trial may take in all."""

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._spent: dict[str, float] = {}

    def left(self, key: str) -> float | None:
        """Seconds that are left to a trial; None without a limit, or for an item of no trial."""
        return None if self.limit_s is None or not key else max(0.0, self.limit_s - self._spent.get(key, 0.0))

    def add(self, key: str, seconds: float, *, last: bool) -> None:
        """Count an item that has ended; `last` forgets the trial."""
        if self.limit_s is not None and key:
            self._spent[key] = self._spent.get(key, 0.0) + seconds
            if last:
                del self._spent[key]

    def error(self) -> TrialError:
        """What the trial fails with."""
        return TrialError(f"given up after {self.limit_s:g} s of work (trial_timeout)")


def _trial_key(arguments: Sequence[Any]) -> str:
    """Of the trial that an item belongs to; empty for items of no trial."""
    return str(getattr(arguments[0], "key", "")) if arguments else ""


class LocalPool:
    """One worker in this process; items run at once.

    Args:
        plan: what the worker loads.
        trial_timeout_s: work that a trial may take in all, None for any. It interrupts Python code of the main thread, where the
            driver runs it; a call into native code that never returns is interrupted only by the pool on Ray.
        worker_of: makes the worker; another one than the real one in benches and drills.
    """

    size = 1

    def __init__(self, plan: Plan, trial_timeout_s: float | None = None, worker_of: WorkerOf = trial_worker) -> None:
        self.worker = worker_of(plan)
        self._spent = _Spent(trial_timeout_s)

    def call(self, method: str, *arguments: Any) -> Any:
        """Run the item and return its value as the handle.

        Raises:
            TrialError: the trial has taken too long.
        """
        key, started = _trial_key(arguments), time.monotonic()
        try:
            with _alarm(self._spent.left(key), self._spent.error):
                return getattr(self.worker, method)(*arguments)
        finally:
            self._spent.add(key, time.monotonic() - started, last=method == "judge")

    def wait(self, handles: Sequence[Any]) -> None:
        """Done already."""

    def result(self, handle: Any) -> Any:
        """The handle is the value."""
        return handle

    def close(self) -> None:
        """Nothing to stop."""


@contextmanager
def _alarm(seconds: float | None, error: Callable[[], Exception]) -> Iterator[None]:
    """Raise an error in the block when it takes longer; only in the main thread, where alarms are heard."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise error()

    before = signal.signal(signal.SIGALRM, ring)
    # Once more every second: the code that is interrupted may hold `except Exception: continue`.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def default_workers(cpus: int, gpus: int) -> int:
    """One worker per GPU, else one per core."""
    return gpus or max(1, cpus)


class _WorkerActor:
    """A worker in an actor, which works on one item at a time.

    Of its two threads one works while the other stores what the item before found and takes what the next one needs: values that other items
    left with Ray come as arguments of their own.
    """

    def __init__(self, plan: Plan, worker_of: WorkerOf) -> None:
        self._worker = worker_of(plan)
        self._working = threading.Lock()

    def run(self, method: str, layout: Sequence[int | None], *values: Any) -> tuple[Any, ...]:
        """Nothing, by which one knows that it is done, and what was found, which stays with Ray until somebody asks for it.

        Args:
            method: of the worker.
            layout: for each of its arguments None, or of how many values it is a list.
            values: of all arguments, one after the other.
        """
        left = iter(values)
        arguments = (next(left) if count is None else list(itertools.islice(left, count)) for count in layout)
        with self._working:
            value = getattr(self._worker, method)(*arguments)
        time.sleep(HAND_OVER_S)
        return (None, *value) if method == "measure_together" else (None, value)

    def pid(self) -> int:
        return os.getpid()


def _flat(arguments: Sequence[Any]) -> tuple[list[int | None], list[Any]]:
    """Layout and values, as `_WorkerActor.run` takes them."""
    layout = [len(argument) if isinstance(argument, list) else None for argument in arguments]
    return layout, list(itertools.chain.from_iterable(_as_list(argument) for argument in arguments))


def _as_list(argument: Any) -> list[Any]:
    return argument if isinstance(argument, list) else [argument]


class _Handle:
    """A work item whose value lies with Ray. Small and picklable."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


@dataclass(eq=False)
class _Item:
    """A work item on its way; `turn` tells where it runs as soon as it does."""

    method: str
    arguments: Sequence[Any]
    alone: bool
    turn: asyncio.Future[_Run]

    @property
    def key(self) -> str:
        return _trial_key(self.arguments)

    @property
    def weight(self) -> int:
        trains = self.method == "fit" and getattr(self.arguments[0], "trains", True)
        return QUEUED_PER_WORKER if self.alone or trains else 1

    @property
    def rows(self) -> int:
        """Faces to measure; 0 of another item."""
        return len(self.arguments[-1]) if self.method == "measure" else 0


@dataclass(eq=False)
class _Run:
    """What one call of a worker works on: an item, or small ones of several trials in one batch.

    Attributes:
        index: of the worker.
        items: in the order of `values`.
        done: reference that tells of its end.
        values: references to what was found.
        started: when it became the oldest one of its worker.
    """

    index: int
    items: list[_Item]
    done: Any = None
    values: Sequence[Any] = ()
    started: float | None = None


class _Dispatcher:
    """Gives each item, in the order in which items come, to the worker with the least to do.

    A worker gets a second item while it works on a short one; nothing waits behind a training. Small items of several trials run as one, as
    long as their faces fit into one batch. An item whose worker died, or which shared a batch with one that failed, runs again with
    nothing else on its worker: if that keeps dying, the item is what kills it, and only its trial fails. An item that takes longer than its
    trial may is ended with its worker, which starts again. A worker that died gets nothing until it serves again, which may be long after, on
    another machine, or never: the others do the work.

    Args:
        workers: actors.
        trial_timeout_s: work that a trial may take in all, None for any.
        together: faces that items of several trials may have in all to run as one; 0 for none.
    """

    def __init__(self, workers: Sequence[Any], trial_timeout_s: float | None = None, together: int = 0) -> None:
        self._workers = list(workers)
        self._together = together
        self._running: list[list[_Run]] = [[] for _ in self._workers]
        self._waiting: deque[_Item] = deque()
        self._away: dict[int, asyncio.Task[None]] = {}
        self._gone: dict[int, str] = {}
        self._spent = _Spent(trial_timeout_s)
        self._faces = 0

    async def call(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        for turn in range(TRIES):
            self._check()
            item = _Item(method, arguments, turn > 0, asyncio.get_running_loop().create_future())
            self._waiting.append(item)
            self._hand_out()
            try:
                run = await item.turn
            except asyncio.CancelledError:
                self._check()
                raise
            try:
                again = await self._outcome(run, item)
            finally:
                self._end(run, item)
            if not again:
                break
        if not again:
            self._faces += item.rows
        return [run.values[run.items.index(item)]]

    async def faces(self) -> int:
        return self._faces

    async def serving(self) -> int:
        return len(self._workers) - len(self._away)

    def _leave(self, index: int) -> None:
        """Give a worker nothing more until it is back."""
        if index not in self._away:
            self._away[index] = asyncio.get_running_loop().create_task(self._back(index))

    async def _back(self, index: int) -> None:
        """Wait until a worker that died serves again: its machine may have gone, and the next one may still be on its way."""
        import ray

        for_good = 0
        while for_good < FOR_GOOD:
            reference, _ = self._call(index, "ready", (), 1)
            answer = asyncio.wrap_future(reference.future())
            await asyncio.wait([answer])
            error = answer.exception()
            if error is None:
                del self._away[index]
                self._hand_out()
                return
            for_good = for_good + 1 if isinstance(error, ray.exceptions.ActorDiedError) else 0
            await asyncio.sleep(LOOK_S)
        self._gone[index] = str(error).strip().splitlines()[-1][:300]
        if len(self._gone) == len(self._workers):
            while self._waiting:
                self._waiting.popleft().turn.cancel()

    def _check(self) -> None:
        """Raises TrialError when no worker is left to wait for."""
        if len(self._gone) == len(self._workers):
            raise TrialError(f"no worker is left, none could be started again: {next(iter(self._gone.values()))}")

    async def _outcome(self, run: _Run, item: _Item) -> bool:
        """Wait for the end of an item; True when it must run again alone: its worker died of something, or it was not alone and something failed.

        Raises:
            TrialError: it took too long.
        """
        import ray

        answer = asyncio.wrap_future(run.done.future())
        while True:
            left = self._spent.left(item.key)
            done, _ = await asyncio.wait([answer], timeout=None if left is None else LOOK_S)
            if done:
                error = answer.exception()
                if _is_death(error):
                    self._leave(run.index)
                    return True
                return error is not None and len(run.items) > 1
            if left is not None and run.started is not None and time.monotonic() - run.started > left:
                ray.kill(self._workers[run.index], no_restart=False)
                self._leave(run.index)
                answer.add_done_callback(lambda done: done.cancelled() or done.exception())
                if len(run.items) > 1:
                    return True
                raise self._spent.error()

    def _end(self, run: _Run, item: _Item) -> None:
        now, running = time.monotonic(), self._running[run.index]
        if run.started is not None:
            share = 1 / len(run.items)
            self._spent.add(item.key, share * (now - run.started), last=item.method == "judge")
        if run in running:
            running.remove(run)
        if running and running[0].started is None:
            running[0].started = now
        self._hand_out()

    def _load(self, index: int) -> int:
        return sum(run.items[0].weight for run in self._running[index])

    def _hand_out(self) -> None:
        while self._waiting:
            item = self._waiting[0]
            if item.turn.cancelled():
                self._waiting.popleft()
                continue
            if self._spent.left(item.key) == 0:  # it waited while another item of its trial took too long
                self._waiting.popleft().turn.set_exception(self._spent.error())
                continue
            serving = [index for index in range(len(self._workers)) if index not in self._away]
            if not serving:
                return
            index = min(serving, key=self._load)
            if self._load(index) >= (1 if item.alone else QUEUED_PER_WORKER):
                return
            self._waiting.popleft()
            self._start(_Run(index, [item, *self._company(item)]))

    def _company(self, item: _Item) -> list[_Item]:
        """Other items that fit into one batch with this one; they wait no longer."""
        if item.alone or not item.rows:
            return []
        room, found = self._together - item.rows, list[_Item]()
        for other in self._waiting:
            if 0 < other.rows <= room and not (
                other.alone or other.turn.cancelled() or self._spent.left(other.key) == 0
            ):
                found.append(other)
                room -= other.rows
        for other in found:
            self._waiting.remove(other)
        return found

    def _start(self, run: _Run) -> None:
        if not self._running[run.index]:
            run.started = time.monotonic()
        self._running[run.index].append(run)
        method, arguments = run.items[0].method, run.items[0].arguments
        if len(run.items) > 1:
            method, arguments = (
                "measure_together",
                [list(each) for each in zip(*(item.arguments for item in run.items), strict=True)],
            )
        run.done, *run.values = self._call(run.index, method, arguments, len(run.items))
        for item in run.items:
            item.turn.set_result(run)

    def _call(self, index: int, method: str, arguments: Sequence[Any], found: int) -> list[Any]:
        """A reference that tells of the end of a call, and those to what it found."""
        layout, values = _flat(arguments)
        references: list[Any] = self._workers[index].run.options(num_returns=1 + found).remote(method, layout, *values)
        return references


class RayPoolClient:
    """What a trial holds of a `RayPool`: picklable, usable from any process of the session."""

    def __init__(self, dispatcher: Any, size: int, together: int = 0) -> None:
        self._dispatcher, self.size, self._together = dispatcher, size, together

    def trials_at_once(self, rows: int) -> int:
        """How many trials keep all workers busy, where an item of a trial has so many faces: several per batch when they are small."""
        in_a_batch = min(MOST_IN_A_BATCH, max(1, self._together // max(1, rows)))
        return in_a_batch * self.size + AHEAD

    def call(self, method: str, *arguments: Any) -> _Handle:
        """Queue the item, as soon as the items whose handles it takes are done.

        Raises:
            TrialError: one of those was given up.
        """
        given = [
            [self._reference(item) for item in argument] if isinstance(argument, list) else self._reference(argument)
            for argument in arguments
        ]
        return _Handle(self._dispatcher.call.remote(method, given))

    def wait(self, handles: Sequence[_Handle]) -> None:
        """The dispatcher answers when an item is done."""
        import ray

        answers = [handle.answer for handle in handles]
        if answers:
            ray.wait(answers, num_returns=len(answers), fetch_local=False)

    def result(self, handle: _Handle) -> Any:
        """Wait for the value; what the item raised is raised again in its own type."""
        import ray

        with self._told():
            return ray.get(self._reference(handle))

    def _reference(self, argument: Any) -> Any:
        """Of a handle what lies with Ray; anything else as it is."""
        import ray

        if not isinstance(argument, _Handle):
            return argument
        with self._told():
            return ray.get(argument.answer)[0]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What an item raised is raised again in its own type; that Ray has no room for a value, in memory or on disk, as a `SessionError`."""
        from ray.exceptions import ObjectLostError, RayError, RayTaskError

        try:
            yield
        except RayError as error:
            # Inside a task's error is that of an item which this one was to use.
            cause: BaseException | None = error
            while isinstance(cause, RayTaskError):
                cause = cause.cause
            if isinstance(cause, ObjectLostError):
                raise _lost(cause) from error
            if cause is not None and _is_death(cause):
                raise _died(cause) from error
            if cause is not None and (full := short_of_room(cause)) is not None:
                raise full from error
            raise (cause if isinstance(cause, Exception) else error) from None

    def serving(self) -> int:
        """Workers that take items now; fewer than `size` while some are being started again."""
        import ray

        return int(ray.get(self._dispatcher.serving.remote()))

    def faces(self) -> int:
        """Faces measured so far, over all workers."""
        import ray

        return int(ray.get(self._dispatcher.faces.remote()))


def _is_death(error: BaseException | None) -> bool:
    """Whether it says that a worker's process is gone; an actor that Ray ends for want of memory has an error of its own.

    A task's error tells of an item before, whose worker died for good: the worker that found so lives.
    """
    from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

    return isinstance(error, RayActorError | OutOfMemoryError) and not isinstance(error, RayTaskError)


def _died(error: BaseException) -> TrialError:
    return TrialError(f"the worker's process died at this trial, also when it ran alone: {_first_line(error)}")


def _lost(error: BaseException) -> ResultLostError:
    return ResultLostError(f"a result was lost with the machine that held it: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class RayPool(RayPoolClient):
    """Standing actors, one per accelerator (or core), started at full size.

    Args:
        plan: what every worker loads.
        workers: how many.
        gpus: GPUs of the session; each worker gets an equal share.
        trial_timeout_s: work that a trial may take in all, None for any; the worker of one that takes longer is started anew.
        worker_of: as of `LocalPool`.
        together: faces that small items of several trials may have in all to share a batch; 0 for none.
    """

    def __init__(
        self,
        plan: Plan,
        workers: int,
        gpus: float,
        trial_timeout_s: float | None = None,
        worker_of: WorkerOf = trial_worker,
        together: int = 0,
    ) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = ray.remote(_WorkerActor).options(
            # Not a whole core: the trials, which only wait, must find a little of one as well.
            num_cpus=0.9 if not gpus else 0.5,
            num_gpus=gpus / workers if gpus else 0,
            # Over all machines, where there are several.
            scheduling_strategy="SPREAD",
            max_restarts=-1,
            max_concurrency=QUEUED_PER_WORKER,
            # The dispatcher gives an item to another worker; Ray would wait for this one, whose machine may never come back.
            max_task_retries=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(plan.threads)}},
        )
        self._workers = [actor.remote(plan, worker_of) for _ in range(workers)]
        # On the machine of the driver, which ends the sweep anyway when it goes.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        dispatcher = ray.remote(_Dispatcher).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
        dispatcher = dispatcher.remote(self._workers, trial_timeout_s, together)
        super().__init__(dispatcher, workers, together)

    def wait_ready(self, progress: Callable[[int], None]) -> None:
        """Block until every worker has loaded its models.

        Raises:
            RaysweepError: of the worker that could not load.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        waiting = [worker.run.options(num_returns=2).remote("ready", ())[0] for worker in self._workers]
        total = len(waiting)
        try:
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1, timeout=READY_TIMEOUT_S)
                if not done:
                    raise StoreError(f"{len(waiting)} of {total} workers did not start within {READY_TIMEOUT_S:.0f} s")
                ray.get(done)
                progress(total - len(waiting))
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except (RayActorError, GetTimeoutError) as error:
            raise StoreError(f"a worker could not start: {error}") from error

    def client(self) -> RayPoolClient:
        """For a trial in another process."""
        return RayPoolClient(self._dispatcher, self.size, self._together)

    def pids(self) -> list[int]:
        """Process ids of the workers, as soon as all of them serve (for fault tests)."""
        import ray

        while self.serving() < self.size:
            time.sleep(LOOK_S)
        return list(ray.get([worker.pid.remote() for worker in self._workers]))

    def close(self) -> None:
        """Stop the workers."""
        import ray

        for worker in self._workers:
            ray.kill(worker)
        ray.kill(self._dispatcher)
