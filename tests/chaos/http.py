"""HTTP over a bare socket: nothing is retried, hidden or buffered, and an answer's cut is seen."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import httptools
import orjson

from tests.chaos.ledger import Json

PATIENCE = 4.0
"""Seconds of silence after which a client leaves and comes back; a heartbeat comes each second."""


class CutError(Exception):
    """The connection ended, or went silent, before the answer's end."""


class Manner(NamedTuple):
    """How a client reads: so many bytes at once, and then a pause."""

    size: int = 65536
    pause: float = 0.0


class Answer:
    """An answer as it comes."""

    def __init__(self, sock: socket.socket, manner: Manner) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._sock = sock
        self._manner = manner
        self._chunks: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._begun = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        """Know the status."""
        self.status = self._parser.get_status_code()
        self._begun = True

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        """Know that the body has its last chunk, or all of its length."""
        self.complete = True

    async def begin(self) -> None:
        """Read the headers."""
        while not self._begun:
            await self._read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raises CutError where it has no end."""
        while True:
            chunks, self._chunks = self._chunks, []
            for chunk in chunks:
                yield chunk
            if self.complete:
                return
            await self._read()

    async def json(self) -> Json:
        """Read the whole body."""
        data = b"".join([chunk async for chunk in self.chunks()])
        value: Json = orjson.loads(data)
        return value

    async def _read(self) -> None:
        if self._manner.pause:
            await asyncio.sleep(self._manner.pause)
        try:
            async with asyncio.timeout(PATIENCE):
                data = await asyncio.get_running_loop().sock_recv(self._sock, self._manner.size)
        except (TimeoutError, OSError) as error:
            raise CutError from error
        if not data:
            raise CutError
        self._parser.feed_data(data)


@asynccontextmanager
async def ask(
    sock: socket.socket,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    json: Json | None = None,
    manner: Manner | None = None,
) -> AsyncIterator[Answer]:
    """Send a request and read its headers; the socket is closed at the end. Raises CutError."""
    body = orjson.dumps(json) if json is not None else b""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if json is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    try:
        data = "\r\n".join([*lines, "", ""]).encode() + body
        try:
            await asyncio.get_running_loop().sock_sendall(sock, data)
        except OSError as error:
            raise CutError from error
        answer = Answer(sock, manner or Manner())
        await answer.begin()
        yield answer
    finally:
        sock.close()


async def events(answer: Answer) -> AsyncIterator[Json]:
    """Parse an event stream as `EventSource` does: only whole events count."""
    rest = b""
    async for chunk in answer.chunks():
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
            if b"data" in fields:
                event: Json = orjson.loads(fields[b"data"])
                assert event.get("id", "").encode() == fields.get(b"id", b""), event
                yield event
