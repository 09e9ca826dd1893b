"""
Clients for the load: raw protocols that keep what comes and when, and read it afterwards.

The clock runs while servers are measured, so that nothing is parsed then.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any, cast

import orjson

from chatstream.bench.processes import BenchFailed

LAST_CHUNK = b"0\r\n\r\n"
DELTA = b'"type":"delta"'
RELAYED_DELTA = b'"type": "delta"'


class Client(asyncio.Protocol):
    """
    One chat over SSE; also what chats over other transports have in common.

    Attributes:
        asked_at: When it connected.
        first_at: When the first text came; 0 before.
        ended_at: When the end came.
        arrivals: When bytes came, and how many had come by then.
        done: Done at the end; with an error if the connection ended before.
    """

    delta = DELTA

    def __init__(self, body: dict[str, Any], on_first: Callable[[], None]) -> None:
        self.body = body
        self.on_first = on_first
        self.asked_at = perf_counter()
        self.first_at = self.ended_at = 0.0
        self.arrivals: list[tuple[float, int]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parts: list[bytes] = []
        self._size = 0
        self._last = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(post("/chat", self.body, b"Accept: text/event-stream\r\n"))

    def data_received(self, data: bytes) -> None:
        """Keep what came."""
        now = perf_counter()
        self._size += len(data)
        self._parts.append(data)
        self.arrivals.append((now, self._size))
        if not self.first_at and self.delta in data:
            self.first_at = now
            self.on_first()
        # The mark of the end may be cut in two.
        last, self._last = self._last + data, data[-32:]
        if self.is_last(last):
            self.ended_at = now
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail, if there was no end."""
        if not self.done.done():
            said = b"".join(self._parts)[:300].decode(errors="replace")
            self.done.set_exception(BenchFailed(f"an answer was cut short: {said}"))

    def is_last(self, data: bytes) -> bool:
        """Return whether the answer ends with this."""
        return data.endswith(LAST_CHUNK)

    @property
    def raw(self) -> bytes:
        """Everything that came."""
        return b"".join(self._parts)

    def events(self) -> list[dict[str, Any]]:
        """Return the events that came."""
        lines = dechunked(self.raw.partition(b"\r\n\r\n")[2]).split(b"\n")
        return [orjson.loads(line[6:].strip()) for line in lines if line.startswith(b"data: ")]

    def check(self, expected: str) -> None:
        """Raise BenchFailed unless the text is exactly what the provider said."""
        events = self.events()
        text = "".join(event["text"] for event in events if event["type"] == "delta")
        last = events[-1]
        whole = last.get("text", text)
        if last["type"] not in ("turn.completed", "done") or whole != expected:
            raise BenchFailed(f"an answer is not the provider's: {last}")
        if not expected.startswith(text):
            raise BenchFailed(f"an answer's deltas are not the provider's: {text[:300]!r}")

    def gaps(self) -> list[float]:
        """Return the seconds between one arrival of text and the next."""
        times = [moment for moment, _ in self._texts()]
        return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]

    def characters(self, moment: float) -> int:
        """Return how many characters of the answer had come at a moment."""
        deltas = [event["text"] for event in self.events() if event["type"] == "delta"]
        count = max((count for at, count in self._texts() if at <= moment), default=0)
        return sum(map(len, deltas[:count]))

    def _texts(self) -> list[tuple[float, int]]:
        """Return when bytes of deltas came, and how many deltas had begun by then."""
        raw, found, position, count = self.raw, [], 0, 0
        for moment, size in self.arrivals:
            new = raw.count(self.delta, position, size)
            position = max(position, size - len(self.delta) + 1)
            if new:
                count += new
                found.append((moment, count))
        return found


class RelayClient(Client):
    """A chat with the relay, whose events are written by `json.dumps`."""

    delta = RELAYED_DELTA


class SocketClient(Client):
    """One chat over a WebSocket of its own."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shake hands, and send at once."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(hello(self.body.pop("user_id")))
        self._send = masked(0x81, orjson.dumps({"type": "send", **self.body}))

    def data_received(self, data: bytes) -> None:
        """Keep what came; a ping that comes alone, as servers send it, is answered."""
        if not self._parts:
            self.transport.write(self._send)
        elif is_ping(data):
            self.transport.write(masked(0x8A, data[2:]))
        super().data_received(data)

    def is_last(self, data: bytes) -> bool:
        """Return whether the turn's end is here."""
        return b'"turn.completed"' in data

    def events(self) -> list[dict[str, Any]]:
        """Return the events that came."""
        data = self.raw.partition(b"\r\n\r\n")[2]
        found, at = [], 0
        while at < len(data):
            kind, size, head = data[at], data[at + 1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                size = int.from_bytes(data[at + 2 : at + head])
            if kind == 0x81:
                event = orjson.loads(data[at + head : at + head + size])
                if event["type"] not in ("ack", "caught_up"):
                    found.append(event)
            at += head + size
        return found


def post(path: str, body: dict[str, Any], headers: bytes = b"") -> bytes:
    """Return a request."""
    content = orjson.dumps(body)
    return b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%bContent-Type: application/json\r\n" % (
        path.encode(),
        headers,
    ) + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)


def dechunked(body: bytes) -> bytes:
    """Undo HTTP's chunked form."""
    parts, at = [], 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)


def hello(user_id: str) -> bytes:
    """Return the request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /ws?user_id={user_id} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: chatstream.v1\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def is_ping(data: bytes) -> bool:
    """Return whether what came is a ping, and nothing else."""
    return data[0] == 0x89 and len(data) == 2 + data[1]


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a client's WebSocket frame."""
    mask = os.urandom(4)
    size = len(payload)
    head = bytes([opcode, 0x80 | size]) if size < 126 else bytes([opcode, 0xFE]) + size.to_bytes(2)
    body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + mask + body
