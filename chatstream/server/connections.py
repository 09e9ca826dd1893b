"""
All connections of a server: their number, their deadlines, and the order in which they are read.

What comes is taken in slices. A connection that has more than one slice waits in a queue with all
others that have; each time around the loop a few milliseconds go to that queue, so that whatever
one client sends, everybody else's next request is seen at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from chatstream.web.rate_limits import network

HEAD_SECONDS = 20.0
"""For a request's head: from the connection's opening, then from the head's first byte."""
KEPT_SECONDS = 75.0
"""For which an unused connection is kept after an answer."""
REST_SECONDS = 5.0
"""For the rest of a body whose request has been answered already."""
SPARE_SECONDS = 2.0
"""For the head of a request that has come over a spare place."""
IDLE_SECONDS = 1.0
"""A connection that owes a head for so long gives its place to another, when there is no other."""
SPARES = 32
"""Places beyond the limit, where health checks are answered, and all else is refused."""

TURN_SECONDS = 0.005
"""Of each time around the loop, for connections that send more than a slice."""
LOOK_SECONDS = 1.0


class Turns:
    """Work in slices: each time around the loop a few milliseconds of it, in turns."""

    __slots__ = ("_loop", "_steps", "_scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: deque[Callable[[], bool]] = deque()
        self._scheduled = False

    def add(self, step: Callable[[], bool]) -> None:
        """Take a step soon, and again as long as it returns True: there is more to do."""
        self._steps.append(step)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        steps = self._steps
        until = perf_counter() + TURN_SECONDS
        while steps and perf_counter() < until:
            step = steps.popleft()
            if step():
                steps.append(step)
        self._scheduled = bool(steps)
        if steps:
            self._loop.call_soon(self._run)


class Waiting(Protocol):
    """
    A connection that has to send something: a head, or the rest of a body.

    Attributes:
        since: The beginning of the wait, in the loop's time.
        deadline: The end of the wait.
    """

    since: float
    deadline: float

    def expire(self) -> None:
        """End it: its deadline has passed."""
        ...

    def drop(self) -> None:
        """End it without a word: its place is needed."""
        ...


class Place:
    """
    One connection's place. It is left exactly once.

    Attributes:
        spare: Whether it is beyond the limit, for a health check only.
    """

    __slots__ = ("_address", "_connections", "spare")

    def __init__(self, connections: Connections, address: str, spare: bool) -> None:
        self._connections = connections
        self._address = address
        self.spare = spare

    def leave(self) -> None:
        """Let another have it."""
        self._connections._left(self._address)


class Connections:
    """Counts and times the connections of one server. For the loop's thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, most: int | None = None, most_each: int = 0
    ) -> None:
        """Take at most `most` in all and `most_each` of an address; None and 0 are no limits."""
        self.turns = Turns(loop)
        self._loop = loop
        self._most = most
        self._most_each = most_each
        self._count = 0
        self._of: Counter[str] = Counter()
        self._waiting: dict[Waiting, None] = {}
        self._spares: dict[Waiting, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._count

    def enter(self, connection: Waiting, address: str) -> Place:
        """Take a connection in; where there is no place, one that says nothing leaves first."""
        address = network(address)
        spare = bool(self._most_each) and self._of[address] >= self._most_each
        if not spare and self._most is not None and self._count - len(self._spares) >= self._most:
            spare = not self._make_room()
        self._count += 1
        self._of[address] += 1
        self.wait(connection, SPARE_SECONDS if spare else HEAD_SECONDS)
        if spare:
            self._spares[connection] = None
            if len(self._spares) > SPARES:
                self._drop(next(iter(self._spares)))
        return Place(self, address, spare)

    def wait(self, connection: Waiting, seconds: float) -> None:
        """Wait for a connection from now on, for so long."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None
        connection.since = self._loop.time()
        connection.deadline = connection.since + seconds
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def go(self, connection: Waiting) -> None:
        """Wait for a connection no longer; also for one that is not waited for."""
        self._waiting.pop(connection, None)
        self._spares.pop(connection, None)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _make_room(self) -> bool:
        """End the connection that has been unused for longest; return whether there was one."""
        longest = next((one for one in self._waiting if one not in self._spares), None)
        if longest is None or self._loop.time() - longest.since < IDLE_SECONDS:
            return False
        self._drop(longest)
        return True

    def _drop(self, connection: Waiting) -> None:
        self.go(connection)
        connection.drop()

    def _left(self, address: str) -> None:
        self._count -= 1
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

    def _look(self) -> None:
        now = self._loop.time()
        for connection in [one for one in self._waiting if one.deadline <= now]:
            self.go(connection)
            connection.expire()
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look) if self._waiting else None
