"""
SSE answers that are whole before they begin: a turn that has ended.

They are sse-starlette's, which changes `uvicorn.Server.handle_exit` when it is imported: so this
module is imported where its first answer is made, and importing chatstream changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from chatstream.metrics import Metrics
from chatstream.web import heartbeats
from chatstream.web.sse import HEADERS


class FiniteStream(EventSourceResponse):
    """
    Sends frames that are ready, and ends cleanly.

    A client that takes nothing for `STUCK_SECONDS` is cut off, as it is from other streams.
    """

    def __init__(
        self, metrics: Metrics, frames: bytes, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(
            _counted(metrics, frames),
            headers=HEADERS | (headers or {}),
            ping=0,  # one send takes it all: there is no silence to fill
            sep="\n",
            send_timeout=heartbeats.STUCK_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; where the client takes nothing the last chunk is missing."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            return


async def _counted(metrics: Metrics, frames: bytes) -> AsyncIterator[bytes]:
    metrics.stream_opened("sse")
    try:
        yield frames
    finally:
        metrics.stream_closed("sse")
