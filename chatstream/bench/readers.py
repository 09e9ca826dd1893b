"""Raw readers of running turns and conversations: they keep little, so that thousands fit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import cast

import orjson

from chatstream.bench.clients import DELTA, hello, is_ping, masked
from chatstream.bench.processes import BenchFailed, Server

CAUGHT_UP = b'"type":"caught_up"'
_TEXT = re.compile(rb'"text":"((?:[^"\\]|\\.)*)"}')
MOST_KEPT = 64
"""The mark that is waited for may be cut in two."""


class Reader(asyncio.Protocol):
    """
    Follows a conversation or a turn over SSE.

    Attributes:
        began: When it set out.
        caught_up: Done, with the moment, once everything older has come.
        arrivals: When bytes came, and how many had come by then; kept with `raw`.
        deltas: How many deltas came; of a reader that is behind, one may hold many tokens.
        received: Bytes that came.
    """

    def __init__(self, path: str, cursor: str = "", keeps: bool = False) -> None:
        """`keeps`: what came is wanted afterwards, in `raw`."""
        self.began = perf_counter()
        self.caught_up: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self.arrivals: list[tuple[float, int]] = []
        self.received = self.deltas = 0
        self.raw = bytearray()
        self._path = path
        self._cursor = cursor
        self._keeps = keeps
        self._last = b""
        self._wanted = 0
        self._reached: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast(asyncio.Transport, transport)
        resumes = f"Last-Event-ID: {self._cursor}\r\n" if self._cursor else ""
        self.transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{resumes}\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Count what came."""
        now = perf_counter()
        self.received += len(data)
        if self._keeps:
            self.raw += data
            self.arrivals.append((now, self.received))
        if not self.caught_up.done():
            if CAUGHT_UP in self._last + data:
                self.caught_up.set_result(now)
            self._last = data[-MOST_KEPT:]
        self.deltas += data.count(DELTA)
        if self._reached is not None and not self._reached.done() and self.deltas >= self._wanted:
            self._reached.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the task that waits."""
        if not self.caught_up.done():
            self.caught_up.set_exception(BenchFailed("a reader was cut before it had caught up"))

    async def reached(self, deltas: int) -> None:
        """Wait until so many deltas have come. For one task at a time."""
        if self.deltas < deltas:
            self._wanted, self._reached = deltas, asyncio.get_running_loop().create_future()
            await self._reached

    def came(self, begin: float, end: float) -> int:
        """Return how many characters of text, as JSON, came between two moments."""
        sizes = [
            max((size for moment, size in self.arrivals if moment <= at), default=0)
            for at in (begin, end)
        ]
        return sum(len(text) for text in _TEXT.findall(self.raw, *sizes))


class SocketReader(Reader):
    """Follows one conversation over a WebSocket: `path` is the query that names it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands, and subscribe at once."""
        self.transport = cast(asyncio.Transport, transport)
        user_id, _, conversation_id = self._path.partition("/")
        self.transport.write(hello(user_id))
        asked = {"type": "subscribe", "conversation_id": conversation_id or "default"}
        if self._cursor:
            asked["after"] = self._cursor
        self._ask = masked(0x81, orjson.dumps(asked))

    def data_received(self, data: bytes) -> None:
        """Count what came; a ping that comes alone, as servers send it, is answered."""
        if not self.received:
            self.transport.write(self._ask)
        elif is_ping(data):
            self.transport.write(masked(0x8A, data[2:]))
        super().data_received(data)


async def connect(server: Server, make: Callable[[], Reader]) -> Reader:
    """Connect a reader."""
    loop = asyncio.get_running_loop()
    _, reader = await loop.create_connection(make, "127.0.0.1", server.port)
    return reader


async def caught_up(server: Server, make: Callable[[int], Reader], count: int) -> list[Reader]:
    """
    Connect readers, all at once, and wait until each has what is there.

    Raises:
        BenchFailed: One was cut.
    """
    readers = await asyncio.gather(
        *(connect(server, lambda number=number: make(number)) for number in range(count))  # type: ignore[misc]
    )
    await asyncio.gather(*(reader.caught_up for reader in readers))
    return list(readers)


def leave(readers: list[Reader]) -> None:
    """Close their connections."""
    for reader in readers:
        with suppress(OSError):
            reader.transport.abort()
