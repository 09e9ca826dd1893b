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
    """
    What the streams of one client have in common. For one event loop.

    Attributes:
        next_look: When the streams are looked at again, by `time.perf_counter`.
    """

    def __init__(self) -> None:
        self.next_look = 0.0
        self._since = 0.0
        self._streams: set[Reads] = set()
        self._left = 0  # tokens of streams that have left since
        self._waiting: list[asyncio.Future[None]] = []
        self._idle: deque[asyncio.Future[None]] = deque()
        self._room = IDLE_BURST  # seconds for idle reads; below zero, they are owed
        self._filled = 0.0

    def join(self) -> Reads:
        """Count a stream's reads from now on, until its `leave`."""
        reads = Reads(self)
        self._streams.add(reads)
        return reads

    def leave(self, reads: Reads) -> None:
        """Count a stream no more."""
        if reads in self._streams:
            self._streams.remove(reads)
            self._left += reads.tokens

    def look(self, now: float) -> None:
        """See how many tokens came since the last look, and which streams are to wait for beats."""
        elapsed = now - self._since
        streams = self._streams
        count = self._left + sum(reads.tokens for reads in streams)
        busy = count > BUSY_TOKENS * elapsed
        most = SHARED_TOKENS * elapsed / BEAT_SECONDS
        for reads in streams:
            reads.waits = busy and reads.tokens >= most
            reads.tokens = 0
        self._left = 0
        self._since, self.next_look = now, now + LOOK_SECONDS

    def beat(self) -> asyncio.Future[None]:
        """Return what ends with the next beat. One timer serves all who wait."""
        loop = asyncio.get_running_loop()
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

    def took_idle(self, seconds: float) -> asyncio.Future[None] | None:
        """Count the time of a read without content; return its turn to read on, if it waits."""
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


class Reads:
    """
    One stream's reads, all that a token pays for: no look-up, and no clock but the reader's.

    Attributes:
        tokens: How many came since the last look.
        waits: It brought enough at that look to wait for the beat.
    """

    __slots__ = ("_idle", "_pace", "tokens", "waits")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._idle = 0  # reads without content, one after the other
        self.tokens = 0
        self.waits = False

    def took(self, tokens: int, size: int, began: float) -> asyncio.Future[None] | None:
        """
        Count what a read brought; return what to wait for before the next, if anything.

        A reader that stops waiting, cancelled, leaves nothing behind.

        Args:
            tokens: How many contents.
            size: How many bytes.
            began: When work on them began, by `time.perf_counter`.
        """
        self._idle = 0 if tokens else self._idle + 1
        if size > USUAL_BYTES * tokens:
            least = IDLE_SECONDS if self._idle > FEW_IDLE else 0.0
            return self._pace.took_idle(max(perf_counter() - began, least))
        self.tokens += tokens
        if began > self._pace.next_look:
            self._pace.look(began)
        return self._pace.beat() if self.waits else None

    def leave(self) -> None:
        """Read no more. Safe to call again."""
        self._pace.leave(self)
