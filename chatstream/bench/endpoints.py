"""What is not a stream, under twenty callers at once: history, clear, feedback."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chatstream.bench import processes
from chatstream.bench.calls import Timing, get, p95, time_calls
from chatstream.bench.clients import Client, post
from chatstream.bench.script import Script
from chatstream.bench.streams import Subject, play
from chatstream.events import Address, TurnId
from chatstream.log.files.store import JsonlLog, open_log

CALLERS = 20
MESSAGES = 100_000
CLEARS = 10
CHATS, TOKENS, RATE = 50, 100, 50.0


async def measure(folder: Path, note: Callable[[str], None]) -> list[Timing]:
    """
    Measure them on a data folder that is filled first.

    Raises:
        BenchFailed: An answer was wrong.
    """
    note(f"writing a history of {MESSAGES:,} messages")
    async with open_log(folder / "data", "never") as log:
        await fill(log, "long", "default", MESSAGES // 2)
        for caller in range(CALLERS):
            for number in range(CLEARS):
                await fill(log, f"user-{caller}", f"clear-{number}", 5)
    async with (
        processes.upstream(folder) as provider,
        processes.chatstream(folder, provider, CHATS) as server,
    ):
        note("history")
        page = get("/history?user_id=long&limit=50")
        found = [await time_calls(server, "GET /history", CALLERS, 50, lambda *_: page)]
        note("clear")
        found.append(await time_calls(server, "POST /history/clear", CALLERS, CLEARS, _clear))
        note("feedback")
        found.append(await time_calls(server, "POST /feedback", CALLERS, 50, _feedback))
        note(f"{CHATS} chats at once")
        chats = await play(Subject("chatstream", server, Client), CHATS, Script(TOKENS, RATE))
        name = f"first token of {CHATS} chats at once"
        found.append(Timing(name, CHATS, chats.first, CHATS / (TOKENS / chats.tokens_a_second)))
    return found


def _clear(caller: int, call: int) -> bytes:
    body = {"user_id": f"user-{caller}", "conversation_id": f"clear-{call}"}
    return post("/history/clear", body)


def _feedback(caller: int, call: int) -> bytes:
    body = {"user_id": f"user-{caller}", "rating": 1 + call % 5, "comments": "It is good."}
    return post("/feedback", body)


async def fill(log: JsonlLog, user_id: str, conversation_id: str, turns: int) -> None:
    """Write turns as the server would: a question and an answer each."""
    address = Address(user_id, conversation_id)
    conversation = await log.conversation(address)
    for number in range(turns):
        message = {"role": "user", "content": f"Question {number}: tell me about the sea."}
        started = {"message": message, "request": {}, "created_at": "2026-01-01T00:00:00.000Z"}
        turn_id = TurnId(f"turn-{number:08}")
        turn = await conversation.start(turn_id, "", partial(dict, started))
        if not isinstance(turn, str):
            await turn.end("turn.completed", {**_END, "text": Script(30, 0).text})


_END: dict[str, Any] = {
    "usage": None,
    "provider": "bench",
    "model": "bench",
    "ended_at": "2026-01-01T00:00:01.000Z",
    "ttft_ms": 1,
    "duration_ms": 1,
    "finish_reason": "stop",
    "cached": False,
}


def table(timings: Sequence[Timing]) -> str:
    """Return the timings as Markdown."""
    lines = [
        f"Newest 50 of {MESSAGES:,} messages; {os.cpu_count()} CPUs",
        "",
        "| call | callers at once | p50 ms | p95 ms | a second |",
        "| --- | --- | --- | --- | --- |",
    ]
    for timing in timings:
        p50 = sorted(timing.seconds)[len(timing.seconds) // 2]
        lines.append(
            f"| {timing.name} | {timing.callers} | {p50 * 1e3:.1f} "
            f"| {p95(timing.seconds) * 1e3:.1f} | {timing.a_second:,.0f} |"
        )
    return "\n".join(lines)


def as_json(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    """Return them for programs, in seconds."""
    return [
        {
            "name": timing.name,
            "callers": timing.callers,
            "p95": p95(timing.seconds),
            "per_second": timing.a_second,
        }
        for timing in timings
    ]
