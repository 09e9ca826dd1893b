"""
uvicorn as a program, with signals of our own: turns end first, then the listener, then streams.

uvicorn's own handler closes the listener at once and truncates what streams. Here the first
SIGTERM or SIGINT drains: nothing new starts, readers go on, running turns have `DRAIN_TIMEOUT`
to end. A second one ends it now.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from types import FrameType

import uvicorn

from chatstream.app import Chatstream

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 3
"""What connections have to end after the listener is closed; then they are cut."""


class Server(uvicorn.Server):
    """Serves one application until a signal, and always exits."""

    def __init__(self, app: Chatstream, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: object = None) -> None:
        """Start to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if not self.started:
            self.should_exit = True
        elif self._draining is None:
            self._loop.call_soon_threadsafe(self._drain)
        else:
            self._loop.call_soon_threadsafe(self._hurry)
        if sig == signal.SIGTERM:
            self._captured_signals.append(sig)  # uvicorn ends the process by it, as is usual

    def _drain(self) -> None:
        if self._draining is None:
            grace = self._app.settings.drain_timeout
            logger.info("draining", extra={"seconds": grace})
            self._draining = self._loop.create_task(self._stop(grace))

    def _hurry(self) -> None:
        if self._draining is not None:
            self._draining.cancel()

    async def _stop(self, grace: float) -> None:
        runner = self._app.services.runner
        try:
            await runner.drain(grace)
        except asyncio.CancelledError:
            await runner.interrupt()
        finally:
            self.should_exit = True

    async def shutdown(self, sockets: object = None) -> None:
        """Close the listener, then the streams, then what is left."""
        for server in self.servers:
            server.close()
        self._app.services.pulse.close()
        await super().shutdown(sockets)  # type: ignore[arg-type]


def serve(app: Chatstream) -> None:
    """
    Serve an application as its settings say; returns once it has stopped.

    Raises:
        SystemExit: It could not start, or a signal ended it.
    """
    settings = app.settings
    logging.getLogger("uvicorn.error").addFilter(_not_our_cut)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=settings.max_body_bytes,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        timeout_keep_alive=75,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
    )
    Server(app, config).run()


def _not_our_cut(record: logging.LogRecord) -> bool:
    # A stream that ends before its turn does has no last chunk, on purpose: promise 9.
    return "returned without completing response" not in str(record.msg)
