"""
uvicorn as a program, with signals of our own: turns end first, then the listener, then streams.

uvicorn's own handler closes the listener at once and truncates what streams. Here the first
SIGTERM or SIGINT drains: nothing new starts, readers go on, running turns have `DRAIN_TIMEOUT`
to end. A second one ends it now.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from types import FrameType

import uvicorn

from chatstream.app import Chatstream
from chatstream.server import logs
from chatstream.server.connections import Connections
from chatstream.server.descriptors import places, raise_limit
from chatstream.server.http_protocol import HttpProtocol
from chatstream.server.listener import bind, told, url_of
from chatstream.server.websocket_protocol import SocketProtocol
from chatstream.settings import Settings
from chatstream.web import heartbeats

logger = logging.getLogger(__name__)

STREAM_SECONDS = 2.0
"""What streams have to send their last events after the listener is closed."""
CLOSE_SECONDS = 2
"""What other requests have to be answered then, before they are cut."""
EXIT_SECONDS = 8.0
"""The longest stop: a process that hangs, on a provider or a disk, exits then all the same."""
NOT_STOPPED = 1
ACCEPTED_AT_ONCE = 16
"""
So many listeners share each socket. uvloop takes one connection from a listener each time around
its loop: of a thousand clients that come back while turns stream, the last would wait for seconds.
"""


class Server(uvicorn.Server):
    """
    Serves one application until a signal, and always exits.

    `ready` is called with the address once requests are taken.
    """

    def __init__(self, app: Chatstream, ready: Callable[[str], None]) -> None:
        super().__init__(_config(app))
        self._app = app
        self._ready = ready
        self._running = AsyncExitStack()
        self._sockets: list[socket.socket] = []
        self._draining: asyncio.Task[None] | None = None
        self._hurrying: asyncio.Task[None] | None = None
        self._last_resort: threading.Timer | None = None
        self._loop: asyncio.AbstractEventLoop
        self._connections: Connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """
        Open the data folder, then listen.

        Raises:
            ChatstreamError: It cannot start.
        """
        self._loop = asyncio.get_running_loop()
        config = self.config
        self._connections = _connections(self._app.settings, self._loop)
        config.http_protocol_class = partial(  # type: ignore[assignment]
            HttpProtocol, connections=self._connections, origins=self._app.origins
        )
        async with AsyncExitStack() as running:
            # The data folder comes first: its owner, another server, is the most telling reason.
            await running.enter_async_context(self._app.lifespan())
            self._app.services.metrics.lines_dropped = logs.dropped
            with told(config.host, config.port):
                self._sockets = bind(
                    config.host, config.port, stuck_seconds=heartbeats.STUCK_SECONDS
                )
                self._sockets += [
                    s.dup() for s in self._sockets for _ in range(ACCEPTED_AT_ONCE - 1)
                ]
                await super().startup(self._sockets)
            self._running = running.pop_all()
        url = url_of(self._sockets[0], config.host)
        logger.info("listening", extra={"url": url})
        self._ready(url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if not self.started:
            self.should_exit = True
            self._exit_within(EXIT_SECONDS)  # a start may hang too: on a disk, in a name look-up
        else:
            self._loop.call_soon_threadsafe(self._stop_soon)
        # uvicorn would end the process by the signal; it has done what it was asked: status 0.

    def _stop_soon(self) -> None:
        if self._draining is None:
            grace = self._app.settings.drain_timeout
            logger.info("draining", extra={"seconds": grace})
            self._draining = self._loop.create_task(self._drain(grace))
            self._exit_within(grace + EXIT_SECONDS)
        elif self._hurrying is None:
            # Not by cancelling the drain: before its first step that would undo it.
            self._hurrying = self._loop.create_task(self._app.services.runner.interrupt())
            self._exit_within(EXIT_SECONDS)

    async def _drain(self, grace: float) -> None:
        try:
            await self._app.services.runner.drain(grace)
        finally:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, then the streams, then what is left."""
        if self._draining is not None:
            self._exit_within(EXIT_SECONDS)
        await self._app.services.runner.interrupt()  # stopped by a signal, it has been already
        for server in self.servers:
            server.close()
        for listening in self._sockets:
            listening.close()
        streams = self._app.services.pulse
        streams.close()
        await streams.idle(STREAM_SECONDS)
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # its client takes nothing: a close would wait for it
        self._connections.close()
        await self._running.aclose()

    def _exit_within(self, seconds: float) -> None:
        if self._last_resort is not None:
            self._last_resort.cancel()
        self._last_resort = threading.Timer(seconds, _exit_now)
        self._last_resort.daemon = True
        self._last_resort.start()


def _exit_now() -> None:
    # Threads that hang in a name look-up or on a disk would keep the interpreter from exiting.
    logger.error("did not stop in time; exiting")
    logging.shutdown()  # within a bound: what reads the log may have stopped
    os._exit(NOT_STOPPED)


def serve(app: Chatstream, ready: Callable[[str], None]) -> None:
    """
    Serve an application as its settings say; returns once SIGINT or SIGTERM has stopped it.

    `ready` is called with its address once it takes requests.

    Raises:
        ChatstreamError: It could not start: an address in use, a data folder that is not its own.
    """
    from sse_starlette.sse import AppStatus  # not above: `web/finite.py` says why

    # It would cut a turn that has ended once the listener closes; that too has `CLOSE_SECONDS`.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    # What was imported stays. What chatstream leaves is freed by counting; the collector is for
    # what others leave in circles: some 240,000 things at most wait for it, tens of MiB.
    gc.freeze()
    gc.set_threshold(10_000, 5, 3)
    Server(app, ready).run()


def _connections(settings: Settings, loop: asyncio.AbstractEventLoop) -> Connections:
    each = settings.max_connections_per_address
    limited = settings.limited("max_connections_per_address")
    return Connections(loop, places(settings, raise_limit()), each if limited else 0)


def _config(app: Chatstream) -> uvicorn.Config:
    """Return how uvicorn is to run; logs and signals are the program's own."""
    settings = app.settings
    own = logging.getLogger("uvicorn.error")
    own.addFilter(_not_our_cut)
    # Below this level it logs each WebSocket with its query, which names a user.
    own.setLevel(logging.WARNING)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=HttpProtocol,
        ws=SocketProtocol,
        ws_max_size=settings.max_body_bytes,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
        timeout_keep_alive=75,
        log_config=None,
        access_log=False,
        server_header=False,
        # What a client says of itself in X-Forwarded-* is not believed.
        proxy_headers=False,
        # `startup` enters the lifespan, so that an error of it is one line.
        lifespan="off",
    )


def _not_our_cut(record: logging.LogRecord) -> bool:
    # A stream that ends before its turn does has no last chunk, on purpose (`protocol.md`,
    # section 2, promise 9).
    return "returned without completing response" not in str(record.msg)
