"""What a subscriber costs that has nothing to read: resident memory of the server for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatstream.bench import processes
from chatstream.bench.processes import Server
from chatstream.bench.readers import Reader, SocketReader, caught_up, leave

SUBSCRIBERS = 2_000
BEFORE = 100
"""So many come and go first: what the first ones cost, the later ones do not."""
AT_ONCE = 100
KIB = 1024


class Idle(NamedTuple):
    """Bytes of memory that each subscriber of a kind takes."""

    name: str
    subscribers: int
    bytes_each: float


async def measure(
    folder: Path, note: Callable[[str], None], count: int = SUBSCRIBERS
) -> list[Idle]:
    """
    Connect subscribers, each of an own conversation, over either transport to a fresh server.

    Raises:
        BenchFailed: One was cut.
    """
    found = []
    for name, make in (("SSE", sse), ("WebSocket", socket)):
        note(f"{count:,} idle subscribers over {name}")
        (folder / name).mkdir()
        async with processes.chatstream(folder / name, None, 1) as server:
            idle, readers = await connect(server, name, make, count)
            found.append(idle)
            leave(readers)
    return found


async def connect(
    server: Server, name: str, make: Callable[[int], Reader], count: int
) -> tuple[Idle, list[Reader]]:
    """
    Connect subscribers, and return what they take, and themselves.

    Raises:
        BenchFailed: One was cut.
    """
    leave(await caught_up(server, make, BEFORE))
    before = server.memory
    readers: list[Reader] = []
    while len(readers) < count:
        some, first = min(AT_ONCE, count - len(readers)), len(readers) + BEFORE
        readers += await caught_up(server, lambda n, f=first: make(n + f), some)  # type: ignore[misc]
    return Idle(name, count, (server.memory - before) / count), readers


def sse(number: int) -> Reader:
    """Return the subscriber of this number, over SSE."""
    return Reader(f"/events?user_id=user-{number}")


def socket(number: int) -> Reader:
    """Return the subscriber of this number, over WebSocket."""
    return SocketReader(f"user-{number}")


def table(found: Sequence[Idle]) -> str:
    """Return the figures as Markdown."""
    lines = ["| idle subscribers over | how many | KiB each |", "| --- | --- | --- |"]
    lines += [f"| {i.name} | {i.subscribers:,} | {i.bytes_each / KIB:.1f} |" for i in found]
    return "\n".join(lines)


def as_json(found: Sequence[Idle]) -> list[dict[str, Any]]:
    """Return them for programs, in bytes."""
    return [idle._asdict() for idle in found]
