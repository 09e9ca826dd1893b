"""WebSockets: fragments and control frames without end."""

from __future__ import annotations

import base64
import os

from tests.abuse.target import Attack, Target

MASK = b"\0\0\0\0"
TEXT, CONTINUED, PING, PONG = 0x01, 0x00, 0x89, 0x8A
FINAL = 0x80


def frame(first: int, payload: bytes = b"") -> bytes:
    """Return a client's frame of at most 125 bytes."""
    return bytes((first, 0x80 | len(payload))) + MASK + payload


async def _poured(target: Target, first: bytes, rest: bytes) -> None:
    """Open sockets again and again, and send."""
    key = base64.b64encode(os.urandom(16)).decode()
    while target.left:
        reader, writer = await target.connect()
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key.encode() + b"\r\n\r\n"
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        await target.pour(writer, rest)
        writer.transport.abort()


async def empty_fragments(target: Target) -> None:
    """Begin a message, and go on with nothing."""
    await _poured(target, frame(TEXT, b"{"), frame(CONTINUED) * 10_000)


async def fragments_of_one_byte(target: Target) -> None:
    """Send a message in the smallest pieces."""
    await _poured(target, frame(TEXT, b"{"), frame(CONTINUED, b" ") * 10_000)


async def messages_of_two_fragments(target: Target) -> None:
    """Send whole messages, each in two."""
    await _poured(target, b"", (frame(TEXT, b"{") + frame(FINAL, b"}")) * 5_000)


async def pings_whose_pongs_are_never_read(target: Target) -> None:
    """Send the largest pings."""
    await _poured(target, b"", frame(PING, b"p" * 125) * 2_000)


async def empty_pings(target: Target) -> None:
    """Send the smallest pings."""
    await _poured(target, b"", frame(PING) * 10_000)


async def pongs(target: Target) -> None:
    """Send answers to nothing."""
    await _poured(target, b"", frame(PONG) * 10_000)


async def pings_between_fragments(target: Target) -> None:
    """Send pings within one message."""
    await _poured(target, frame(TEXT, b"{"), (frame(PING) + frame(CONTINUED)) * 5_000)


async def messages_as_fast_as_they_go(target: Target) -> None:
    """Send whole messages."""
    await _poured(target, b"", frame(FINAL | TEXT, b'{"type":"ping"}') * 5_000)


async def frames_after_the_close(target: Target) -> None:
    """Say goodbye, and go on talking."""
    await _poured(target, frame(0x88, b"\x03\xe8"), frame(PING, b"p" * 125) * 2_000)


ATTACKS: tuple[Attack, ...] = (
    empty_fragments,
    fragments_of_one_byte,
    messages_of_two_fragments,
    pings_whose_pongs_are_never_read,
    empty_pings,
    pongs,
    pings_between_fragments,
    messages_as_fast_as_they_go,
    frames_after_the_close,
)
