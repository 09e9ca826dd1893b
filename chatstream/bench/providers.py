"""
Reading a provider's stream: an adapter under retries and breakers, beside httpx and its lines.

Both read the same streams in this process, in turns; the provider is a process of its own, so that
this one's CPU time is the reader's alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import orjson

from chatstream.bench import processes
from chatstream.bench.processes import BenchFailed
from chatstream.bench.script import Script
from chatstream.providers import Message, Provider, ProviderRequest, Text
from chatstream.providers.adapters import openai
from chatstream.providers.registry import Providers
from chatstream.settings import Settings

RATE = 50.0
STREAMS = (50, 200)
"""At once; the rounds of each begin on a pool that is warm."""
OURS, THEIRS = "chatstream", "httpx"

Read = Callable[[Script], Awaitable[str]]


@dataclass
class Cost:
    """CPU seconds a token of both readers, a pair a round."""

    streams: int
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Ours by theirs, of the medians."""
        return median(self.ours) / median(self.theirs)


async def measure(
    folder: Path,
    tokens: int,
    rounds: int,
    note: Callable[[str], None],
    streams: Sequence[int] = STREAMS,
    rate: float = RATE,
) -> list[Cost]:
    """
    Read so many streams at once with each reader, in turns, after a round that does not count.

    Raises:
        BenchFailed: A text was not exactly the provider's.
    """
    costs = [Cost(count) for count in streams]
    async with processes.upstream(folder) as server:
        for cost in costs:
            # A client for each, so that its pool holds as many connections and no more.
            provider = openai.provider(
                base_url=processes.url(server), api_key="bench", model="bench", connect_timeout=5
            )
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            async with httpx.AsyncClient(timeout=None, limits=limits) as client:
                ours, theirs = _adapter(provider), _lines(client, processes.url(server))
                for read in (ours, theirs):
                    await _round(read, cost.streams, Script(2, rate))
                for number in range(rounds):
                    note(f"{cost.streams} streams, round {number + 1} of {rounds}")
                    script = Script(tokens, rate)
                    cost.ours.append(await _round(ours, cost.streams, script))
                    cost.theirs.append(await _round(theirs, cost.streams, script))
            await provider.aclose()
    return costs


async def _round(read: Read, streams: int, script: Script) -> float:
    """Read the streams at once; return the CPU seconds that one token took."""
    began = time.process_time()
    texts = await asyncio.gather(*(read(script) for _ in range(streams)))
    used = time.process_time() - began
    if any(text != script.text for text in texts):
        raise BenchFailed("an answer was not the provider's")
    return used / (streams * script.tokens)


def _adapter(provider: Provider) -> Read:
    """Read as a turn does: adapter, breaker, concurrency limit, retries."""
    providers = Providers({provider.name: provider}, provider.name)
    settings = Settings()

    async def read(script: Script) -> str:
        route = providers.route(None, script.model, settings)
        asked = ProviderRequest(messages=[Message("user", "Hello")], model=script.model)
        return "".join([p.text async for p in route.reply(asked) if isinstance(p, Text)])

    return read


def _lines(client: httpx.AsyncClient, url: str) -> Read:
    """Read as most would: httpx's lines, and JSON."""

    async def read(script: Script) -> str:
        body = {"model": script.model, "messages": [], "stream": True}
        texts = []
        async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = orjson.loads(line[6:])
                if chunk["choices"] and (text := chunk["choices"][0]["delta"].get("content")):
                    texts.append(text)
        return "".join(texts)

    return read


def table(costs: Sequence[Cost]) -> str:
    """Return the costs as Markdown."""
    lines = [
        f"CPU µs a token, {RATE:g} tokens a second a stream; the whole request, on a warm pool",
        "",
        f"| streams at once | {OURS} (min-max) | {THEIRS}, aiter_lines, orjson (min-max) | ratio |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {cost.streams} | {_shown(cost.ours)} | {_shown(cost.theirs)} | {cost.ratio:.2f} |"
        for cost in costs
    ]
    return "\n".join(lines)


def _shown(costs: Sequence[float]) -> str:
    return f"{median(costs) * 1e6:.1f} ({min(costs) * 1e6:.1f}-{max(costs) * 1e6:.1f})"


def as_json(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """Return them for programs, in seconds."""
    return [
        {"streams": cost.streams, OURS: cost.ours, THEIRS: cost.theirs, "ratio": cost.ratio}
        for cost in costs
    ]
