"""
`chatstream chat`: talks to a running server in the terminal, and resumes by itself.

A client like any other: it starts a turn by an id of its own, so that repeating is harmless, and
follows it from the last id that it has, until the turn's end.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TextIO

import httpx
import orjson

from chatstream.errors import ChatstreamError
from chatstream.providers.sse_decoder import EventDecoder
from chatstream.turn_ids import new_turn_id

FIRST_DELAY, LAST_DELAY = 0.25, 10.0
SILENCE_SECONDS = 45.0
"""Three heartbeats of the default: a connection that was silent for so long is dead."""
ENDS = {"turn.completed": 0, "turn.failed": 1, "turn.cancelled": 130, "turn.interrupted": 1}
LEFT = 130


class Refused(ChatstreamError):
    """The server answered that it will not."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to talk, and as whom."""

    url: str
    user_id: str
    conversation_id: str

    @property
    def address(self) -> dict[str, str]:
        """The fields that every call carries."""
        return {"user_id": self.user_id, "conversation_id": self.conversation_id}


class Turn:
    """One question: asked once, whatever the network does, and shown as its answer comes."""

    def __init__(self, client: httpx.AsyncClient, place: Place, out: TextIO) -> None:
        self._client = client
        self._place = place
        self._out = out
        self._turn_id = new_turn_id()
        self._last = ""
        self._shown = ""
        self._failures = 0

    async def ask(self, message: str) -> int:
        """
        Ask, and show the answer; returns the exit status that fits its end.

        Raises:
            Refused: The server will not take the question.
        """
        body = {"message": message, "turn_id": self._turn_id, **self._place.address}
        await self._call("/turns", body)
        while True:
            try:
                async for event in self._events():
                    self._failures = 0
                    if (status := self._take(event)) is not None:
                        return status
            except httpx.TransportError:
                pass
            await self._pause()

    async def stop(self) -> None:
        """Have the server stop the answer; its end still comes."""
        await self._call(f"/turns/{self._turn_id}/cancel", self._place.address)

    async def _call(self, path: str, body: dict[str, Any]) -> None:
        while True:
            try:
                response = await self._client.post(self._place.url + path, json=body)
            except httpx.TransportError:
                await self._pause()
                continue
            if response.status_code not in (429, 502, 503):
                break
            await self._pause(float(response.headers.get("retry-after", 0)))
        if response.is_error:
            raise Refused(detail(response))

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        query = self._place.address | ({"after": self._last} if self._last else {})
        path = f"{self._place.url}/turns/{self._turn_id}/events"
        decoder = EventDecoder()
        async with self._client.stream("GET", path, params=query) as response:
            if response.status_code in (404, 410):
                await response.aread()
                raise Refused(detail(response))
            async for chunk in response.aiter_bytes():
                for data in decoder.feed(chunk):
                    yield orjson.loads(data)

    def _take(self, event: dict[str, Any]) -> int | None:
        kind, identifier = event["type"], event.get("id", "")
        if kind == "ready":
            self._last = identifier
        elif kind == "reset":
            self._shown = ""
        elif identifier > self._last:
            self._last = identifier
            if kind == "delta" and "kind" not in event:
                self._show(event["text"])
            elif kind in ENDS:
                self._finish(event)
                return ENDS[kind]
        return None

    def _show(self, text: str) -> None:
        self._shown += text
        self._out.write(text)
        self._out.flush()

    def _finish(self, event: dict[str, Any]) -> None:
        text = event.get("text", "")
        if text.startswith(self._shown):
            self._show(text[len(self._shown) :])
        else:
            self._out.write(f"\n{text}")
        self._out.write("\n")
        if event["type"] == "turn.failed":
            say(event["error"]["message"])
        elif event["type"] != "turn.completed":
            say(event["type"].removeprefix("turn."))

    async def _pause(self, asked: float = 0) -> None:
        """Wait longer each time, and not all clients alike."""
        self._failures += 1
        if self._failures == 1 and not asked:
            return
        if self._failures == 4:
            say("the server cannot be reached; trying again")
        most = min(LAST_DELAY, FIRST_DELAY * 2**self._failures)
        await asyncio.sleep(max(asked, random.uniform(0, most)))


def detail(response: httpx.Response) -> str:
    """Return what a problem says."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}"


def say(text: str) -> None:
    """Tell the person, not whoever reads the answer through a pipe."""
    print(f"[{text}]", file=sys.stderr, flush=True)  # noqa: T201


async def ask(place: Place, message: str, out: TextIO) -> int:
    """
    Ask one question. Ctrl-C stops the answer, a second one leaves.

    Raises:
        Refused: The server will not take the question.
    """
    timeout = httpx.Timeout(SILENCE_SECONDS, connect=5.0)
    async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
        turn = Turn(client, place, out)
        asking = asyncio.ensure_future(turn.ask(message))
        stopping: list[asyncio.Task[None]] = []

        def interrupt() -> None:
            if stopping:
                asking.cancel()
            else:
                stopping.append(asyncio.ensure_future(turn.stop()))

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            return await asking
        except asyncio.CancelledError:
            return LEFT
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            for task in stopping:
                task.cancel()
            await asyncio.gather(*stopping, return_exceptions=True)


def talk(place: Place, message: str | None) -> int:
    """
    Ask one question (given, or the whole of a pipe), or as many as are typed.

    Returns the exit status: that of the last answer.

    Raises:
        Refused: The server will not take a question that was not typed.
    """
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
    if message is not None:
        return asyncio.run(ask(place, message, sys.stdout))
    status = 0
    while True:
        try:
            typed = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return status
        if typed:
            try:
                status = asyncio.run(ask(place, typed, sys.stdout))
            except Refused as error:
                say(error.message)
