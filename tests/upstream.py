"""
A provider to test against: a real server on a real socket that speaks OpenAI, Gemini, Anthropic and
Ollama, and fails on demand.

::

    with Upstream() as upstream:            # its own thread and event loop
        provider = openai.provider(base_url=upstream.openai_url, api_key="k", model="m", …)

    python -m tests.upstream --port 0       # its own process; prints its address, nothing else

What it answers is a script: the last user message if that begins with `!`, else what follows a `!`
in the model's name. Steps are separated by spaces or commas and played in order; without a script
it is `tokens=8`. An answer that no step ended is ended by `end`.

Content: `tokens=N` (`text_of(N)`, one frame a token), `reason=N` (the same as reasoning),
`say=TEXT` (percent-encoded), `raw=PAYLOAD` (percent-encoded: one event or line as it stands),
`emoji` (`EMOJI`, with U+2028), `huge=BYTES` (one frame), `half-char`,
`refusal=TEXT`, `role`, `empty` (`choices: []`, no candidate), `comment`, `keepalive=N` (comments
or pings at the pace; 0: for ever), `usage=IN:OUT`.

Ends: `end=REASON` (finish reason, usage as asked for, end mark), `finish=REASON` (a finish reason
only), `done` (`[DONE]` only), `eof` (a clean end of the body), `cut` (the connection is aborted),
`hang` (nothing more), `linger` (as `end`, but the body does not end), `block=REASON` (Gemini's
promptFeedback), `error=STATUS` (an error frame), `error-event` (as `event: error`), `raw-error`
(Gemini's JSON without `data:`, then the end; `raw-part=N`: N bytes of it), `plain-error` (a
gateway's text), `broken` (no JSON), `bad-chunk` (broken HTTP framing).

Instead of an answer: `drop` (closed unanswered), `hang`, `headers hang`, `status=N` (an error body;
before it `retry-after=TEXT`, `retry-after=date+N`, `retry-after-ms=N`, `retry-info=3s` and
`retry-text=3s` in the body, `code=WORD`, `quote` for a body that quotes key and message,
`body=BODY` for a percent-encoded one), `half=N` (an error body that never ends), `json` (an error
body at 200), `html`, `whole=N` (`text_of(N)` as one object, as
where no stream was asked for). A script that cannot be played is answered by 418.

Manner, for what follows: `pace=N` (tokens a second), `split=N` (N bytes a write), `drip=S` (a byte
every S seconds), `split-at=N` (the body's first N bytes alone), `cut-at=N` (the connection ends
after the body's first N bytes), `eof-at=N` (the body does, cleanly), `nl=crlf` or `cr`,
`wait=SECONDS`, `gate` (until `open_gate`), `gzip`, `deflate` (`=raw`: without its header),
`encoding=NAME` (only said), `type=NAME` (the content type; `none`: without), `taken=N` (the
answer's status), `bytes=TEXT` (percent-encoded, as they are).

`GET /__state` tells another process the counts and the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Self, cast

import anyio.to_thread
import httptools
import orjson
import uvloop

from tests.upstream_forms import EMOJI, Asked, text_of, token
from tests.upstream_script import Player, form_of, script_of

__all__ = ["EMOJI", "MODELS", "Asked", "Upstream", "text_of", "token"]

MODELS = ("fake-small", "fake-large")


class Connection(asyncio.Protocol):
    """One connection of a client; one request at a time, as HTTP/1.1 has it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._asked = Asked()
        self._body = b""
        self.closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to count it."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._upstream.connections[self] = None
        self._upstream.note(opened=1, open=1)

    def abort(self) -> None:
        """Close it without a word."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what is being answered: the client has gone."""
        self._upstream.connections.pop(self)
        self.closed.set()
        running = self._task is not None and not self._task.done()
        if self._task is not None:
            self._task.cancel()
        self._upstream.note(open=-1, broken_off=int(running))

    def data_received(self, data: bytes) -> None:
        """Parse; what is no HTTP ends the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_url(self, url: bytes) -> None:
        """Begin a request; a proxy's is asked for by its whole address."""
        parsed = httptools.parse_url(url)
        query = parsed.query.decode() if parsed.query else ""
        self._asked = Asked(path=parsed.path.decode(), query=query, target=url.decode())
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._asked.headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._body += data

    def on_message_complete(self) -> None:
        """Answer."""
        asked = self._asked
        asked.method = self._parser.get_method().decode()
        if asked.path == "/__state":
            self._reply(200, self._upstream.state())
            return
        asked.body = orjson.loads(self._body) if self._body else None
        self._upstream.note(asked)
        if asked.path.endswith(("/models", "/tags")):
            self._reply(200, _models(asked.path))
        elif form_of(asked.path):
            self._task = asyncio.get_running_loop().create_task(self._play(asked))
        else:
            self._reply(404, {"error": {"code": 404, "message": "no such path"}})

    async def _play(self, asked: Asked) -> None:
        try:
            script = self._upstream.script(asked)
            await Player(self._transport, asked, script, self._upstream.gate).play()
        except (AttributeError, LookupError, ValueError) as error:
            self._reply(418, {"error": {"message": f"cannot play: {error}"}})

    def _reply(self, status: int, value: dict[str, Any]) -> None:
        body = orjson.dumps(value)
        self._transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (status, len(body), body)
        )


def _models(path: str) -> dict[str, Any]:
    if "v1beta" in path:
        method = {"supportedGenerationMethods": ["generateContent"]}
        names: list[Any] = [{"name": f"models/{name}", **method} for name in MODELS]
        return {"models": [*names, {"name": "models/embed", "supportedGenerationMethods": []}]}
    if path == "/api/tags":
        return {"models": [{"name": name, "model": name, "size": 1} for name in MODELS]}
    return {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]}


class Upstream:
    """
    The server. Its counts may be read from any thread; `wait` and `until` wait for them.

    Attributes:
        opened: Connections so far.
        open: Connections now.
        broken_off: Connections that their client closed while an answer was running.
        asked: The requests, in order.
        script: What is played for a request; what it asks for, unless told otherwise.
    """

    def __init__(self, script: Callable[[Asked], str] = script_of) -> None:
        self.script = script
        self.opened = self.open = self.broken_off = 0
        self.asked: list[Asked] = []
        self.connections: dict[Connection, None] = {}
        self.url = ""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run_in_thread, name="upstream", daemon=True)

    @property
    def openai_url(self) -> str:
        """The base URL as OpenAI's clients want it."""
        return f"{self.url}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait(lambda: bool(self.url))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def open_gate(self) -> None:
        """Let every script go on that waits at a `gate`, now or later."""
        self._loop.call_soon_threadsafe(self.gate.set)

    def hang_up(self) -> None:
        """Close every connection, the oldest first, as a provider closes idle ones."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def _abort_all(self) -> None:
        for connection in tuple(self.connections):
            connection.abort()

    def wait(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Block until a condition holds, which must depend on the counts. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(condition, seconds):
                raise TimeoutError(f"{self.state()}")

    async def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        """Wait as `wait` does, while the event loop goes on."""
        await anyio.to_thread.run_sync(self.wait, condition, seconds)

    def note(
        self, asked: Asked | None = None, *, opened: int = 0, open: int = 0, broken_off: int = 0
    ) -> None:
        """Count, and wake who waits."""
        with self._changed:
            self.opened += opened
            self.open += open
            self.broken_off += broken_off
            if asked is not None:
                self.asked.append(asked)
            self._changed.notify_all()

    def state(self) -> dict[str, Any]:
        """Return the counts and the requests, for another process."""
        return {
            "opened": self.opened,
            "open": self.open,
            "broken_off": self.broken_off,
            "asked": [asdict(asked) for asked in self.asked],
        }

    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen and answer until stopped; cancelled tasks and closed connections at the end."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.gate = asyncio.Event()
        server = await self._loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        host, port = server.sockets[0].getsockname()[:2]
        with self._changed:
            self.url = f"http://{host}:{port}"
            self._changed.notify_all()
        try:
            await self._stop.wait()
        finally:
            server.close()
            for connection in tuple(self.connections):
                connection.abort()
                await connection.closed.wait()

    def _run_in_thread(self) -> None:
        asyncio.run(self.serve())


async def _serve_and_tell(host: str, port: int) -> None:
    upstream = Upstream()
    serving = asyncio.ensure_future(upstream.serve(host, port))
    await upstream.until(lambda: bool(upstream.url))
    sys.stdout.write(f"{upstream.url}\n")
    sys.stdout.flush()
    await serving


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="a fake OpenAI, Gemini, Anthropic and Ollama")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    with suppress(KeyboardInterrupt):
        uvloop.run(_serve_and_tell(given.host, given.port))


if __name__ == "__main__":
    main()
