"""A cancel reaches the provider, and leaves nothing behind: the whole server, on real sockets."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chatstream.providers.adapters import openai
from chatstream.providers.registry import Providers
from tests.running import EVENT_STREAM, Running
from tests.upstream import Upstream, token

TURNS = 1000
AT_ONCE = 50


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream) -> Iterator[Running]:
    provider = openai.provider(
        base_url=upstream.openai_url, api_key="k", model="m", connect_timeout=5
    )
    with Running(tmp_path, Providers({"openai": provider}, "openai"), fsync="never") as server:
        yield server


def body(number: int, script: str) -> dict[str, str]:
    return {"message": script, "turn_id": f"turn-{number:08}", "user_id": f"user-{number % 50}"}


def cancel(server: Running, number: int) -> dict[str, Any]:
    path, user = f"/turns/turn-{number:08}/cancel", {"user_id": f"user-{number % 50}"}
    answer = server.http.post(path, json=user)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_cancel_closes_the_providers_connection_within_a_tenth_of_a_second(
    server: Running, upstream: Upstream
) -> None:
    taken = []
    for number in range(20):
        turn = body(number, "!tokens=1 hang")
        with server.stream("POST", "/chat", json=turn, headers=EVENT_STREAM) as stream:
            stream.until("delta")
            began = time.monotonic()
            ended = cancel(server, number)
            upstream.wait(lambda expected=number + 1: upstream.broken_off == expected)  # type: ignore[misc]
            taken.append(time.monotonic() - began)
        assert (ended["status"], ended["text"]) == ("cancelled", token(0))

    assert statistics.median(taken) < 0.1
    assert upstream.open == 0


def test_a_thousand_cancelled_turns_leave_no_connection_open(
    server: Running, upstream: Upstream
) -> None:
    async def play(http: aiohttp.ClientSession, numbers: Iterator[int]) -> None:
        for number in numbers:
            script = "!tokens=1 hang" if number % 2 else "!hang"
            async with http.post("/turns", json=body(number, script)) as answer:
                assert answer.status == 202
            path, user = f"/turns/turn-{number:08}/cancel", {"user_id": f"user-{number % 50}"}
            async with http.post(path, json=user) as answer:
                assert (await answer.json())["status"] == "cancelled"

    async def storm() -> None:
        numbers = iter(range(TURNS))
        async with aiohttp.ClientSession(server.base_url) as http:
            await asyncio.gather(*(play(http, numbers) for _ in range(AT_ONCE)))

    asyncio.run(storm())
    upstream.wait(lambda: upstream.open == 0)

    limiter = server.app.services.providers.limiters["openai"]
    assert (limiter.in_use, limiter.queued) == (0, 0)
    assert server.app.services.runner.running == {}
    again = server.http.post("/chat", json={"message": "!tokens=1", "user_id": "after"})
    assert again.json()["reply"] == token(0)


def test_a_thousand_turns_one_after_the_other_open_one_connection(
    server: Running, upstream: Upstream
) -> None:
    async def play() -> None:
        async with aiohttp.ClientSession(server.base_url) as http:
            for number in range(TURNS):
                async with http.post("/chat", json=body(number, "!tokens=1")) as answer:
                    assert (await answer.json())["reply"] == token(0)

    asyncio.run(play())

    assert (upstream.opened, len(upstream.asked)) == (1, TURNS)
