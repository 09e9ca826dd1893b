"""A subscriber that is thousands of events behind: in how many writes it is caught up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from chatstream.bench import processes
from chatstream.bench.endpoints import fill
from chatstream.bench.processes import Server
from chatstream.bench.readers import Reader, SocketReader, caught_up, leave
from chatstream.log.files.store import open_log

EVENTS = 10_000
BEGINNING = "0"
KIB = 1024


class Behind(NamedTuple):
    """
    One subscriber that was caught up.

    Attributes:
        received: Bytes that it got.
        writes: The server's `write` calls meanwhile, the answer's head among them.
        seconds: From its setting out to its being caught up.
    """

    name: str
    received: int
    writes: int
    seconds: float


async def measure(folder: Path, note: Callable[[str], None], events: int = EVENTS) -> list[Behind]:
    """
    Catch up with a conversation of so many events.

    Raises:
        BenchFailed: A subscriber was cut.
    """
    note(f"writing {events:,} events")
    await write(folder, events)
    async with processes.chatstream(folder, None, 2) as server:
        return await catch_up(server, events)


async def write(folder: Path, events: int) -> None:
    """Write the conversation that is caught up with, for a server that starts afterwards."""
    async with open_log(folder / "data", "never") as log:
        await fill(log, "long", "default", events // 2)


async def catch_up(server: Server, events: int) -> list[Behind]:
    """
    Catch up with it, over SSE and over WebSocket.

    Raises:
        BenchFailed: A subscriber was cut.
    """
    sse = partial(Reader, "/events?user_id=long", BEGINNING)
    socket = partial(SocketReader, "long", BEGINNING)
    return [
        await _catch_up(server, f"{events:,} events, SSE", sse),
        await _catch_up(server, f"{events:,} events, WebSocket", socket),
    ]


async def _catch_up(server: Server, name: str, make: Callable[[], Reader]) -> Behind:
    writes = server.writes
    (reader,) = await caught_up(server, lambda _: make(), 1)
    seconds = reader.caught_up.result() - reader.began
    found = Behind(name, reader.received, server.writes - writes, seconds)
    leave([reader])
    return found


def table(found: Sequence[Behind]) -> str:
    """Return the figures as Markdown."""
    lines = ["| behind by | KiB | writes | KiB a write | ms |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {one.name} | {one.received / KIB:,.0f} | {one.writes:,} "
        f"| {one.received / KIB / one.writes:.1f} | {one.seconds * 1e3:.0f} |"
        for one in found
    ]
    return "\n".join(lines)


def as_json(found: Sequence[Behind]) -> list[dict[str, Any]]:
    """Return them for programs, in bytes and seconds."""
    return [one._asdict() for one in found]
