"""
A real server for tests: the application on a free port of loopback, in a thread of its own.

`with Running(tmp_path, Scripted("Hi")) as server:` serves until the block ends; `server.http` is
a client for it. A `Gate` among a provider's steps holds the answer until the test opens it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import orjson

from chatstream.app import Chatstream, create_app
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.server.server import Server
from chatstream.settings import Settings

SECONDS = 10.0
EVENT_STREAM = {"Accept": "text/event-stream"}


class Gate:
    """A step of a `Scripted` provider: it waits until `open`; `reached` tells that it waits."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.Lock()
        self._opened = False

    async def __call__(self) -> None:
        """Wait, in the server's loop."""
        opened = asyncio.Event()
        with self._lock:
            self._waiting.append((asyncio.get_running_loop(), opened))
            self._reached.set()
            if self._opened:
                return
        await opened.wait()

    def reached(self) -> None:
        """Block until a provider waits here, or has."""
        assert self._reached.wait(SECONDS), "no provider came to the gate"

    def open(self) -> None:
        """Let every reply go on that waits here, now or later."""
        with self._lock:
            self._opened = True
            for loop, opened in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(opened.set)


class Running:
    """
    One application that serves, until the block's end. `stop` and `start` restart it.

    Attributes:
        app: The application; its `services` belong to the server's thread.
        base_url: Where it is.
        http: A client of it.
    """

    def __init__(
        self,
        data_dir: Path,
        provider: Scripted | Providers | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(provider, Scripted):
            provider = Providers({provider.name: provider}, provider.name)
        given = provider or Providers({"scripted": Scripted("Hello")}, "scripted")
        self._providers = replace(given, owned=True)  # it stands in for what the settings name
        own = {"port": 0, "data_dir": data_dir, "rate_limit_chat": "0", "rate_limit_default": "0"}
        self._settings = Settings(**{**own, **settings})

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve; returns once it is reached."""
        self.app: Chatstream = create_app(self._settings, providers=self._providers)
        self._server = _Server(self.app)
        self._thread = threading.Thread(target=self._server.run, name="chatstream")
        self._thread.start()
        try:
            self.port = self._server.port.result(SECONDS)
        except BaseException:
            self._thread.join(SECONDS)
            raise
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.base_url, timeout=SECONDS, trust_env=False)

    def stop(self) -> None:
        """Stop as by a second signal: running turns end as interrupted; returns once it is over."""
        self.http.close()
        self._server.should_exit = True
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the server did not stop"

    def call(self, job: Any) -> Any:
        """Run a coroutine in the server's loop; returns what it returns."""
        return asyncio.run_coroutine_threadsafe(job, self._server.loop).result(SECONDS)

    def transports(self, protocol: type) -> list[asyncio.Transport]:
        """Return the connections that speak a protocol."""
        connections = self._server.server_state.connections
        return [c.transport for c in connections if isinstance(c, protocol)]

    @contextmanager
    def stream(self, method: str, path: str, **given: Any) -> Iterator[Stream]:
        """Open an SSE answer; leaving the block leaves the server too."""
        with (
            httpx.Client(base_url=self.base_url, timeout=SECONDS, trust_env=False) as client,
            client.stream(method, path, **given) as response,
        ):
            yield Stream(response)

    def events(self, path: str, **given: Any) -> list[Frame]:
        """Return all frames of a stream that ends by itself, as a whole one."""
        with self.stream("GET", path, **given) as stream:
            return list(stream)


class _Server(Server):
    def __init__(self, app: Chatstream) -> None:
        self.port: Future[int] = Future()
        super().__init__(app, self._listens)

    def _listens(self, url: str) -> None:
        self.port.set_result(int(url.rstrip("/").rpartition(":")[2]))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def run(self, sockets: Any = None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        try:
            super().run(sockets)
        except BaseException as error:
            if self.port.done():
                raise
            self.port.set_exception(error)


class Frame(NamedTuple):
    """One SSE event: its `id:` line, where it has one, and its JSON."""

    id: str | None
    data: dict[str, Any]

    @property
    def type(self) -> str:
        """The event's type."""
        return str(self.data["type"])


class Stream:
    """
    The frames of an SSE answer, as they come.

    Attributes:
        retries: Values of the `retry:` lines so far.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.retries: list[int] = []
        self._frames = self._read()

    def __iter__(self) -> Iterator[Frame]:
        return self._frames

    def __next__(self) -> Frame:
        return next(self._frames)

    def until(self, kind: str) -> list[Frame]:
        """Return the frames up to the first of a type, with it."""
        found = []
        for frame in self._frames:
            found.append(frame)
            if frame.type == kind:
                return found
        raise AssertionError(f"the stream ended without {kind}: {found}")

    def _read(self) -> Iterator[Frame]:
        rest = b""
        for chunk in self.response.iter_raw():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            yield from self._frames_of(blocks)
        assert not rest, f"the stream ended inside an event: {rest!r}"

    def _frames_of(self, blocks: list[bytes]) -> Iterator[Frame]:
        for block in blocks:
            identifier = data = None
            for line in block.split(b"\n"):
                name, _, value = line.partition(b": ")
                if name == b"id":
                    identifier = value.decode()
                elif name == b"data":
                    data = orjson.loads(value)
                else:
                    assert name == b"retry", f"an unknown line: {line!r}"
                    self.retries.append(int(value))
            if data is not None:
                yield Frame(identifier, data)


class Fold:
    """
    What a client shows of a stream, by the rule of `protocol.md`, section 2.

    Attributes:
        last_id: The last id; None before the first event.
        turns: Text, reasoning and status of each turn in view, in order.
    """

    def __init__(self) -> None:
        self.last_id: str | None = None
        self.turns: dict[str, dict[str, str]] = {}
        self.started: dict[str, str] = {}
        self.seen: list[str] = []

    def take(self, frame: Frame) -> None:
        """Take one frame."""
        event = frame.data
        if frame.type == "ready":
            self.last_id = event.get("id", self.last_id)
        if frame.type == "reset":
            self.last_id = None
            self.turns.clear()
        if "id" not in event or frame.type == "ready":
            return
        assert frame.id == event["id"]
        if self.last_id is not None and event["id"] <= self.last_id:
            return
        self.last_id = event["id"]
        self.seen.append(frame.type)
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        turn_id = event.get("turn_id", "")
        if event["type"] == "turn.started":
            self.started[turn_id] = event["id"]
            since = self.started.get(event.get("replaces", ""), "9")
            for name in [name for name in self.turns if self.started[name] >= since]:
                del self.turns[name]
            self.turns[turn_id] = {"text": "", "reasoning": "", "status": "running"}
        elif event["type"] == "history.cleared":
            self.turns.clear()
        elif turn_id not in self.turns:
            return
        elif event["type"] == "delta":
            self.turns[turn_id][event.get("kind", "text")] += event["text"]
        elif "started_id" in event:
            self.turns[turn_id] = {
                "text": event.get("text", ""),
                "reasoning": event.get("reasoning", ""),
                "status": event["type"].removeprefix("turn."),
            }


def fold(frames: Iterable[Frame]) -> dict[str, dict[str, str]]:
    """Return what a client shows that took these frames."""
    client = Fold()
    for frame in frames:
        client.take(frame)
    return client.turns


def kinds(frames: Iterable[Frame]) -> list[str]:
    """Return the types of frames, neighbouring deltas as one: how they join is not promised."""
    found: list[str] = []
    for frame in frames:
        if found[-1:] != ["delta"] or frame.type != "delta":
            found.append(frame.type)
    return found
