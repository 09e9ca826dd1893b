"""
When to read on: at once, at a common beat while very many tokens come, or when there is time for
what is no content.

A token that comes alone pays for a read, a write and a send of its own. A short wait before the
next read lets several share them. It pays where many streams are busy; below that, nobody waits.

What a provider sends besides content (comments, chunks that hold nothing) costs time as well, and
may come without end. All streams of a client together have a share of the loop's time for it; what
is above that waits, and is not read, so that everybody else is served.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Final

BUSY_TOKENS: Final = 2000
"""Above so many tokens a second, of all streams together, reads wait for the beat."""
BEAT_SECONDS: Final = 0.05
"""How long a token waits at most: three frames of a screen."""
LOOK_SECONDS: Final = 0.2
SHARED_TOKENS: Final = 2
"""A stream that brings fewer in a beat has nothing to share: for it, to wait is only to be late."""
USUAL_BYTES: Final = 2048
"""A content with all that is told beside it takes less; a read that brought less of it is idle."""
IDLE_SHARE: Final = 0.2
"""Of the time, for reads that bring no content."""
IDLE_BURST: Final = 0.02
"""Seconds that they may take at a stretch: the longest that they keep anybody else waiting."""
IDLE_SECONDS: Final = 0.0001
"""What such a read takes at least, with what was done for it below, where no clock is read."""
FEW_IDLE: Final = 3
"""So many in a row are what any answer has: a role, a comment."""
SHORTEST_IDLE: Final = 0.001


class Pace:
    """What the streams of one client have in common. For one event loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._busy = False
        self._count = 0
        self._since = 0.0
        # What each task has read since, and which of them brought enough when it was last looked.
        self._read: dict[int, int] = {}
        self._fast: frozenset[int] = frozenset()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._room = IDLE_BURST  # seconds for idle reads; below zero, they are owed
        self._filled = 0.0

    def took(
        self, tokens: int, size: int = 0, began: float = 0.0, idle: int = 0
    ) -> asyncio.Future[None] | None:
        """
        Take note of what a read brought; return what to wait for before the next, if anything.

        Who stops waiting, cancelled, leaves nothing behind. One timer serves all who wait.

        Args:
            tokens: How many contents.
            size: How many bytes.
            began: When work on them began, by `time.perf_counter`.
            idle: How many reads of this stream have brought no content, one after the other.
        """
        if size > USUAL_BYTES * tokens:
            least = IDLE_SECONDS if idle > FEW_IDLE else 0.0
            return self._took_idle(max(perf_counter() - began, least))
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._count += tokens
        reader = id(asyncio.current_task(loop))
        self._read[reader] = self._read.get(reader, 0) + tokens
        elapsed = loop.time() - self._since
        if elapsed > LOOK_SECONDS:
            self._busy = self._count > BUSY_TOKENS * elapsed
            self._count = 0
            self._since += elapsed
            most = SHARED_TOKENS * elapsed / BEAT_SECONDS
            self._fast = frozenset(r for r, count in self._read.items() if count >= most)
            self._read.clear()
        if not self._busy or reader not in self._fast:
            return None
        if not self._waiting:
            loop.call_later(BEAT_SECONDS, self._beat)
        beat = loop.create_future()
        self._waiting.append(beat)
        return beat

    def _beat(self) -> None:
        waiting, self._waiting = self._waiting, []
        for beat in waiting:
            if not beat.done():
                beat.set_result(None)

    def _took_idle(self, seconds: float) -> asyncio.Future[None] | None:
        self._fill()
        self._room -= seconds
        if self._room > 0 and not self._idle:
            return None
        loop = asyncio.get_running_loop()
        if not self._idle:
            loop.call_later(self._until_room(), self._let_one_read)
        turn = loop.create_future()
        self._idle.append(turn)
        return turn

    def _fill(self) -> None:
        now = perf_counter()
        self._room = min(self._room + (now - self._filled) * IDLE_SHARE, IDLE_BURST)
        self._filled = now

    def _until_room(self) -> float:
        return max(-self._room / IDLE_SHARE, SHORTEST_IDLE)

    def _let_one_read(self) -> None:
        """Let the next one read, if there is time: what it takes is known before another may."""
        self._fill()
        if self._room > 0:
            turn = self._idle.popleft()
            if not turn.done():
                turn.set_result(None)
        if self._idle:
            asyncio.get_running_loop().call_later(self._until_room(), self._let_one_read)
