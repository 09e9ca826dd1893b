"""
The benchmark's provider: OpenAI's Chat Completions over a raw protocol, one write a token.

The model's name says how many tokens, and how many a second (`script`). Where it is told how many
answers it bears at once, it refuses more than those, as real ones do: 429.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import cast

import httptools
import orjson
import uvloop

from chatstream.bench.script import WORDS, Script

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    """Return one event of an answer, as a chunk of its own."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return framed(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "created": 1_764_000_000,
            "model": "bench",
            "system_fingerprint": None,
            "choices": [choice],
        }
    )


def framed(data: object) -> bytes:
    """Return an event in HTTP's chunked form."""
    frame = b"data: %b\n\n" % orjson.dumps(data)
    return b"%x\r\n%b\r\n" % (len(frame), frame)


TOKENS = [chunk({"content": word}) for word in WORDS]
OPENING = chunk({"role": "assistant", "content": ""})


def ending(tokens: int) -> bytes:
    """Return what ends an answer: reason, usage, `[DONE]`, the last chunk."""
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    told = framed({"id": "chatcmpl-bench", "choices": [], "usage": usage})
    return chunk({}, "stop") + told + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


REFUSAL = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n"
    b"Retry-After-Ms: 20\r\nContent-Length: 2\r\n\r\n{}"
)


class Load:
    """How many answers are being written, of how many that are borne."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.running = 0


class Connection(asyncio.Protocol):
    """One connection; one answer at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._answering = False
        self._loop = asyncio.get_running_loop()
        self._body = b""
        self._paused = False
        self._sent = 0
        self._script = Script(0, 0)
        self._due = 0.0
        self._handle: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to parse."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Take a part of its body."""
        self._body += data

    def on_message_complete(self) -> None:
        """Answer; the first token comes at once, the others at their time."""
        body, self._body = self._body, b""
        if self._load.running >= self._load.most:
            self._transport.write(REFUSAL)
            return
        self._load.running += 1
        self._answering = True
        self._script = Script.of(orjson.loads(body)["model"])
        self._sent = 0
        self._due = self._loop.time() + random.random() * 0.001
        self._transport.write(HEAD + OPENING)
        self._step()

    def _step(self) -> None:
        self._handle = None
        script = self._script
        if self._sent == script.tokens:
            self._transport.write(ending(script.tokens))
            self._answered()
            return
        self._transport.write(TOKENS[self._sent % len(TOKENS)])
        self._sent += 1
        if script.rate:
            self._due += 1 / script.rate
            self._handle = self._loop.call_at(self._due, self._step)
        elif not self._paused:
            self._handle = self._loop.call_soon(self._step)

    def _answered(self) -> None:
        if self._answering:
            self._answering = False
            self._load.running -= 1

    def pause_writing(self) -> None:
        """Wait for a reader that is behind."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        if self._handle is None and 0 < self._sent < self._script.tokens:
            self._step()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop: the reader has left."""
        self._answered()
        if self._handle is not None:
            self._handle.cancel()


async def run(port: int, most: float) -> None:
    """Serve until the process is ended; more answers at once than `most` are refused."""
    load = Load(most)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(load), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), float(sys.argv[2])))
