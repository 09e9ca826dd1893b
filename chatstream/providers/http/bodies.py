"""Reading a body for other ends than an answer: to its end, its beginning, or all of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import httpx

from chatstream.errors import ProviderError
from chatstream.providers.http.streams import AiohttpStream

DRAIN_SECONDS: Final = 0.2
"""How long after `[DONE]` the stream's end is waited for; without it no connection is reused."""
ERROR_BODY_SECONDS: Final = 2.0
MAX_ERROR_BODY: Final = 64 * 1024


async def drain(stream: AiohttpStream) -> None:
    """Read on to the stream's end, so that the connection can be reused."""
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while await stream.read():
                pass


async def beginning(stream: AiohttpStream) -> bytes:
    """Return the beginning of a body that is looked at for what it says of a failure."""
    body = bytearray()
    with suppress(TimeoutError, httpx.TransportError):
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            while len(body) < MAX_ERROR_BODY and (data := await stream.read()):
                body += data
    return bytes(body)


async def whole(stream: AiohttpStream, limit: int) -> bytes:
    """Return a whole body. Raises ProviderError if it is longer than the limit."""
    body = bytearray()
    while data := await stream.read():
        body += data
        if len(body) > limit:
            raise ProviderError(f"The provider sent more than {limit:,} bytes.")
    return bytes(body)
