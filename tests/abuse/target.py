"""What an attack is given, and a group of attacks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

Attack = Callable[["Target"], Awaitable[None]]
World = Callable[[], AbstractContextManager[Mapping[str, str]]]


@dataclass(frozen=True)
class Target:
    """
    The server under attack.

    Attributes:
        port: Where it is, on loopback.
        until: When to stop, by `time.monotonic`.
    """

    port: int
    until: float

    @property
    def left(self) -> float:
        """Seconds that the attack has left; 0 once its time is up."""
        return max(0.0, self.until - time.monotonic())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, of which nothing is read beyond 64 KiB unless the attack reads."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def pour(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Send the same bytes again and again, as fast as the server takes them."""
        try:
            async with asyncio.timeout(self.left):
                while True:
                    writer.write(data)
                    await writer.drain()
        except (TimeoutError, ConnectionError):
            return  # its time is up, or the server does not want more


@contextmanager
def alone() -> Iterator[Mapping[str, str]]:
    """Need nothing besides the server."""
    yield {"CHATSTREAM_PROVIDER": "offline"}


@dataclass(frozen=True)
class Group:
    """
    Attacks on servers that are started alike.

    Attributes:
        name: What the table calls it.
        attacks: Each meets a server of its own.
        world: What the servers need; yields their environment.
    """

    name: str
    attacks: Sequence[Attack]
    world: World = alone
