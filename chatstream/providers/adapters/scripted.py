"""
A provider that says what it is told to: for tests, and under `offline`. No network, no clock.

`Scripted("Hel", gate, "lo").then(ProviderError("it broke"))` answers the first request with
"Hello", its second half once `gate.set()` was called, and every later one with the error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Self, TypeAlias

from chatstream.providers import Finish, Piece, ProviderRequest, Reasoning, Text, Usage

# Text or another piece to yield, an error to raise, or something to await before going on.
Step: TypeAlias = str | Piece | Exception | asyncio.Event | Callable[[], Awaitable[object]]


async def play(steps: Iterable[Step]) -> AsyncGenerator[Piece, None]:
    """
    Yield the pieces of a script, then `Finish("stop")` unless it has a `Finish` of its own.

    Gives way to the event loop before each step, so that a long script starves nobody; sets no
    timer. What stands after a `Finish` or an error is never reached.
    """
    for step in steps:
        await asyncio.sleep(0)
        if isinstance(step, str):
            yield Text(step)
        elif isinstance(step, Finish):
            yield step
            return
        elif isinstance(step, Text | Reasoning | Usage):
            yield step
        elif isinstance(step, Exception):
            raise step.with_traceback(None)
        elif isinstance(step, asyncio.Event):
            await step.wait()
        else:
            await step()
    yield Finish("stop")


class Scripted:
    """
    Answers every request with the same steps, or the first ones with scripts of their own.

    Attributes:
        requests: Every request so far, oldest first. They are never dropped.
        running: How many replies have begun and have neither ended nor been closed.
    """

    def __init__(self, *steps: Step, name: str = "scripted", model: str = "scripted") -> None:
        self.name = name
        self.model = model
        self.requests: list[ProviderRequest] = []
        self.running = 0
        self._scripts: list[tuple[Step, ...]] = [steps]

    def then(self, *steps: Step) -> Self:
        """Script the request after those scripted so far; the last script serves all others."""
        self._scripts.append(steps)
        return self

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Play the next script; `Provider.reply` says what is promised."""
        steps = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        self.requests.append(request)
        self.running += 1
        pieces = play(steps)
        try:
            async for piece in pieces:
                yield piece
        finally:
            self.running -= 1
            await pieces.aclose()
