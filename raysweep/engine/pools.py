"""Standing workers behind one interface: `call` hands out a work item, `result` waits for it.

`LocalPool` runs items in this process, `RayPool` in actors that live as long as the sweep. A handle may be passed as an
argument of a further call: the values then go from worker to worker without passing through the caller.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from raysweep.errors import StoreError

if TYPE_CHECKING:
    from raysweep.engine.worker import WorkerPlan

__all__ = ["LocalPool", "Pool", "RayPool", "RayPoolClient", "default_workers"]

QUEUED_PER_WORKER = 2
"""Items handed to one actor at a time: the second one waits beside it, so that the actor never idles between items."""

LONG = ("fit", "develop")
"""Items behind which nothing waits: they may train."""

READY_TIMEOUT_S = 300.0
"""Until all workers have loaded their models: importing torch alone takes 10 s on a loaded core."""


class Pool(Protocol):
    """Where the work items of a trial run."""

    size: int

    def call(self, method: str, *arguments: Any) -> Any:
        """Start `TrialWorker.method(*arguments)`; arguments may be handles, or lists of handles."""

    def wait(self, handles: Sequence[Any]) -> None:
        """Wait until the items are done, without fetching their values; their errors show when a value is used."""

    def result(self, handle: Any) -> Any:
        """Wait for the value of a handle, or raise what the item raised."""


class LocalPool:
    """One worker in this process; items run at once."""

    size = 1

    def __init__(self, plan: WorkerPlan) -> None:
        from raysweep.engine.worker import TrialWorker

        self.worker = TrialWorker(plan)

    def call(self, method: str, *arguments: Any) -> Any:
        """Run the item and return its value as the handle."""
        return getattr(self.worker, method)(*arguments)

    def wait(self, handles: Sequence[Any]) -> None:
        """Done already."""

    def result(self, handle: Any) -> Any:
        """The handle is the value."""
        return handle

    def close(self) -> None:
        """Nothing to stop."""


def default_workers(cpus: int, gpus: int) -> int:
    """One worker per GPU, else one per core."""
    return gpus or max(1, cpus)


class _WorkerActor:
    """A `TrialWorker` in an actor; takes handles as one-element lists, so that a dispatcher does not fetch their values."""

    def __init__(self, plan: WorkerPlan) -> None:
        from raysweep.engine.worker import TrialWorker

        self._worker = TrialWorker(plan)

    def run(self, method: str, arguments: Sequence[Any]) -> Any:
        return getattr(self._worker, method)(*(_fetch(argument) for argument in arguments))

    def pid(self) -> int:
        return os.getpid()


class _Handle:
    """A work item whose value lies with Ray. Small and picklable."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer


def _fetch(argument: Any) -> Any:
    import ray

    if isinstance(argument, _Handle):
        return ray.get(ray.get(argument.answer)[0])
    if isinstance(argument, list):
        return [_fetch(item) for item in argument]
    return argument


class _Dispatcher:
    """Gives each item, in the order in which items come, to the worker with the least to do.

    A worker gets a second item while it works on a short one; nothing waits behind a training.
    """

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = list(workers)
        self._load = [0] * len(self._workers)
        self._waiting: deque[tuple[str, Sequence[Any], asyncio.Future[Any]]] = deque()
        self._faces = 0

    async def call(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((method, arguments, turn))
        self._hand_out()
        index = await turn
        weight = QUEUED_PER_WORKER if method in LONG else 1
        try:
            reference = self._workers[index].run.remote(method, arguments)
            await asyncio.wait([asyncio.wrap_future(reference.future())])
        finally:
            self._load[index] -= weight
            self._hand_out()
        if method == "measure":
            self._faces += len(arguments[-1])
        return [reference]

    async def faces(self) -> int:
        return self._faces

    def _hand_out(self) -> None:
        while self._waiting:
            index = min(range(len(self._load)), key=self._load.__getitem__)
            if self._load[index] >= QUEUED_PER_WORKER:
                return
            method, _, turn = self._waiting.popleft()
            if turn.cancelled():
                continue
            self._load[index] += QUEUED_PER_WORKER if method in LONG else 1
            turn.set_result(index)


class RayPoolClient:
    """What a trial holds of a `RayPool`: picklable, usable from any process of the session."""

    def __init__(self, dispatcher: Any, size: int) -> None:
        self._dispatcher, self.size = dispatcher, size

    def call(self, method: str, *arguments: Any) -> _Handle:
        """Queue the item."""
        return _Handle(self._dispatcher.call.remote(method, arguments))

    def wait(self, handles: Sequence[_Handle]) -> None:
        """The dispatcher answers when an item is done."""
        import ray

        answers = [handle.answer for handle in handles]
        ray.wait(answers, num_returns=len(answers), fetch_local=False)

    def result(self, handle: _Handle) -> Any:
        """Wait for the value; what the item raised is raised again in its own type."""
        import ray
        from ray.exceptions import RayTaskError

        try:
            return _fetch(handle)
        except RayTaskError as error:
            cause = error.cause
            while isinstance(cause, RayTaskError):
                cause = cause.cause
            raise (cause if isinstance(cause, Exception) else error) from None
        except ray.exceptions.RayActorError as error:
            raise StoreError(f"a worker died and could not be restarted: {error}") from error

    def faces(self) -> int:
        """Faces measured so far, over all workers."""
        import ray

        return int(ray.get(self._dispatcher.faces.remote()))


class RayPool(RayPoolClient):
    """Standing actors, one per accelerator (or core), started at full size.

    Args:
        plan: what every worker loads.
        workers: how many.
        gpus: GPUs of the session; each worker gets an equal share.
    """

    def __init__(self, plan: WorkerPlan, workers: int, gpus: float) -> None:
        import ray

        actor = ray.remote(_WorkerActor).options(
            # Not a whole core: the trials, which only wait, must find a little of one as well.
            num_cpus=0.9 if not gpus else 0.5,
            num_gpus=gpus / workers if gpus else 0,
            max_restarts=-1,
            max_task_retries=2,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(plan.threads)}},
        )
        self._workers = [actor.remote(plan) for _ in range(workers)]
        dispatcher = ray.remote(_Dispatcher).options(num_cpus=0, max_concurrency=10_000).remote(self._workers)
        super().__init__(dispatcher, workers)

    def wait_ready(self, progress: Callable[[int], None]) -> None:
        """Block until every worker has loaded its models.

        Raises:
            RaysweepError: of the worker that could not load.
        """
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        waiting = [worker.run.remote("ready", ()) for worker in self._workers]
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
        return RayPoolClient(self._dispatcher, self.size)

    def pids(self) -> list[int]:
        """Process ids of the workers (for fault tests)."""
        import ray

        return list(ray.get([worker.pid.remote() for worker in self._workers]))

    def close(self) -> None:
        """Stop the workers."""
        import ray

        for worker in self._workers:
            ray.kill(worker)
        ray.kill(self._dispatcher)
