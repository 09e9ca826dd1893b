"""A thousand clients come back at once: when each has its tail, and what running turns feel."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from chatstream.bench import processes
from chatstream.bench.calls import p95
from chatstream.bench.clients import post
from chatstream.bench.processes import BenchFailed, Server
from chatstream.bench.readers import Reader, SocketReader, caught_up, leave
from chatstream.bench.script import Script

CLIENTS, TURNS = 1_000, 100
SCRIPT = Script(4_000, 20)
BEHIND = 40
"""Tokens that each client has missed."""
SECONDS = 2.0
"""How long the pace of the turns is watched: without the storm, and from its beginning on."""
MOST_SECONDS = 30.0
_ID = re.compile(rb'"type":"delta","id":"([0-9-]+)"')


@dataclass(frozen=True)
class Storm:
    """
    One storm over one transport; times in seconds.

    Attributes:
        tails: How long after the storm's beginning each client had what it had missed.
        paces: For each running turn, its tokens' pace in the storm by that before it.
        gaps: The longest silence of any turn, before the storm and in it.
    """

    name: str
    tails: list[float]
    paces: list[float]
    gaps: tuple[float, float]


async def measure(
    folder: Path, note: Callable[[str], None], clients: int = CLIENTS, turns: int = TURNS
) -> list[Storm]:
    """
    Start turns, watch them, and have clients come back to them, over SSE and over WebSocket.

    Raises:
        BenchFailed: A client was cut, or a turn does not run.
    """
    async with (
        processes.upstream(folder) as provider,
        processes.chatstream(folder, provider, turns) as server,
    ):
        return await rage(server, note, clients, turns)


async def rage(
    server: Server, note: Callable[[str], None], clients: int, turns: int
) -> list[Storm]:
    """
    Do so on a server that runs.

    Raises:
        BenchFailed: A client was cut, or a turn does not run.
    """
    note(f"starting {turns} turns")
    await asyncio.gather(*(_start(server, number) for number in range(turns)))
    watchers = await caught_up(server, lambda n: Reader(_path(n), keeps=True), turns)
    await _came(watchers, BEHIND)
    cursors = [_last_id(watcher) for watcher in watchers]
    await _came(watchers, 2 * BEHIND)
    found = []
    for name, socket in (("SSE", False), ("WebSocket", True)):
        note(f"{clients:,} clients come back over {name}")
        make = partial(_comes_back, cursors, socket)
        found.append(await _storm(server, name, watchers, make, clients))
    leave(watchers)
    return found


async def _start(server: Server, number: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = {"user_id": f"user-{number}", "turn_id": f"turn-{number:08}"}
    writer.write(post("/turns", {**body, "message": "m", "model": SCRIPT.model}))
    answer = await reader.readuntil(b"\r\n")
    writer.close()
    if b" 202 " not in answer:
        raise BenchFailed(f"a turn does not start: {answer.decode()}")


def _path(number: int) -> str:
    return f"/turns/turn-{number:08}/events?user_id=user-{number}"


def _comes_back(cursors: list[str], socket: bool, number: int) -> Reader:
    turn = number % len(cursors)
    if socket:
        return SocketReader(f"user-{turn}", cursors[turn])
    return Reader(_path(turn), cursors[turn])


async def _came(watchers: list[Reader], tokens: int) -> None:
    """Wait until every turn has sent so many tokens."""
    async with asyncio.timeout(MOST_SECONDS):
        await asyncio.gather(*(watcher.reached(tokens) for watcher in watchers))


def _last_id(watcher: Reader) -> str:
    last: bytes = _ID.findall(watcher.raw)[-1]
    return last.decode()


async def _storm(
    server: Server,
    name: str,
    watchers: list[Reader],
    make: Callable[[int], Reader],
    clients: int,
) -> Storm:
    before = perf_counter()
    await asyncio.sleep(SECONDS)
    began = perf_counter()
    readers = await caught_up(server, make, clients)
    tails = [reader.caught_up.result() - began for reader in readers]
    await asyncio.sleep(max(0.0, began + SECONDS - perf_counter()))
    until = began + SECONDS
    leave(readers)
    paces = [_over(w.came(began, until), w.came(before, before + SECONDS)) for w in watchers]
    gaps = (
        max(_gap(watcher, before, began) for watcher in watchers),
        max(_gap(watcher, began, until) for watcher in watchers),
    )
    await asyncio.sleep(SECONDS / 2)  # the next one begins without this one's leaving
    return Storm(name, tails, paces, gaps)


def _over(one: int, other: int) -> float:
    return one / other if other else 0.0


def _gap(watcher: Reader, begin: float, end: float) -> float:
    times = [begin, *(at for at, _ in watcher.arrivals if begin < at < end), end]
    return max(later - earlier for earlier, later in zip(times, times[1:], strict=False))


def table(found: Sequence[Storm]) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"Each has missed at least {BEHIND} tokens of one of {len(found[0].paces)} running turns, "
        f"{SCRIPT.rate:g} tokens a second each",
        "",
        "| clients that come back over | how many | tail there, ms p50 | p95 | last "
        "| pace of turns, median | slowest | longest silence ms before, in the storm |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for storm in found:
        tails = [seconds * 1e3 for seconds in storm.tails]
        lines.append(
            f"| {storm.name} | {len(tails):,} | {median(tails):.0f} | {p95(tails):.0f} "
            f"| {max(tails):.0f} | {median(storm.paces):.2f} | {min(storm.paces):.2f} "
            f"| {storm.gaps[0] * 1e3:.0f}, {storm.gaps[1] * 1e3:.0f} |"
        )
    return "\n".join(lines)


def as_json(found: Sequence[Storm]) -> list[dict[str, Any]]:
    """Return them for programs, in seconds."""
    return [vars(storm) for storm in found]
