"""How long a start takes on a data folder that a crash left: from the process to `/readyz`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from chatstream.bench import processes
from chatstream.bench.calls import get, time_calls
from chatstream.bench.endpoints import fill
from chatstream.bench.script import token
from chatstream.events import Address, TurnId
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.store import JsonlLog, open_log

CONVERSATIONS, ORPHANS, USERS = 10_000, 100, 500
TOKENS = 200
"""Of each turn that was running."""
ROUNDS = 3


class Start(NamedTuple):
    """Seconds from the process's start to its being ready, round by round."""

    conversations: int
    orphans: int
    seconds: list[float]


async def measure(
    folder: Path,
    note: Callable[[str], None],
    conversations: int = CONVERSATIONS,
    orphans: int = ORPHANS,
) -> list[Start]:
    """
    Start on an empty folder, and on a folder as a crash leaves it, several times.

    Raises:
        BenchFailed: The server did not start.
    """
    note(f"writing {conversations:,} conversations, {orphans} of them with a turn that runs")
    crashed = folder / "crashed"
    async with open_log(folder / "full", "never") as log:
        for first in range(0, conversations, USERS):
            last = min(conversations, first + USERS)
            await asyncio.gather(*(_fill(log, number) for number in range(first, last)))
        turns = await asyncio.gather(*(_run(log, number) for number in range(orphans)))
        shutil.copytree(folder / "full", crashed)
        for turn in turns:
            await turn.end("turn.interrupted", {})
    empty: list[float] = []
    full: list[float] = []
    for number in range(ROUNDS):
        note(f"start {number + 1} of {ROUNDS}")
        for name, source, found in (("empty", None, empty), ("crash", crashed, full)):
            place = folder / f"{name}-{number}"
            place.mkdir()
            if source is not None:
                shutil.copytree(source, place / "data")
            found.append(await _start(place))
    return [Start(0, 0, empty), Start(conversations, orphans, full)]


async def _start(place: Path) -> float:
    began = perf_counter()
    async with processes.chatstream(place, None, 1) as server:
        await time_calls(server, "ready", 1, 1, lambda *_: get("/readyz"))
        return perf_counter() - began


async def _fill(log: JsonlLog, number: int) -> None:
    await fill(log, f"user-{number % USERS}", f"conversation-{number // USERS}", 1)


async def _run(log: JsonlLog, number: int) -> LiveTurn:
    """Start a turn, with text, in a conversation that there is."""
    address = Address(f"user-{number % USERS}", f"conversation-{number // USERS}")
    conversation = await log.conversation(address)
    message = {"role": "user", "content": "Tell me about the sea."}
    fields = {"message": message, "request": {}, "created_at": "2026-01-01T00:00:00.000Z"}
    turn = await conversation.start(TurnId("turn-orphan"), "", lambda: fields)
    assert isinstance(turn, LiveTurn)
    for count in range(TOKENS):
        turn.write(token(count))
    turn.flush()
    return turn


def table(found: list[Start]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| conversations | orphaned turns | s to ready, best | all |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {start.conversations:,} | {start.orphans} | {min(start.seconds):.2f} "
        f"| {', '.join(f'{seconds:.2f}' for seconds in start.seconds)} |"
        for start in found
    ]
    return "\n".join(lines)


def as_json(found: list[Start]) -> list[dict[str, Any]]:
    """Return them for programs, in seconds."""
    return [start._asdict() for start in found]
