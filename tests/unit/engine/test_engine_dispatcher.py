"""Who gets which work item: stragglers, poison, time-outs. Workers are stand-ins, the dispatcher is the real one."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayActorError

from raysweep.engine.pools import LocalPool, ResultLostError, _Dispatcher, _Spent
from raysweep.engine.record import Outcome, TrialTask, Work
from raysweep.engine.trial import trial_records
from raysweep.errors import TrialError
from raysweep.metrics.value import MetricValue


@dataclass
class Task:
    key: str


class StandIn:
    """Works on its items one after the other, each for as long as `seconds` says; None dies, and takes with it what waits.

    `back` is what it says when it is asked, after that, whether it serves again; None for yes. `word` is what Ray says of its death.
    """

    def __init__(
        self,
        seconds: Callable[[Any], float | None],
        back: Exception | None = None,
        word: Callable[[], Exception] = RayActorError,
    ) -> None:
        self.seconds = seconds
        self.back = back
        self.word = word
        self.done: list[Any] = []
        self.deaths = 0
        self.calls: list[str] = []
        self._queue: list[tuple[Any, concurrent.futures.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None
        self.run = self

    def options(self, num_returns: int) -> StandIn:
        return self

    def remote(self, method: str, layout: Any, *values: Any) -> list[StandIn.Reference]:
        self.calls.append(method)
        if method == "measure_together":
            reference = self._queued(method, [values[: layout[0]]])
            return [reference] * (1 + layout[0])
        reference = self._queued(method, values)
        return [reference, reference]

    def _queued(self, method: str, values: Any) -> StandIn.Reference:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        if method == "ready":
            if self.back is None:
                future.set_result({})
            else:
                future.set_exception(self.back)
            return self.Reference(future)
        self._queue.append((values[0], future))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())
        return self.Reference(future)

    async def _work(self) -> None:
        while self._queue:
            item, future = self._queue[0]
            seconds = self.seconds(item)
            if seconds is None:
                self.deaths += 1
                dying, self._queue = self._queue, []
                for _, each in dying:
                    each.set_exception(self.word())
                return
            await asyncio.sleep(seconds)
            if not self._queue:  # killed meanwhile
                return
            self._queue.pop(0)
            self.done.append(item)
            future.set_result(item)

    def kill(self) -> None:
        """As Ray does with `no_restart=False`: everything that it was given ends."""
        if self._task is not None:
            self._task.cancel()
        ending, self._queue = self._queue, []
        for _, future in ending:
            future.set_exception(RayActorError())

    @dataclass
    class Reference:
        answer: concurrent.futures.Future[Any]

        def future(self) -> concurrent.futures.Future[Any]:
            return self.answer


def test_a_straggler_holds_up_nobody() -> None:
    """F16: one worker is far slower; the other does nearly all, and nothing waits behind the slow one but what it holds."""
    fast, slow = StandIn(lambda item: 0.001), StandIn(lambda item: 0.4)

    async def play() -> None:
        dispatcher = _Dispatcher([slow, fast])
        await asyncio.gather(*(dispatcher.call("measure", (Task(str(n)), None, [n])) for n in range(60)))

    asyncio.run(play())
    assert len(fast.done) + len(slow.done) == 60
    assert len(slow.done) <= 6


def test_nothing_waits_behind_a_training() -> None:
    first, second = StandIn(lambda item: 0.2 if item.key == "train" else 0.001), StandIn(lambda item: 0.001)

    async def play() -> None:
        dispatcher = _Dispatcher([first, second])
        training = asyncio.ensure_future(dispatcher.call("fit", (Task("train"),)))
        await asyncio.sleep(0)
        await asyncio.gather(*(dispatcher.call("measure", (Task(str(n)), None, [n])) for n in range(10)))
        assert not training.done()
        await training

    asyncio.run(play())
    assert len(second.done) == 10


def of_each(seconds: Callable[[Task], float | None]) -> Callable[[Any], float | None]:
    """Seconds of an item, or of several in one batch."""

    def of(item: Any) -> float | None:
        found = [seconds(task) for task in item] if isinstance(item, tuple) else [seconds(item)]
        return None if None in found else max(each for each in found if each is not None)

    return of


def test_small_items_of_several_trials_share_a_batch() -> None:
    worker = StandIn(of_each(lambda task: 0.01))

    async def play() -> tuple[list[Any], int]:
        dispatcher = _Dispatcher([worker], together=128)
        small = [dispatcher.call("measure", (Task(f"small-{n}"), None, list(range(40)))) for n in range(8)]
        large = dispatcher.call("measure", (Task("large"), None, list(range(100))))
        answers = await asyncio.gather(*small, large, dispatcher.call("judge", (Task("judged"), None, [])))
        return answers, await dispatcher.faces()

    answers, faces = asyncio.run(play())
    assert faces == 8 * 40 + 100
    shared = [sorted(task.key for task in item) for item in worker.done if isinstance(item, tuple)]
    # Two begin alone, while the worker has room for them; of the rest three fit into a batch.
    assert shared == [["small-2", "small-3", "small-4"], ["small-5", "small-6", "small-7"]]
    assert len(worker.done) == 6
    assert all(answer[0].answer.exception() is None for answer in answers)


def test_what_kills_a_shared_batch_takes_nobody_with_it() -> None:
    worker = StandIn(of_each(lambda task: None if task.key == "5" else 0.001))

    async def play() -> list[Any]:
        dispatcher = _Dispatcher([worker], together=100)
        return await asyncio.gather(*(dispatcher.call("measure", (Task(str(n)), None, [0])) for n in range(8)))

    answers = asyncio.run(play())
    assert [answer[0].answer.exception() is None for answer in answers] == [n != 5 for n in range(8)]


def test_when_one_of_a_shared_batch_fails_each_runs_alone_and_one_fails() -> None:
    class Failing(StandIn):
        async def _work(self) -> None:
            while self._queue:
                item, future = self._queue.pop(0)
                await asyncio.sleep(0.001)
                if "5" in [task.key for task in (item if isinstance(item, tuple) else [item])]:
                    future.set_exception(ValueError("no such blur"))
                else:
                    future.set_result(item)

    worker = Failing(lambda item: 0.0)

    async def play() -> list[Any]:
        dispatcher = _Dispatcher([worker], together=100)
        return await asyncio.gather(*(dispatcher.call("measure", (Task(str(n)), None, [0])) for n in range(8)))

    answers = asyncio.run(play())
    assert [answer[0].answer.exception() is None for answer in answers] == [n != 5 for n in range(8)]
    assert worker.calls.count("measure_together") == 1
    assert worker.deaths == 0


def test_an_item_waits_behind_a_fit_that_trains_nothing() -> None:
    worker = StandIn(lambda item: 0.01)

    async def play() -> tuple[int, int]:
        dispatcher = _Dispatcher([worker])
        quick = TrialTask("quick", 0, "blur", {}, 0, trains=False)
        calls = [asyncio.ensure_future(dispatcher.call("fit", (task,))) for task in (quick, quick, quick)]
        await asyncio.sleep(0)
        behind_quick = len(worker._queue)
        await asyncio.gather(*calls)
        slow = TrialTask("slow", 0, "ganonymization", {}, 0)
        calls = [asyncio.ensure_future(dispatcher.call("fit", (task,))) for task in (slow, slow, slow)]
        await asyncio.sleep(0)
        behind_slow = len(worker._queue)
        await asyncio.gather(*calls)
        return behind_quick, behind_slow

    assert asyncio.run(play()) == (2, 1)


def test_an_item_whose_own_material_died_takes_no_worker_away() -> None:
    """The error of an item before, raised again by the one that was to use it: its worker lives."""
    from ray.exceptions import RayTaskError

    before = RayTaskError("measure", "trace", ActorDiedError()).as_instanceof_cause()
    assert isinstance(before, RayActorError)
    worker = StandIn(lambda item: None if item.key == "heir" else 0.001, word=lambda: before)

    async def play() -> tuple[list[list[Any]], int]:
        dispatcher = _Dispatcher([worker])
        calls = (dispatcher.call("measure", (Task(key), None, [0])) for key in ("heir", "b"))
        return await asyncio.gather(*calls), await dispatcher.serving()

    answers, serving = asyncio.run(play())
    assert serving == 1
    assert worker.deaths == 1
    assert answers[0][0].answer.exception() is before


@pytest.mark.parametrize("word", [RayActorError, lambda: OutOfMemoryError("1 worker(s) were killed")])
def test_what_kills_its_worker_is_found_and_what_waited_with_it_is_not_blamed(word: Callable[[], Exception]) -> None:
    """F4, F14: after the third death, two of them alone, the item is given back as dead; all the others end well."""
    worker = StandIn(lambda item: None if item.key == "poison" else 0.001, word=word)

    async def play() -> list[list[Any]]:
        dispatcher = _Dispatcher([worker])
        keys = ["a", "poison", "b", "c", "d"]
        return await asyncio.gather(*(dispatcher.call("measure", (Task(key), None, [0])) for key in keys))

    answers = asyncio.run(play())
    assert worker.deaths == 3
    assert sorted(item.key for item in worker.done) == ["a", "b", "c", "d"]
    failed = [answer[0].answer for answer in answers if answer[0].answer.exception()]
    assert len(failed) == 1
    assert isinstance(failed[0].exception(), type(word()))


def test_what_takes_too_long_is_ended_and_what_waited_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = StandIn(lambda item: 60.0 if item.key == "hangs" else 0.001)
    monkeypatch.setattr(ray, "kill", lambda actor, no_restart: actor.kill())
    monkeypatch.setattr("raysweep.engine.pools.LOOK_S", 0.01)

    async def play() -> list[Any]:
        dispatcher = _Dispatcher([worker], trial_timeout_s=0.1)
        calls = (dispatcher.call("measure", (Task(key), None, [0])) for key in ("a", "hangs", "b", "c"))
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(play())
    assert isinstance(answers[1], TrialError)
    assert "trial_timeout" in str(answers[1])
    assert sorted(item.key for item in worker.done) == ["a", "b", "c"]


def test_a_worker_whose_machine_never_comes_back_leaves_its_items_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raysweep.engine.pools.LOOK_S", 0.001)
    lost = StandIn(lambda item: None, back=ActorUnavailableError("restarting", None))
    other = StandIn(lambda item: 0.001)

    async def play() -> tuple[list[list[Any]], int]:
        dispatcher = _Dispatcher([lost, other])
        calls = (dispatcher.call("measure", (Task(str(number)), None, [number])) for number in range(12))
        return await asyncio.gather(*calls), await dispatcher.serving()

    answers, serving = asyncio.run(play())
    assert all(answer[0].answer.exception() is None for answer in answers)
    assert sorted(int(item.key) for item in other.done) == list(range(12))
    assert (lost.deaths, serving) == (1, 1)


def test_when_no_worker_can_be_started_again_trials_fail_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysweep.engine.pools.LOOK_S", 0.001)
    gone = ActorDiedError()
    gone.error_msg = "The actor died because of an error raised in its creation task\nno weights here"
    workers = [StandIn(lambda item: None, back=gone) for _ in range(2)]

    async def play() -> list[Any]:
        dispatcher = _Dispatcher(workers)
        calls = (dispatcher.call("measure", (Task(str(number)), None, [number])) for number in range(8))
        first = await asyncio.gather(*calls, return_exceptions=True)
        return [*first, *await asyncio.gather(dispatcher.call("fit", (Task("late"),)), return_exceptions=True)]

    answers = asyncio.run(play())
    assert {type(answer) for answer in answers} == {TrialError}
    assert "no worker is left, none could be started again: no weights here" in str(answers[-1])


class Losing:
    """A pool of numbers that loses one result on the way, at the judge of a rung."""

    size = 1

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, list[str]()

    def call(self, method: str, *arguments: Any) -> Any:
        self.calls.append(method)
        if method == "judge" and self.times:  # the last one, at full fidelity
            self.times -= 1
            return None
        value = MetricValue(0.5)
        return Outcome({"privacy": value, "utility": value}, (), {}, {}, {}) if method.startswith("judge") else method

    def wait(self, handles: Any) -> None:
        """Done already."""

    def result(self, handle: Any) -> Any:
        if handle is None:
            raise ResultLostError("a result was lost with the machine that held it")
        return handle


@pytest.mark.parametrize(("times", "state"), [(1, "complete"), (3, "complete"), (4, "failed")])
def test_what_went_with_a_machine_is_done_again_and_told_once(times: int, state: str) -> None:
    pool = Losing(times)
    task = TrialTask("key", 0, "blur", {}, 0)
    rows = [np.arange(3, dtype=np.int64)]
    found = list(trial_records(task, pool, Work(rows, [rows])))
    assert [record.state for record in found] == ["stopped", state]
    assert pool.calls.count("fit") == min(times, 3) + 1
    assert pool.calls.count("judge") == min(times, 3) + 1
    assert pool.calls.count("judge_rung") == 1


def test_what_is_left_of_a_trial_without_time_ends_no_other_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item hangs, another of its trial waits behind it: one worker is ended, not two."""
    hangs = Task("a")
    workers = [StandIn(lambda item: 60.0 if item is hangs else 0.05) for _ in range(2)]
    killed: list[Any] = []

    def kill(actor: StandIn, no_restart: bool) -> None:
        killed.append(actor)
        actor.kill()

    monkeypatch.setattr(ray, "kill", kill)
    monkeypatch.setattr("raysweep.engine.pools.LOOK_S", 0.01)

    async def play() -> list[Any]:
        dispatcher = _Dispatcher(workers, trial_timeout_s=0.2)
        tasks = (hangs, Task("b"), Task("a"))
        calls = (dispatcher.call("measure", (task, None, [0])) for task in tasks)
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(play())
    assert [isinstance(answer, TrialError) for answer in answers] == [True, False, True]
    assert killed == [workers[0]]


def test_the_items_of_a_trial_share_its_time() -> None:
    spent = _Spent(10.0)
    spent.add("a", 4.0, last=False)
    assert spent.left("a") == 6.0
    assert spent.left("b") == 10.0
    spent.add("a", 7.0, last=False)
    assert spent.left("a") == 0.0
    spent.add("a", 0.0, last=True)
    assert spent.left("a") == 10.0
    assert spent.left("") is None
    assert _Spent(None).left("a") is None


def test_the_local_pool_interrupts_a_loop_that_swallows_errors() -> None:
    class Worker:
        def fit(self, task: Task) -> str:
            while task.key == "hangs":
                try:
                    sum(range(1000))
                except ZeroDivisionError:
                    continue
            return "fitted"

    pool = LocalPool.__new__(LocalPool)
    pool.worker, pool._spent = Worker(), _Spent(0.05)  # type: ignore[assignment]
    assert pool.call("fit", Task("a")) == "fitted"
    with pytest.raises(TrialError, match=r"given up after 0\.05 s of work"):
        pool.call("fit", Task("hangs"))
    assert pool.call("fit", Task("b")) == "fitted"
