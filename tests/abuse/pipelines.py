"""Requests without end over one connection, their answers never read."""

from __future__ import annotations

import asyncio

from tests.abuse.target import Attack, Target

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"HEAD /history HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = (
    b"POST /feedback HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 12\r\n\r\n{"rating":9}'
)


async def requests_whose_answers_are_never_read(target: Target) -> None:
    """Send one request again and again."""
    _, writer = await target.connect()
    await target.pour(writer, HEALTH * 500)
    writer.transport.abort()


async def requests_of_several_kinds_never_read(target: Target) -> None:
    """Send several."""
    _, writer = await target.connect()
    await target.pour(writer, (HEALTH + HEAD + POST) * 200)
    writer.transport.abort()


async def requests_behind_an_answer_that_never_ends(target: Target) -> None:
    """Open a stream, then ask for more on the same connection."""
    _, writer = await target.connect()
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await target.pour(writer, HEALTH * 500)
    writer.transport.abort()


async def requests_whose_answers_are_read(target: Target) -> None:
    """Send as fast as the server answers, and read what comes."""
    reader, writer = await target.connect()

    async def read() -> None:
        while await reader.read(1 << 20):
            pass

    reading = asyncio.ensure_future(read())
    await target.pour(writer, HEALTH * 500)
    writer.transport.abort()
    reading.cancel()


ATTACKS: tuple[Attack, ...] = (
    requests_whose_answers_are_never_read,
    requests_of_several_kinds_never_read,
    requests_behind_an_answer_that_never_ends,
    requests_whose_answers_are_read,
)
