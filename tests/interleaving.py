"""
A controlled scheduler: every order in which a small piece of asyncio code can run, one by one.

The loop keeps asyncio's promise: what is ready runs in the order in which it became ready. Open
is only what is open in life too: when something comes from outside (an *arrival*: the result of
work on a thread, a request, a token of a provider, a client that takes what was sent), and so
before which of the ready callbacks. An arrival may run before a callback if it was there when
that callback became ready. At each such point the search takes every way, by running the whole
again with the choices so far and the next one: depth first, until none is left.

Work on threads is done at one moment, on the loop's thread, and its result comes then or later.
That is all there is to see of it as long as each job does one thing that others can see (a read
opens the file, a rewrite renames it), and two jobs whose order can be seen run in both orders.

An arrival that does no more than wake somebody is not tried before a callback that made nothing
ready: that would be the same as after it.

With a `bound`, an arrival overtakes a ready callback at most so often in one schedule (preemption
bounding, as in CHESS); the order in which arrivals come to an idle loop is always free.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.choices import Broken, Choices

STEPS = 5000
"""A schedule that is longer than this never ends."""


@dataclass(slots=True, eq=False)
class Arrival:
    """
    Something from outside that may come from now on.

    Attributes:
        wakes: It does no more than make callbacks ready.
        work: What is still to be done on a thread; None where nothing is, or it was done.
    """

    name: str
    born: int
    deliver: Callable[[], None]
    wakes: bool
    work: Callable[[], None] | None = None


Option = tuple[Arrival | None, Arrival | None]
"""An arrival, if not what is ready, and one whose work is done before it."""


class InterleavedLoop(asyncio.BaseEventLoop):
    """
    A loop that has no clock and no sockets, and runs what `choices` choose, until nothing is left.

    Timers never fire. Until `free` is called everything comes in the order in which it was asked.

    Attributes:
        prompt: Names of arrivals that come as soon as the loop is idle, where that is no loss.
        watch: Called after each step.
    """

    def __init__(self, choices: Choices, apart: Callable[[str, str], bool]) -> None:
        """`apart` says of two jobs on threads, by name, that nobody can tell which ran first."""
        super().__init__()
        self.choices = choices
        self.prompt: frozenset[str] = frozenset()
        self.watch: Callable[[], None] = lambda: None
        self.errors: list[BaseException] = []
        self._apart = apart
        self._queue: deque[tuple[int, asyncio.Handle]] = deque()
        self._arrivals: list[Arrival] = []
        self._births = itertools.count()
        self._freed = False
        self.set_exception_handler(self._failed)

    def free(self) -> None:
        """From here on every order is tried."""
        self._freed = True

    def settle(self) -> None:
        """From here on there is one order again."""
        self._freed = False

    def note(self, step: str) -> None:
        """Add to what a `Broken` shows of the schedule."""
        if self._freed:
            self.choices.steps.append(step)

    async def moment(self, name: str) -> None:
        """Wait for something from outside, which comes at any time."""
        future: asyncio.Future[None] = self.create_future()
        self._arrivals.append(
            Arrival(name, next(self._births), partial(_set, future, None), wakes=True)
        )
        await future

    def arrive(self, name: str, deliver: Callable[[], None]) -> None:
        """Have `deliver` called on the loop, at any time from now on."""
        self._arrivals.append(Arrival(name, next(self._births), deliver, wakes=False))

    # ---- what asyncio asks of a loop

    def time(self) -> float:
        return 0.0

    def call_soon(  # type: ignore[override]  # what it is called with need not be told apart here
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append((next(self._births), handle))
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return asyncio.TimerHandle(when, callback, args, self, context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        result: list[Callable[[], None]] = []

        def work() -> None:
            try:
                result.append(partial(_set, future, func(*args)))
            except Exception as error:
                result.append(partial(_refuse, future, error))

        name = job_name(func)
        arrival = Arrival(name, next(self._births), lambda: result[0](), True, work)
        self._arrivals.append(arrival)
        return future

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or AssertionError(context["message"]))

    # ---- the choices

    def run_until_idle(self) -> None:
        """Run until nothing is ready and nothing can come."""
        self.run_forever()
        if self.errors:
            raise self.errors[0]

    def _run_once(self) -> None:
        while self._queue and self._queue[0][1].cancelled():
            self._queue.popleft()
        if self.errors or not (self._queue or self._arrivals):
            self.stop()
            self._queue.clear()
            return
        choices = self.choices
        if self._freed:
            options = list(self._options())
            self._run(options, choices.pick(len(options)))
        else:
            self._run([next(self._options())], 0)
        assert len(choices.steps) < STEPS, "this never ends"
        self.watch()

    def _options(self) -> Iterator[Option]:
        """Yield what may run now: what is ready; arrivals, after some other's work or not."""
        arrivals = self._arrivals
        if self._queue:
            yield None, None
            bound = self.choices.bound
            if not self._freed or (bound is not None and self.choices.overtakings >= bound):
                return
            front = self._queue[0][0]
            arrivals = [a for a in arrivals if a.born < front and a.name not in self.prompt]
            arrivals.sort(key=lambda arrival: arrival.wakes)
        elif prompt := [arrival for arrival in arrivals if arrival.name in self.prompt]:
            arrivals = prompt[:1]
        for arrival in arrivals:
            yield arrival, None
            if arrival.work is not None:
                for other in self._arrivals:
                    if other is not arrival and other.work is not None:
                        if not self._apart(arrival.name, other.name):
                            yield arrival, other

    def _run(self, options: list[Option], number: int) -> None:
        arrival, earlier = options[number]
        if arrival is not None:
            self._come(arrival, earlier)
            return
        handle = self._queue.popleft()[1]
        self.note("  run " + _callback_name(handle))
        ready = self._queue[-1][0] if self._queue else 0
        handle._run()
        if len(options) > 1 and (self._queue[-1][0] if self._queue else 0) == ready:
            self.choices.only(sum(came is None or not came.wakes for came, _ in options))

    def _come(self, arrival: Arrival, earlier: Arrival | None) -> None:
        self.choices.overtakings += bool(self._queue)
        self._arrivals.remove(arrival)
        if earlier is not None and earlier.work is not None:
            self.note("WORK " + earlier.name)
            earlier.work()
            earlier.work = None
        self.note("COME " + arrival.name)
        if arrival.work is not None:
            arrival.work()
        asyncio.Handle(arrival.deliver, (), self)._run()


def job_name(job: Callable[..., Any]) -> str:
    """Name a job by its function."""
    while isinstance(job, partial):
        through_a_context = isinstance(getattr(job.func, "__self__", None), Context)
        job = job.args[0] if through_a_context else job.func
    return getattr(job, "__name__", type(job).__name__)


def _callback_name(handle: asyncio.Handle) -> str:
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        # Tasks without a name are numbered through all schedules.
        name, coroutine = owner.get_name(), owner.get_coro()
        return getattr(coroutine, "__qualname__", name) if name.startswith("Task-") else name
    return job_name(callback)


def _set(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _refuse(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


Scenario = Callable[[InterleavedLoop], None]
"""Plays something on a loop, from the beginning to its end, and raises where it went wrong."""
Apart = Callable[[str, str], bool]


def play(scenario: Scenario, choices: Choices, apart: Apart = lambda one, other: False) -> None:
    """
    Play one schedule.

    Raises:
        Broken: Something went wrong in it.
    """
    loop = InterleavedLoop(choices, apart)
    try:
        scenario(loop)
    except Exception as error:
        raise Broken(choices, error) from error
    finally:
        loop.close()


def explore(scenario: Scenario, bound: int | None, apart: Apart = lambda one, other: False) -> int:
    """
    Play every schedule within the bound; returns how many there are.

    Raises:
        Broken: Something went wrong in one of them.
    """
    prefix: list[tuple[int, int]] | None = []
    count = 0
    while prefix is not None:
        choices = Choices(prefix, bound)
        play(scenario, choices, apart)
        count += 1
        prefix = choices.following()
    return count
