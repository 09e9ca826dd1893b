"""
When to read on: at once, or, while very many tokens come, at a common beat.

A token that comes alone pays for a read, a write and a send of its own. A short wait before the
next read lets several share them. It pays where many streams are busy; below that, nobody waits.
"""

from __future__ import annotations

import asyncio
from typing import Final

BUSY_TOKENS: Final = 2000
"""Above so many tokens a second, of all streams together, reads wait for the beat."""
BEAT_SECONDS: Final = 0.05
"""How long a token waits at most: three frames of a screen."""
LOOK_SECONDS: Final = 0.2
SHARED_TOKENS: Final = 2
"""A stream that brings fewer in a beat has nothing to share: for it, to wait is only to be late."""


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

    def took(self, tokens: int) -> asyncio.Future[None] | None:
        """
        Take note of what a read brought; return what to wait for before the next, if anything.

        Who stops waiting, cancelled, leaves nothing behind. One timer serves all who wait.
        """
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
