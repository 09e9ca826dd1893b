"""
Many turns at a provider that fails, with one to fall back on; what became of them.

    python -m tests.provider_faults --seed 1 --turns 500 --share 0.3

The application, its clients and the fake upstream are real, on sockets of loopback. Whether a
request fails, and how, depends on the seed, the turn and how often that provider was asked for it,
and on nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import aiohttp
import orjson

from chatstream.providers import Closes, Finish, Piece, Provider, ProviderRequest, Reasoning, Text
from chatstream.providers.registry import Providers
from chatstream.providers.route.breaker import Change
from tests.asking import make
from tests.running import EVENT_STREAM, Running
from tests.upstream import Asked, Upstream, text_of
from tests.upstream_script import question

BEFORE_CONTENT: Final = (
    "drop",
    "hang",
    "headers hang",
    "pace=100 headers keepalive=0",
    "role hang",
    "status=500",
    "status=502",
    "status=503",
    "status=529",
    "status=408",
    "half=500",
    "retry-after=0.05 status=429",
    "retry-after=date+1 status=429",
    "retry-after-ms=50 status=429",
    "retry-info=0.05s status=429",
    "retry-text=50ms status=429",
    "retry-after=0.05 status=503",
    "json",
    "html",
    "error=503",
    "error-event=503",
    "raw-error",
    "plain-error",
    "broken",
    "eof",
    "role eof",
    "role cut",
    "bad-chunk hang",
)
AMID_CONTENT: Final = ("cut", "eof", "hang", "error=503", "raw-error", "broken", "bad-chunk hang")
SECONDS: Final = 60.0
AT_ONCE: Final = 32
USERS: Final = 50
PATHS: Final = {
    "/v1/chat/completions": "openai",
    "/v1/messages": "anthropic",
    "/api/chat": "ollama",
}


def tokens_of(turn: int) -> int:
    """Return how many tokens a turn's answer has, besides its name."""
    return turn % 7 + 1


def text(provider: str, turn: int) -> str:
    """Return the one right answer of a provider to a turn."""
    return f"{provider}-{turn}-" + text_of(tokens_of(turn))


class Faults:
    """
    What the upstream plays: the right answer, or one of the faults for a share of the requests.

    Attributes:
        played: How many requests were failed.
    """

    def __init__(self, seed: int, before: float, amid: float) -> None:
        self._seed = seed
        self._before = before
        self._amid = amid
        self._asked: Counter[tuple[str, int]] = Counter()
        self.played = 0

    def __call__(self, asked: Asked) -> str:
        """Choose the script for a request."""
        name = PATHS.get(asked.path, "gemini")
        turn = int(question(asked).split()[-1])
        self._asked[name, turn] += 1
        draw = random.Random(f"{self._seed} {name} {turn} {self._asked[name, turn]}")
        content, chance = f"say={name}-{turn}- tokens={tokens_of(turn)}", draw.random()
        if chance < self._before:
            self.played += 1
            return draw.choice(BEFORE_CONTENT)
        if chance < self._before + self._amid:
            self.played += 1
            return f"{content} {draw.choice(AMID_CONTENT)}"
        return content

    @property
    def retries(self) -> int:
        """How often a provider was asked again for the same turn."""
        return sum(count - 1 for count in self._asked.values())


class Watched:
    """
    A provider that looks at its breaker each time it is asked.

    Attributes:
        broken: What must not happen, and did.
    """

    def __init__(self, provider: Provider, state: Callable[[str], str]) -> None:
        self._provider = provider
        self._state = state
        self.name, self.model = provider.name, provider.model
        self.broken: list[str] = []
        self._probes = 0

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Ask, as `Provider.reply` promises."""
        state = self._state(self.name)
        if state == "open":
            self.broken.append(f"{self.name} was asked while its breaker was open")
        probe = state == "half-open"
        self._probes += probe
        if self._probes > 1:
            self.broken.append(f"{self.name} was probed by two at once")
        try:
            async with aclosing(self._provider.reply(request)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Text | Reasoning | Finish):
                        self._probes -= probe
                        probe = False
                    yield piece
        finally:
            self._probes -= probe

    async def aclose(self) -> None:
        """Close the provider."""
        if isinstance(self._provider, Closes):
            await self._provider.aclose()


@dataclass
class Figures:
    """What became of the turns. `broken` are promises that were not kept."""

    turns: int
    completed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    faults: int = 0
    retries: int = 0
    fallbacks: int = 0
    openings: int = 0
    parkings: int = 0
    told_to_wait: int = 0
    seconds: float = 0.0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        failed = "".join(f", {count} with {code}" for code, count in self.failed.items())
        return (
            f"{self.turns} turns in {self.seconds:.1f} s: {self.completed} completed, "
            f"{self.failed.total()} failed{failed}\n"
            f"{self.requests} requests, {self.faults} of them faulty; {self.retries} retries; "
            f"{self.fallbacks} turns answered by the fallback\n"
            f"breakers opened {self.openings} times, parked {self.parkings} times; "
            f"{self.told_to_wait} starts told to come back later\n"
            f"broken promises: {len(self.broken)}"
        )


class Storm:
    """The clients: each turn is a conversation of its own, started by `POST /chat`."""

    def __init__(self, server: Running, first: str, figures: Figures) -> None:
        self._server = server
        self._first = first
        self._figures = figures

    async def run(self) -> None:
        """Play all turns, `AT_ONCE` at a time, and look at each of them again afterwards."""
        left = iter(range(self._figures.turns))
        async with asyncio.timeout(SECONDS), aiohttp.ClientSession(self._server.base_url) as http:
            await asyncio.gather(*(self._play(http, left) for _ in range(AT_ONCE)))

    async def _play(self, http: aiohttp.ClientSession, left: Iterator[int]) -> None:
        for turn in left:
            body = {
                "message": f"question {turn}",
                "turn_id": f"turn-{turn:08}",
                "user_id": f"user-{turn % USERS}",
                "conversation_id": f"conversation-{turn}",
            }
            while True:
                async with http.post("/chat", json=body, headers=EVENT_STREAM) as answer:
                    if answer.status == 200:
                        said = self._check(turn, _events(await answer.read()))
                        break
                    if answer.status not in (429, 503):
                        self._broken(turn, f"was answered with {answer.status}")
                        return
                    self._figures.told_to_wait += 1
                    await asyncio.sleep(int(answer.headers["retry-after"]))
            await self._look_again(http, turn, body, said)

    def _check(self, turn: int, events: list[dict[str, Any]]) -> str:
        figures = self._figures
        deltas = "".join(event["text"] for event in events if event["type"] == "delta")
        ends = [event for event in events if "started_id" in event]
        if len(ends) != 1 or events[-1] is not ends[0]:
            self._broken(turn, f"ended {len(ends)} times")
            return ""
        end = ends[0]
        right = text(end["provider"], turn)
        if end["type"] == "turn.completed":
            figures.completed += 1
            figures.fallbacks += end["provider"] != self._first
            if end["text"] != right or not right.startswith(deltas):
                self._broken(turn, "completed with a wrong text")
        elif end["type"] == "turn.failed":
            figures.failed[end["error"]["code"]] += 1
            if not (right.startswith(end["text"]) and end["text"].startswith(deltas)):
                self._broken(turn, "failed with a wrong text")
        else:
            self._broken(turn, f"ended as {end['type']}")
        return str(end["text"])

    async def _look_again(
        self, http: aiohttp.ClientSession, turn: int, body: dict[str, str], said: str
    ) -> None:
        where = {name: body[name] for name in ("user_id", "conversation_id")}
        async with http.get("/history", params=where) as answer:
            messages = [message["message"] for message in (await answer.json())["history"]]
        if messages != [body["message"], said][: 2 if said else 1]:
            self._broken(turn, f"is remembered as {messages}")
        path = f"/turns/{body['turn_id']}/events"
        async with http.get(path, params=where) as answer:
            kinds = [event["type"] for event in _events(await answer.read())]
        if sum(kind.startswith("turn.") for kind in kinds) != 2:
            self._broken(turn, f"is kept as {kinds}")

    def _broken(self, turn: int, what: str) -> None:
        self._figures.broken.append(f"turn {turn} {what}")


def _events(body: bytes) -> list[dict[str, Any]]:
    lines = [line for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [orjson.loads(line[6:]) for line in lines]


@contextmanager
def counted(figures: Figures) -> Iterator[None]:
    """Count how often breakers open, and are parked, in the block."""

    def changed(provider: str, model: str, change: Change) -> None:
        if change.state == "open":
            parked = change.why == "provider_rate_limited"
            figures.parkings += parked
            figures.openings += not parked

    with patch("chatstream.providers.route.breakers._log", changed):
        yield


def run(
    folder: Path,
    *,
    seed: int,
    turns: int = 500,
    before: float = 0.3,
    amid: float = 0.0,
    names: tuple[str, str] = ("openai", "gemini"),
) -> Figures:
    """
    Play turns at the first provider with the second to fall back on.

    `before` is the share of requests that fail before their first content, `amid` of those that
    fail after it.
    """
    figures = Figures(turns)
    faults = Faults(seed, before, amid)
    providers: dict[str, Provider] = {}
    routing = Providers(providers, names[0])
    with Upstream(faults) as upstream, counted(figures):
        for name in names:
            adapter = make(name, upstream.url, connect_timeout=1)
            providers[name] = Watched(adapter, routing.state)
        settings = {
            "fallbacks": names[1:],
            "connect_timeout": 1,
            "first_token_timeout": 0.5,
            "token_timeout": 0.5,
        }
        with Running(folder, routing, **settings) as server:
            began = time.monotonic()
            asyncio.run(Storm(server, names[0], figures).run())
            figures.seconds = time.monotonic() - began
            for name, limiter in routing.limiters.items():
                if limiter.in_use or limiter.queued:
                    figures.broken.append(f"{name} still has places taken")
        figures.requests = len(upstream.asked)
    figures.faults = faults.played
    figures.retries = faults.retries
    for provider in providers.values():
        assert isinstance(provider, Watched)
        figures.broken += provider.broken
    return figures


def main() -> int:
    """Run as the options say; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.provider_faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--share", type=float, default=0.3, help="of requests that fail at first")
    parser.add_argument("--amid", type=float, default=0.0, help="of requests that break off")
    given = parser.parse_args()
    logging.getLogger("chatstream").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="provider-faults-") as folder:
        figures = run(
            Path(folder),
            seed=given.seed,
            turns=given.turns,
            before=given.share,
            amid=given.amid,
        )
    sys.stdout.write(f"{figures}\n" + "".join(f"{what}\n" for what in figures.broken))
    return 1 if figures.broken else 0


if __name__ == "__main__":
    sys.exit(main())
