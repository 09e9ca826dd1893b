"""One user floods the server: how long the others wait for their first token, beside without it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from chatstream.bench import processes
from chatstream.bench.calls import p95
from chatstream.bench.clients import Client, post
from chatstream.bench.processes import Server
from chatstream.bench.script import Script

BEARS = 8
"""The provider refuses more answers at once."""
OTHERS, TURNS = 3, 40
SCRIPT = Script(30, 100)
FLOOD_SECONDS = 0.005
"""The flooding user starts a turn this often, whatever comes back."""


@dataclass(frozen=True)
class Wait:
    """Seconds to the first token of those who do not flood."""

    name: str
    seconds: list[float]


async def measure(folder: Path, note: Callable[[str], None]) -> list[Wait]:
    """
    Measure it: quiet, under the flood, and quiet again.

    Raises:
        BenchFailed: An answer was wrong.
    """
    async with (
        processes.upstream(folder, BEARS) as provider,
        processes.chatstream(folder, provider, OTHERS) as server,
    ):
        found = []
        for name, floods in (("quiet", False), ("flood", True), ("quiet again", False)):
            note(name)
            flood = asyncio.ensure_future(_flood(server)) if floods else None
            talks = (_talk(server, f"{name}-{number}") for number in range(OTHERS))
            waits = await asyncio.gather(*talks)
            if flood is not None:
                flood.cancel()
                await asyncio.wait([flood])
            found.append(Wait(name, [seconds for wait in waits for seconds in wait]))
    return found


async def _talk(server: Server, user_id: str) -> list[float]:
    """Ask, wait for the answer, ask again; return how long each first token took."""
    return [await _ask(server, user_id) for _ in range(TURNS)]


async def _ask(server: Server, user_id: str) -> float:
    body = {"user_id": user_id, "message": "m", "model": SCRIPT.model}
    client = Client(body, lambda: None)
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: client, "127.0.0.1", server.port)
    await client.done
    client.check(SCRIPT.text)
    return client.first_at - client.asked_at


async def _flood(server: Server) -> None:
    """Start turns as fast as it goes; most are refused, and that is what is asked for."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = {"user_id": "flood", "message": "m", "model": SCRIPT.model}
    try:
        while True:
            writer.write(post("/turns", body))
            await writer.drain()
            await asyncio.sleep(FLOOD_SECONDS)
            await reader.read(2**16)
    finally:
        writer.close()


def table(waits: Sequence[Wait]) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"A provider that bears {BEARS} answers at once; {OTHERS} users who ask one thing at a "
        "time, and one who starts turns without a pause",
        "",
        "| | first token of the others, ms p50 | p95 |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {wait.name} | {median(wait.seconds) * 1e3:.1f} | {p95(wait.seconds) * 1e3:.1f} |"
        for wait in waits
    ]
    return "\n".join(lines)


def as_json(waits: Sequence[Wait]) -> list[dict[str, Any]]:
    """Return them for programs, in seconds."""
    return [
        {"name": wait.name, "p50": median(wait.seconds), "p95": p95(wait.seconds)} for wait in waits
    ]
