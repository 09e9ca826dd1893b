"""Whether memory stays flat: over many turns, and over many users that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from chatstream.bench import processes
from chatstream.bench.clients import Client
from chatstream.bench.processes import Server
from chatstream.bench.script import Script

TURNS = USERS = 10_000
AT_ONCE = 20
STEPS = 5
MIB = 1024 * 1024


class Growth(NamedTuple):
    """Resident bytes after so many turns, step by step."""

    name: str
    steps: list[tuple[int, int]]


async def measure(folder: Path, note: Callable[[str], None]) -> list[Growth]:
    """
    Run turns of a hundred users, then one turn for each of many users.

    Raises:
        BenchFailed: An answer was wrong.
    """
    async with (
        processes.upstream(folder) as provider,
        processes.chatstream(folder, provider, AT_ONCE) as server,
    ):
        return [
            await _grow(server, "turns of 100 users", TURNS, 100, note),
            await _grow(server, "users that came and went", USERS, USERS, note),
        ]


async def _grow(
    server: Server, name: str, turns: int, users: int, note: Callable[[str], None]
) -> Growth:
    steps = [(0, server.memory)]
    for step in range(STEPS):
        numbers = iter(range(step * turns // STEPS, (step + 1) * turns // STEPS))
        await asyncio.gather(
            *(_call(server, (f"{name}-{n % users}" for n in numbers)) for _ in range(AT_ONCE))
        )
        steps.append(((step + 1) * turns // STEPS, server.memory))
        note(f"{steps[-1][0]:,} {name}: {steps[-1][1] / MIB:.0f} MiB")
    return Growth(name, steps)


async def _call(server: Server, users: Iterator[str]) -> None:
    """Have a turn for each user, one after the other; callers share what is left of the users."""
    script = Script(20, 0)
    loop = asyncio.get_running_loop()
    for user_id in users:
        body = {"user_id": user_id, "message": "Tell me of the sea.", "model": script.model}
        client = Client(body, _nothing)
        await loop.create_connection(partial(_same, client), "127.0.0.1", server.port)
        await client.done
        client.check(script.text)


def _same(client: Client) -> Client:
    return client


def _nothing() -> None:
    """Nobody waits for the first token."""


def table(found: list[Growth]) -> str:
    """Return the growth as Markdown."""
    lines = ["| resident MiB after | count: MiB |", "| --- | --- |"]
    for growth in found:
        told = ", ".join(f"{count:,}: {size / MIB:.1f}" for count, size in growth.steps)
        lines.append(f"| {growth.name} | {told} |")
    return "\n".join(lines)


def as_json(found: list[Growth]) -> list[dict[str, Any]]:
    """Return it for programs, in bytes."""
    return [growth._asdict() for growth in found]
