"""Names without end: whatever a client makes up costs memory for a while, and then no more."""

from __future__ import annotations

import asyncio
from itertools import count

from tests.abuse.target import Attack, Target

STREAMS, EACH = 150, 200
"""So many streams of so many conversations each are open at once, then closed."""
REPLY = b"\r\n\r\n"


async def _head(target: Target, lines: bytes) -> None:
    """Ask, take the beginning of the answer, and leave."""
    try:
        reader, writer = await target.connect()
        writer.write(lines + b"\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(REPLY)
        writer.close()
    except (OSError, asyncio.IncompleteReadError):
        return


async def streams_of_new_conversations(target: Target) -> None:
    """Follow 200 conversations with each of 150 streams, leave, and again with new names."""
    for turn in count():
        await asyncio.gather(*(_stream(target, f"{turn}-{number}") for number in range(STREAMS)))
        if not target.left:
            return


async def _stream(target: Target, name: str) -> None:
    query = "&".join(f"conversation_id={name}-{number}" for number in range(EACH))
    await _head(target, f"GET /events?{query} HTTP/1.1".encode())


async def users_without_end(target: Target) -> None:
    """Read what new users have, of every kind."""
    paths = ("history", "conversations", "usage", "turns/unknown-turn")

    async def ask(first: int) -> None:
        for number in count(first, 8):
            for path in paths:
                if not target.left:
                    return
                await _head(target, f"GET /{path}?user_id=u{number} HTTP/1.1".encode())

    await asyncio.gather(*map(ask, range(8)))


ATTACKS: tuple[Attack, ...] = (streams_of_new_conversations, users_without_end)
