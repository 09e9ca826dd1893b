"""What a subscriber costs that has nothing to read: resident memory of the server for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chatstream.bench import processes
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
    for name, make in (("SSE", _sse), ("WebSocket", _socket)):
        note(f"{count:,} idle subscribers over {name}")
        (folder / name).mkdir()
        async with (
            processes.upstream(folder / name) as provider,
            processes.chatstream(folder / name, provider, 1) as server,
        ):
            leave(await caught_up(server, make, BEFORE))
            before = server.memory
            readers: list[Reader] = []
            while len(readers) < count:
                some, first = min(AT_ONCE, count - len(readers)), len(readers) + BEFORE
                readers += await caught_up(server, lambda n, f=first, m=make: m(n + f), some)  # type: ignore[misc]
            found.append(Idle(name, count, (server.memory - before) / count))
            leave(readers)
    return found


def _sse(number: int) -> Reader:
    return Reader(f"/events?user_id=user-{number}")


def _socket(number: int) -> Reader:
    return SocketReader(f"user-{number}")


def table(found: Sequence[Idle]) -> str:
    """Return the figures as Markdown."""
    lines = ["| idle subscribers over | how many | KiB each |", "| --- | --- | --- |"]
    lines += [f"| {i.name} | {i.subscribers:,} | {i.bytes_each / KIB:.1f} |" for i in found]
    return "\n".join(lines)


def as_json(found: Sequence[Idle]) -> list[dict[str, Any]]:
    """Return them for programs, in bytes."""
    return [idle._asdict() for idle in found]
