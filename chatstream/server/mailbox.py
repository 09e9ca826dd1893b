"""What a socket waits with, at a tenth of what asyncio's queue and event weigh."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any


class Mailbox:
    """What `asyncio.Queue` is used for, by one reader at a time."""

    __slots__ = ("_loop", "_messages", "_reader")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: deque[Any] | None = None
        self._reader: asyncio.Future[None] | None = None

    def put_nowait(self, message: Any) -> None:
        """Append a message."""
        if self._messages is None:
            self._messages = deque()
        self._messages.append(message)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def empty(self) -> bool:
        """Return whether no message waits."""
        return not self._messages

    async def get(self) -> Any:
        """Take the oldest message, once there is one."""
        while not self._messages:
            self._messages = None
            self._reader = self._loop.create_future()
            await self._reader
            self._reader = None
        return self._messages.popleft()


class Gate:
    """What `asyncio.Event` is used for: nearly always open, so that no task waits."""

    __slots__ = ("_loop", "_opened")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._opened: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        """Return whether it is open."""
        return self._opened is None

    def clear(self) -> None:
        """Close."""
        if self._opened is None:
            self._opened = self._loop.create_future()

    def set(self) -> None:
        """Open; all that wait go on."""
        if self._opened is not None:
            self._opened.set_result(None)
            self._opened = None

    async def wait(self) -> None:
        """Wait until it is open."""
        while self._opened is not None:
            await asyncio.shield(self._opened)
