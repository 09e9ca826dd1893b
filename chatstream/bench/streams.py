"""Many chats at once, in turns between the servers: what a delivered token costs each of them."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from uuid import uuid4

from chatstream.bench import processes
from chatstream.bench.clients import Client, RelayClient, SocketClient
from chatstream.bench.noise import Noise
from chatstream.bench.processes import BenchFailed, Server
from chatstream.bench.script import Script

ROUND_SECONDS = 300.0
RAMP_SECONDS = 1.0
"""Paced chats begin within so long: a thousand people never press Enter in one millisecond."""


@dataclass(frozen=True)
class Subject:
    """A server as one kind of client meets it."""

    name: str
    server: Server
    client: type[Client]


@dataclass
class Round:
    """
    One round of one subject; times in seconds.

    Attributes:
        cost: CPU a token, from the first request to the last end.
        streaming: CPU a token while all chats streamed: no beginning, no end; None in a burst.
    """

    cost: float
    streaming: float | None
    first: list[float]
    gaps: list[float]
    tokens_a_second: float


@dataclass
class Result:
    """All rounds of one subject."""

    name: str
    rounds: list[Round] = field(default_factory=list)
    memory: int = 0

    @property
    def costs(self) -> list[float]:
        """CPU a token, round by round."""
        return [found.cost for found in self.rounds]

    @property
    def cost(self) -> float:
        """The median of it."""
        return statistics.median(self.costs)

    @property
    def streaming(self) -> float | None:
        """CPU a token while all chats streamed: the median; None where there was no such time."""
        known = [found.streaming for found in self.rounds if found.streaming is not None]
        return statistics.median(known) if known else None

    def first(self, share: float) -> float:
        """Return a quantile of the time to the first token."""
        return quantile([value for found in self.rounds for value in found.first], share)

    def gap(self, share: float) -> float:
        """Return a quantile of the time between two arrivals of text."""
        return quantile([value for found in self.rounds for value in found.gaps], share)

    @property
    def rate(self) -> float:
        """Tokens a second, all chats together: the median."""
        return statistics.median(found.tokens_a_second for found in self.rounds)


@asynccontextmanager
async def subjects(folder: Path, chats: int) -> AsyncIterator[tuple[list[Subject], list[Server]]]:
    """Start every server; yields what is to be measured, and all that runs, the provider too."""
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(processes.upstream(folder))
        bare = await stack.enter_async_context(processes.baseline("bare", folder, provider))
        relay = await stack.enter_async_context(processes.baseline("relay", folder, provider))
        ours = await stack.enter_async_context(processes.chatstream(folder, provider, chats))
        measured = [
            Subject("bare ASGI", bare, Client),
            Subject("relay", relay, RelayClient),
            Subject("chatstream SSE", ours, Client),
            Subject("chatstream WebSocket", ours, SocketClient),
        ]
        yield measured, [provider, bare, relay, ours]


async def measure(
    measured: Sequence[Subject],
    chats: int,
    script: Script,
    rounds: int,
    noise: Noise,
    say: Callable[[str], None],
) -> list[Result]:
    """
    Measure the subjects in turns, after a small round of each that does not count.

    Raises:
        BenchFailed: A text was not exactly the provider's.
    """
    results = [Result(subject.name) for subject in measured]
    for subject in measured:
        await play(subject, min(chats, 10), Script(5, 0))
    for number in range(rounds):
        for subject, result in zip(measured, results, strict=True):
            say(f"round {number + 1} of {rounds}: {subject.name}")
            with noise.watch():
                result.rounds.append(await play(subject, chats, script))
            result.memory = subject.server.memory
    return results


async def play(subject: Subject, chats: int, script: Script) -> Round:
    """Run one round, every chat a new conversation of its own user, and check every text."""
    server, loop = subject.server, asyncio.get_running_loop()
    watch = _Watch(server, chats)
    conversation = uuid4().hex
    clients: list[Client] = []
    began, cpu = perf_counter(), server.cpu

    async def chat(number: int) -> None:
        if script.rate:
            await asyncio.sleep(RAMP_SECONDS * number / chats)
        body = {
            "user_id": f"user-{number}",
            "conversation_id": conversation,
            "message": "Tell me about the sea.",
            "model": script.model,
        }
        client = subject.client(body, watch.first)
        clients.append(client)
        await loop.create_connection(lambda: client, "127.0.0.1", server.port)
        await client.done
        watch.ended()

    try:
        async with asyncio.timeout(ROUND_SECONDS):
            await asyncio.gather(*(chat(number) for number in range(chats)))
    except TimeoutError:
        raise BenchFailed(f"{subject.name} did not end within {ROUND_SECONDS:g} s") from None
    took, used = perf_counter() - began, server.cpu - cpu
    expected = script.text
    for client in clients:
        client.check(expected)
    tokens = chats * script.tokens
    return Round(
        cost=used / tokens,
        streaming=watch.cost(clients, script) if script.rate else None,
        first=[client.first_at - client.asked_at for client in clients],
        gaps=[gap for client in clients for gap in client.gaps()],
        tokens_a_second=tokens / took,
    )


class _Watch:
    """Reads the server's CPU clock when the last chat has begun, and when the first one ends."""

    def __init__(self, server: Server, chats: int) -> None:
        self._server = server
        self._silent = chats
        self._marks: list[tuple[float, float]] = []

    def first(self) -> None:
        """A chat's first text came."""
        self._silent -= 1
        if not self._silent:
            self._mark()

    def ended(self) -> None:
        """A chat has ended."""
        if len(self._marks) == 1:
            self._mark()

    def cost(self, clients: Sequence[Client], script: Script) -> float | None:
        """Return the CPU a token between the two; None where a chat ended before all had begun."""
        if len(self._marks) < 2:
            return None
        (begin, cpu), (end, later) = self._marks
        came = sum(client.characters(end) - client.characters(begin) for client in clients)
        tokens = came * script.tokens / len(script.text)
        # A run of a few milliseconds may be over before the clock has moved.
        return (later - cpu) / tokens if tokens and later > cpu else None

    def _mark(self) -> None:
        self._marks.append((perf_counter(), self._server.cpu))


def quantile(values: list[float], share: float) -> float:
    """Return the value below which this share of the values lies; 0 for none."""
    if not values:
        return 0.0
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]
