"""
`chatstream chat`: talks to a running server in the terminal, and resumes by itself.

A client like any other: it starts a turn by an id of its own, so that repeating is harmless, and
follows it from the last id that it has, until the turn's end.
"""

from __future__ import annotations

import asyncio
import io
import math
import random
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TextIO

import httpx
import orjson

from chatstream.errors import ChatstreamError
from chatstream.events import new_turn_id, status_of
from chatstream.providers.http.sse_decoder import EventDecoder

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

    def check(self) -> None:
        """
        See that there can be a server at the address, and a user and a conversation of these names.

        Raises:
            Refused: Says what is wrong.
        """
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise Refused(f"--url {self.url}: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise Refused(f"--url {self.url}: must begin with http:// or https:// and name a host")
        if url.port is not None and not 0 < url.port < 65536:
            raise Refused(f"--url {self.url}: a port is 1 to 65535")
        check_text("--user", self.user_id)
        check_text("--conversation", self.conversation_id)

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
        self._text = ""
        self._shown = ""
        self._failures = 0
        self._taken = asyncio.Event()

    async def ask(self, message: str) -> int:
        """
        Ask, and show the answer; returns the exit status that fits its end.

        Raises:
            Refused: The server will not take the question.
        """
        body = {"message": message, "turn_id": self._turn_id, **self._place.address}
        await self._call("/turns", body)
        self._taken.set()
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
        """Have the server stop the answer, once it has taken the question; its end still comes."""
        await self._taken.wait()
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
            await self._pause(seconds(response.headers.get("retry-after", "")))
        if not response.is_success:
            raise Refused(detail(response))
        if not _tells_of(response, self._turn_id):
            raise Refused(f"what answers at {self._place.url} is no chatstream server")

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        query = self._place.address | ({"after": self._last} if self._last else {})
        path = f"{self._place.url}/turns/{self._turn_id}/events"
        decoder = EventDecoder()
        async with self._client.stream("GET", path, params=query) as response:
            if response.is_client_error and response.status_code != 429:
                await response.aread()
                raise Refused(detail(response))
            async for chunk in response.aiter_bytes():
                for data in decoder.feed(chunk):
                    yield orjson.loads(data)

    def _take(self, event: dict[str, Any]) -> int | None:
        kind, identifier = event["type"], event.get("id", "")
        if kind == "ready":
            self._last = identifier or self._last
        elif kind == "reset":
            self._last = ""  # the whole turn follows
            self._show("")
        elif identifier > self._last:
            self._last = identifier
            if kind == "turn.started":
                self._show("")
            elif kind == "delta" and "kind" not in event:
                self._show(self._text + event["text"])
            elif kind in ENDS:
                self._finish(event)
                return ENDS[kind]
        return None

    def _show(self, text: str) -> None:
        """Write what of the text so far is not there yet; all of it only where it is another."""
        self._text = text
        if text.startswith(self._shown):
            self._out.write(text[len(self._shown) :])
        elif self._shown.startswith(text):
            return  # it is being sent anew, or a power cut took its end
        else:
            self._out.write(f"\n{text}")
        self._out.flush()
        self._shown = text

    def _finish(self, event: dict[str, Any]) -> None:
        self._show(event.get("text", self._text))
        self._out.write("\n")
        if event["type"] == "turn.failed":
            say(event["error"]["message"])
        elif event["type"] != "turn.completed":
            say(status_of(event["type"]))

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


def seconds(retry_after: str) -> float:
    """
    Return how long a `Retry-After` asks to wait; of a date, which proxies send, nothing is known.

    >>> seconds("2"), seconds("Wed, 21 Oct 2015 07:28:00 GMT"), seconds("nan")
    (2.0, 0.0, 0.0)
    """
    try:
        found = float(retry_after)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def _tells_of(response: httpx.Response, turn_id: str) -> bool:
    try:
        return bool(response.json()["turn_id"] == turn_id)
    except (ValueError, KeyError, TypeError):
        return False


def check_text(name: str, given: str) -> None:
    """Raise Refused where it was no UTF-8: Python keeps such bytes as lone surrogates."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise Refused(f"{name} must be UTF-8.") from None


def say(text: str) -> None:
    """Tell the person, not the program that reads the answer through a pipe."""
    print(f"[{text}]", file=sys.stderr, flush=True)  # noqa: T201


async def ask(place: Place, message: str, out: TextIO) -> int:
    """
    Ask one question. Ctrl-C stops the answer, a second one leaves.

    Raises:
        Refused: The server will not take the question.
    """
    check_text("The question", message)
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
    place.check()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # looked at where it is asked
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has every character
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
