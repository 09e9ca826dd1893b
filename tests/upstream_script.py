"""
What the fake upstream answers: one script's steps, played over one connection.

`tests/upstream.py` says what each step does.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator
from email.utils import formatdate
from time import time
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import orjson

from tests.upstream_forms import (
    EMOJI,
    AnthropicForm,
    Asked,
    Form,
    GeminiForm,
    OllamaForm,
    OpenAIForm,
    token,
)


def question(asked: Asked) -> str:
    """Return the last message of a request."""
    if "contents" in asked.body:
        return str(asked.body["contents"][-1]["parts"][-1]["text"])
    return str(asked.body["messages"][-1]["content"])


def script_of(asked: Asked) -> str:
    """Return the script that a request asks for."""
    text = question(asked)
    if "contents" in asked.body:
        model = unquote(asked.path.rpartition("/")[2].rpartition(":")[0])
    else:
        model = asked.body["model"]
    script = text[1:] if text.startswith("!") else model.partition("!")[2]
    return script or "tokens=8"


def steps(script: str) -> Iterator[tuple[str, str]]:
    """
    Yield a script's steps, as names of methods and values.

    Raises:
        AttributeError: From playing them, where there is no such step.
    """
    for step in re.split(r"[\s,]+", script):
        name, _, value = step.partition("=")
        yield name.replace("-", "_"), value


def form_of(path: str) -> Form | None:
    """Return the wire form that is spoken at a path."""
    if path.endswith("/chat/completions"):
        return OpenAIForm
    if "streamGenerateContent" in path:
        return GeminiForm
    if path.endswith("/v1/messages"):
        return AnthropicForm
    return OllamaForm if path == "/api/chat" else None


class Player:
    """Plays one script over one connection. A step `x-y` is the method `do_x_y`."""

    def __init__(
        self, transport: asyncio.WriteTransport, asked: Asked, script: str, gate: asyncio.Event
    ) -> None:
        self._gate = gate
        self._script = script
        self._transport = transport
        self._asked = asked
        self._form = form_of(asked.path) or OpenAIForm
        self._begun = self._ended = False
        self._interval = 0.0
        self._next = 0.0
        self._split = 0
        self._drip = 0.0
        self._split_at = 0
        self._left: int | None = None
        self._then = self._transport.close
        self._newline = b"\n"
        self._headers: list[bytes] = []
        self._error: dict[str, Any] = {}
        self._counts = (7, 0)
        self._body = b""
        self._gzip: zlib._Compress | None = None
        self._status = 200
        self._type = b"Content-Type: %s\r\n" % self._form.media_type

    async def play(self) -> None:
        """Answer the request."""
        for name, value in steps(self._script):
            step: Callable[[str], Awaitable[None]] = getattr(self, f"do_{name}")
            await step(value)
            if self._ended:
                return
        await self.do_end("")

    # Content

    async def do_tokens(self, value: str) -> None:
        await self._many("text", int(value))

    async def do_reason(self, value: str) -> None:
        await self._many("reasoning", int(value))

    async def _many(self, kind: str, count: int) -> None:
        frame = self._form.frame
        for number in range(count):
            if self._interval:
                await self._tick()
            await self._send(frame(kind, token(number)))
        self._counts = (self._counts[0], self._counts[1] + count)

    async def do_say(self, value: str) -> None:
        await self._send(self._form.frame("text", unquote(value)))

    async def do_emoji(self, _: str) -> None:
        await self._send(self._form.frame("text", EMOJI))

    async def do_huge(self, value: str) -> None:
        await self._send(self._form.frame("text", "x" * int(value)))

    async def do_raw(self, value: str) -> None:
        await self._send(self._form.payload(unquote(value)))

    async def do_refusal(self, value: str) -> None:
        await self._send(self._form.frame("refusal", value))

    async def do_role(self, _: str) -> None:
        await self._send(self._form.frame("role", ""))

    async def do_empty(self, _: str) -> None:
        await self._send(self._form.frame("empty", ""))

    async def do_comment(self, _: str) -> None:
        await self._send(b": OPENROUTER PROCESSING\n\n")

    async def do_keepalive(self, value: str) -> None:
        for _ in range(int(value)) if int(value) else itertools.count():
            await self._tick()
            await self._send(self._form.keep_alive)

    async def do_usage(self, value: str) -> None:
        first, _, second = value.partition(":")
        self._counts = int(first), int(second)
        await self._send(self._form.usage(self._counts))

    # Ends

    async def do_end(self, value: str) -> None:
        await self.do_linger(value)
        await self.do_eof("")

    async def do_linger(self, value: str) -> None:
        options = self._asked.body.get("stream_options") or {}
        await self._send(self._form.end(value or self._form.default_reason, self._counts, options))
        self._ended = True

    async def do_finish(self, value: str) -> None:
        await self._send(self._form.frame("finish", value or self._form.default_reason))

    async def do_done(self, _: str) -> None:
        await self._send(self._form.done())

    async def do_block(self, value: str) -> None:
        await self._send(self._form.frame("block", value))
        await self.do_eof("")

    async def do_eof(self, _: str) -> None:
        await self.do_headers()
        self._transport.write(b"0\r\n\r\n")
        self._ended = True

    async def do_cut(self, _: str) -> None:
        self._transport.abort()
        self._ended = True

    do_drop = do_cut

    async def do_bad_chunk(self, _: str) -> None:
        self._transport.write(b"no size\r\n")

    async def do_cut_at(self, value: str) -> None:
        self._left = int(value)

    async def do_eof_at(self, value: str) -> None:
        self._left, self._then = int(value), lambda: self._transport.write(b"0\r\n\r\n")

    async def do_half_char(self, _: str) -> None:
        await self._send(self._form.frame("text", "☃").replace("☃".encode(), "☃".encode()[:2]))

    async def do_hang(self, _: str) -> None:
        await asyncio.get_running_loop().create_future()

    async def do_error(self, value: str, prefix: bytes = b"") -> None:
        await self._send(prefix + self._form.error_frame(int(value or 0), self._error))
        await self.do_eof("")

    async def do_error_event(self, value: str) -> None:
        await self.do_error(value, b"event: error\n")

    async def do_raw_error(self, value: str) -> None:
        body = {"error": self._form.error(int(value or 503), self._error)}
        await self._send(orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")
        await self.do_eof("")

    async def do_raw_part(self, value: str) -> None:
        body = {"error": self._form.error(503, self._error)}
        await self._send(orjson.dumps(body, option=orjson.OPT_INDENT_2)[: int(value)] + b"\n")

    async def do_plain_error(self, _: str) -> None:
        await self._send(b"upstream connect error or disconnect/reset before headers\n")
        await self.do_eof("")

    async def do_bytes(self, value: str) -> None:
        await self._send(unquote_to_bytes(value))

    async def do_broken(self, _: str) -> None:
        await self._send(b'data: {"choices":[{"delta":\n\n')

    # Instead of an answer

    async def do_retry_after(self, value: str) -> None:
        when = formatdate(time() + int(value[5:]), usegmt=True) if "date" in value else value
        self._headers.append(b"Retry-After: %s\r\n" % when.encode())

    async def do_retry_after_ms(self, value: str) -> None:
        self._headers.append(b"Retry-After-Ms: %s\r\n" % value.encode())

    async def do_retry_info(self, value: str) -> None:
        kind = "type.googleapis.com/google.rpc.RetryInfo"
        self._error["details"] = [{"@type": kind, "retryDelay": value}]

    async def do_retry_text(self, value: str) -> None:
        self._error["message"] = f"Rate limit reached. Please retry in {value}."

    async def do_code(self, value: str) -> None:
        self._error["status" if self._form is GeminiForm else "code"] = value

    async def do_quote(self, _: str) -> None:
        headers = self._asked.headers
        names = ("x-goog-api-key", "x-api-key", "authorization")
        key = next((headers[name] for name in names if name in headers), "")
        self._error["message"] = f"Wrong key {key} for {orjson.dumps(self._asked.body).decode()}"

    async def do_body(self, value: str) -> None:
        self._body = unquote(value).encode()

    async def do_status(self, value: str) -> None:
        self._whole(int(value), b"application/json", self._error_body(int(value)))

    async def do_half(self, value: str) -> None:
        body = self._error_body(int(value))
        self._whole(int(value), b"application/json", body[:-5], claimed=len(body))
        await self.do_hang("")

    async def do_json(self, value: str) -> None:
        self._whole(200, b"application/json", self._error_body(int(value or 503)))

    async def do_html(self, _: str) -> None:
        page = (
            b"<!doctype html><html><head><title>The hotel &amp; its network</title></head></html>"
        )
        self._whole(200, b"text/html", page)

    async def do_whole(self, value: str) -> None:
        text = "".join(map(token, range(int(value or 3))))
        await self._send(orjson.dumps(self._form.whole(text, (7, int(value or 3)))))
        await self.do_eof("")

    def _error_body(self, status: int) -> bytes:
        return self._body or orjson.dumps({"error": self._form.error(status, self._error)})

    def _whole(self, status: int, kind: bytes, body: bytes, claimed: int | None = None) -> None:
        self._transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n%s"
            % (status, kind, claimed or len(body), b"".join(self._headers), body)
        )
        self._begun = self._ended = True

    # Manner

    async def do_pace(self, value: str) -> None:
        self._interval = 1 / float(value)
        self._next = asyncio.get_running_loop().time()

    async def do_nl(self, value: str) -> None:
        self._newline = {"crlf": b"\r\n", "cr": b"\r", "lf": b"\n"}[value]

    async def do_gzip(self, _: str, name: bytes = b"gzip", wbits: int = 31) -> None:
        self._headers.append(b"Content-Encoding: %s\r\n" % name)
        self._gzip = zlib.compressobj(wbits=wbits)

    async def do_deflate(self, value: str) -> None:
        await self.do_gzip("", b"deflate", -15 if value == "raw" else 15)

    async def do_encoding(self, value: str) -> None:
        self._headers.append(b"Content-Encoding: %s\r\n" % value.encode())

    async def do_taken(self, value: str) -> None:
        self._status = int(value)

    async def do_type(self, value: str) -> None:
        self._type = b"" if value == "none" else b"Content-Type: %s\r\n" % value.encode()

    async def do_wait(self, value: str) -> None:
        await asyncio.sleep(float(value))

    async def do_gate(self, _: str) -> None:
        await self._gate.wait()

    async def _tick(self) -> None:
        """Wait for the next token's time; a late one does not make the others late."""
        self._next += self._interval
        await asyncio.sleep(self._next - asyncio.get_running_loop().time())

    async def do_split(self, value: str) -> None:
        self._split = int(value)

    async def do_drip(self, value: str) -> None:
        self._split, self._drip = 1, float(value)

    async def do_split_at(self, value: str) -> None:
        self._split_at = int(value)

    async def do_headers(self, _: str = "") -> None:
        if not self._begun:
            self._begun = True
            self._transport.write(
                b"HTTP/1.1 %d OK\r\n%sTransfer-Encoding: chunked\r\nSet-Cookie: who=you\r\n%s\r\n"
                % (self._status, self._type, b"".join(self._headers))
            )

    async def _send(self, frame: bytes) -> None:
        if not self._begun:
            await self.do_headers()
        if self._newline != b"\n":
            frame = frame.replace(b"\n", self._newline)
        if self._gzip is not None:
            frame = self._gzip.compress(frame) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        if self._split_at:
            head, frame = frame[: self._split_at], frame[self._split_at :]
            self._split_at -= len(head)
            self._transport.write(b"%x\r\n%s\r\n" % (len(head), head))
            # A write of its own, and time for the reader to see it alone.
            await asyncio.sleep(0.001)
        if self._left is not None:
            frame = frame[: self._left]
            self._left -= len(frame)
        step = self._split or len(frame) or 1
        for start in range(0, len(frame), step):
            piece = frame[start : start + step]
            self._transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if self._split:
                await asyncio.sleep(self._drip)
        if self._left == 0:
            self._then()
            await self.do_hang("")
