"""Connections that are opened and not used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.abuse.target import Attack, Target

CONNECTIONS = 300
PLACES = 200
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)
POST = b"POST /feedback HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"


@contextmanager
def world() -> Iterator[Mapping[str, str]]:
    """Let a server have fewer places than come."""
    yield {"CHATSTREAM_PROVIDER": "offline", "CHATSTREAM_MAX_CONNECTIONS": str(PLACES)}


async def _held(target: Target, first: bytes) -> None:
    """Open many connections that send as much, and open each again that the server closes."""

    async def hold() -> None:
        while target.left:
            try:
                reader, writer = await target.connect()
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.write(first)
            with suppress(TimeoutError, OSError):
                async with asyncio.timeout(target.left):
                    while await reader.read(65536):
                        pass
            writer.transport.abort()
            await asyncio.sleep(0.05)

    await asyncio.gather(*(hold() for _ in range(CONNECTIONS)))


async def connections_that_say_nothing(target: Target) -> None:
    """Open them."""
    await _held(target, b"")


async def half_a_head(target: Target) -> None:
    """Begin a request."""
    await _held(target, b"GET / HTTP/1.1\r\nHost: local")


async def half_an_upgrade(target: Target) -> None:
    """Begin a handshake."""
    await _held(target, UPGRADE)


async def half_a_body(target: Target) -> None:
    """Begin a body."""
    await _held(target, POST)


async def answered_and_kept(target: Target) -> None:
    """Ask once, and keep the connection."""
    await _held(target, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")


ATTACKS: tuple[Attack, ...] = (
    connections_that_say_nothing,
    half_a_head,
    half_an_upgrade,
    half_a_body,
    answered_and_kept,
)
