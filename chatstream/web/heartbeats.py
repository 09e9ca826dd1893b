"""
One timer for all readers of an application: heartbeats, stuck connections, the end of streams.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

STUCK_SECONDS = 60.0
"""A reader that one send waits for so long is dropped; it comes back with its last id."""
MAX_INTERVAL = 5.0


class Reader(Protocol):
    """
    What the pulse looks at.

    Attributes:
        spoke_at: When something was last sent, in the loop's time.
        sending: Whether a send is waiting for the client right now.
    """

    spoke_at: float
    sending: bool

    def beat(self) -> None:
        """Send a heartbeat soon."""
        ...

    def drop(self) -> None:
        """End the connection at once, without an end that could be mistaken for one."""
        ...

    def end(self) -> None:
        """Send what is visible, then end: the server goes away, the client is to come back."""
        ...


class Pulse:
    """Looks at every reader a few times per heartbeat. For the loop's thread."""

    def __init__(self, heartbeat: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._heartbeat = heartbeat
        self._interval = min(MAX_INTERVAL, heartbeat / 4)
        self._readers: set[Reader] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed = False

    def add(self, reader: Reader) -> None:
        """Look after a reader from now on."""
        self._readers.add(reader)
        self._idle.clear()
        reader.spoke_at = self._loop.time()
        if self.closed:
            reader.end()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._look)

    def remove(self, reader: Reader) -> None:
        """Forget a reader; also one that is not known."""
        self._readers.discard(reader)
        if not self._readers:
            self._idle.set()

    @property
    def readers(self) -> int:
        """How many it looks after."""
        return len(self._readers)

    def close(self) -> None:
        """End every stream, those too that begin later."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        for reader in list(self._readers):
            reader.end()

    async def idle(self, seconds: float) -> bool:
        """Wait until no reader is left; say whether that came about in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _look(self) -> None:
        now = self._loop.time()
        for reader in list(self._readers):
            if reader.sending:
                if now - reader.spoke_at > STUCK_SECONDS:
                    reader.drop()
            elif now - reader.spoke_at >= self._heartbeat - self._interval / 2:
                reader.beat()
        self._timer = (
            self._loop.call_later(self._interval, self._look)
            if self._readers and not self.closed
            else None
        )
