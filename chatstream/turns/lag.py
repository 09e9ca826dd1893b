"""
How late the event loop is: one measurement for all, and turns of it for what is dear.

A loop that is late makes every stream late. Who would add to it can look at `Lag`, or wait in
`Turns`, which lets a few go on in each round of the loop, so that no round gets long.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable

TICK_SECONDS = 0.02
SMOOTHING_SECONDS, RECENT_SECONDS = 1.0, 0.3
"""One late moment says little; a second of them says that there is too much to do."""
MOST_OF_ONE = 0.2
"""Seconds that one tick may say: a machine that stood still is not a loop with too much to do."""


OTHERS_SHARE = 0.25
"""
So much counts of what the loop was late while its thread did nothing: where other programs have the
machine, to refuse turns helps little.
"""


class Lag:
    """
    Looks how late the loop is, while there is something that could be late. For its thread.

    Attributes:
        smoothed: By how many seconds what is due comes late, as it was over about the last second;
            what other programs add to it counts by a quarter.
        recent: The same over about a third of that.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        """While `busy` says no, there is no timer."""
        self._loop = asyncio.get_running_loop()
        self._busy = busy
        self._looks = False
        self._due = self._worked = 0.0
        self._waiting: asyncio.Future[None] | None = None
        self.smoothed = self.recent = 0.0

    def start(self) -> None:
        """Look from now on, as long as it is busy; nothing is known of before."""
        if not self._looks:
            self._looks = True
            self.smoothed = self.recent = 0.0
            self._wait()

    async def tick(self) -> None:
        """Wait until the next look, or not at all where there is none."""
        if self._looks:
            if self._waiting is None:
                self._waiting = self._loop.create_future()
            await asyncio.shield(self._waiting)

    def _wait(self) -> None:
        self._due = self._loop.time() + TICK_SECONDS
        self._worked = time.thread_time()
        self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        late = min(max(0.0, self._loop.time() - self._due), MOST_OF_ONE)
        own = min(late, time.thread_time() - self._worked)
        late = own + (late - own) * OTHERS_SHARE
        self.smoothed += _weight(late, SMOOTHING_SECONDS) * (late - self.smoothed)
        self.recent += _weight(late, RECENT_SECONDS) * (late - self.recent)
        if self._busy():
            self._wait()
        else:
            self._looks = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


def _weight(late: float, seconds: float) -> float:
    # A late tick stands for all the time since the last one.
    return 1 - math.exp(-(TICK_SECONDS + late) / seconds)


class Turns:
    """Lets so many go on in each round of the loop, in the order in which they came."""

    def __init__(self, a_round: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._a_round = a_round
        self._left = a_round
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Go on in this round of the loop if it has room, else in one that has."""
        if self._left == self._a_round:
            self._loop.call_soon(self._next_round)
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn = self._loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_round(self) -> None:
        self._left = self._a_round
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # else it was cancelled
                turn.set_result(None)
                self._left -= 1
        if self._left < self._a_round:
            self._loop.call_soon(self._next_round)
