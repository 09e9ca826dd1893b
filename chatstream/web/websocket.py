"""
`/ws`: many conversations over one WebSocket (`protocol.md`, section 4).

The socket's own task sends; one more takes frames in and has them carried out. Sending gives each
conversation that has something a slice in turn, so that a long backlog keeps no other waiting.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import orjson
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from chatstream.errors import ChatstreamError, InvalidRequest
from chatstream.events import Json
from chatstream.log.files.conversation import Conversation
from chatstream.schemas import UserQuery
from chatstream.views.subscriber import Signal, Start
from chatstream.web import wire
from chatstream.web.feed import Feed, Subscription
from chatstream.web.frames import Frames
from chatstream.web.problems import event
from chatstream.web.rate_limits import Throttle
from chatstream.web.requests import query
from chatstream.web.state import services_of

logger = logging.getLogger(__name__)

PROTOCOL = "chatstream.v1"
FRAMES = "chatstream.web.frames"
"""In `extensions` where a `websocket.send` may hold `frames`, a list of texts, instead of one."""
MAX_SUBSCRIPTIONS = 1000
"""Conversations that one socket may follow at once."""
FRAMES_AT_ONCE, FRAMES_PER_SECOND = MAX_SUBSCRIPTIONS, 50
"""What one socket may ask before it is read more slowly: enough to subscribe to all of them."""

CLOSE_SECONDS = 5
"""A client that does not even take the close is left."""

UNSUPPORTED, POLICY, TOO_BIG, FAILED, RESTART = 1003, 1008, 1009, 1011, 1012


class Sockets:
    """Serves sockets, as ASGI: a function would cost each of them a second layer of starlette's."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket until either side leaves."""
        socket = WebSocket(scope, receive, send)
        offered = scope.get("subprotocols", [])
        try:
            await socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
            try:
                user_id = query(socket, UserQuery).user_id
            except ChatstreamError as error:
                await socket.send_text(orjson.dumps(event(error)).decode())
                await socket.close(POLICY, error.code)
                return
            await Session(socket, user_id).run()
        except WebSocketDisconnect:
            return  # it left while it was being told something


class Session:
    """
    One socket of one user.

    Attributes:
        feed: The conversations that it follows.
        spoke_at: When something was last sent, in the loop's time.
        sending: Whether a send is waiting for the client right now.
    """

    __slots__ = (
        *("socket", "user_id", "services", "feed", "spoke_at", "sending", "_answers"),
        *("_loop", "_signal", "_told", "_close", "_beat", "_left", "_busy", "_task"),
        *("_cut", "_joins", "_throttle", "__weakref__"),
    )

    def __init__(self, socket: WebSocket, user_id: str) -> None:
        self.socket = socket
        self.user_id = user_id
        self.services = services_of(socket)
        self.spoke_at = 0.0
        self.sending = False
        self._answers: list[Json] = []
        self._loop = asyncio.get_running_loop()
        self._signal = Signal()
        self.feed = Feed(self._signal.set, self.services.shares)
        self._told = Signal()
        self._close: tuple[int, str] | None = None
        self._beat = self._left = self._busy = self._cut = False
        self._task: asyncio.Task[None] | None = None
        self._joins = FRAMES in socket.scope.get("extensions", {})
        self._throttle = Throttle(FRAMES_AT_ONCE, FRAMES_PER_SECOND)

    @property
    def client(self) -> str:
        """The address of the client."""
        client = self.socket.client
        return client.host if client else "unknown"

    async def run(self) -> None:
        """Serve until either side leaves; then nothing of it is left behind."""
        services = self.services
        self._task = asyncio.current_task()
        receiver = asyncio.ensure_future(self._receive())
        receiver.add_done_callback(self._stop_sending)
        services.pulse.add(self)
        services.metrics.stream_opened("websocket")
        ends: list[BaseException | None] = []
        try:
            ends.append(await self._sent())
        finally:
            self._left = True
            self._task = None
            services.pulse.remove(self)
            services.metrics.stream_closed("websocket")
            if not self._busy:
                receiver.cancel()  # what it carries out is not broken off half-way
            try:
                ends += await asyncio.gather(receiver, return_exceptions=True)
            finally:
                await self.feed.end()
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect):
                told = {"address": self.socket.client.host if self.socket.client else ""}
                logger.error("socket failed", exc_info=end, extra=told)
                self._shut(FAILED, "internal")
        if self._close and self.socket.application_state is WebSocketState.CONNECTED:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.socket.close(*self._close)

    # ---- sending

    async def _sent(self) -> Exception | None:
        """Send until that is over; returns what went wrong."""
        try:
            await self._send_all()
        except asyncio.CancelledError:
            # Ours is over here; anybody else's goes on.
            if not self._cut or asyncio.current_task().uncancel():  # type: ignore[union-attr]
                raise
        except Exception as error:
            return error
        return None

    def _stop_sending(self, _: object = None) -> None:
        """Send nothing more, not even what waits for the client."""
        self._left = True
        self._signal.set()
        if self.sending and self._task is not None and not self._cut:
            self._cut = True
            self._task.cancel()

    async def _send_all(self) -> None:
        """Send until there is a reason to close, and then what is visible already."""
        while not self._left:
            await self._send_answers()
            if self.feed.ready:
                await self._send_slice(next(iter(self.feed.ready)))
            elif self._close is not None:
                return
            else:
                await self._signal.wait()
                if self._beat:
                    await self._write(wire.HEARTBEAT)

    async def _send_answers(self) -> None:
        while self._answers:
            await self._write(orjson.dumps(self._answers[0]))
            del self._answers[0]
            self._told.set()

    async def _send_slice(self, name: str) -> None:
        subscription = self.feed.take_turn(name)
        if subscription is None:
            return
        try:
            frames = await subscription.frames()
        except (ChatstreamError, OSError) as error:
            self._lost(subscription, error)
            return
        await self._send_answers()  # one of them may be about what these frames tell
        if frames and self.feed.subscriptions.get(name) is subscription:
            await self._write(*frames)
            subscription.wake()  # there may be more

    def _lost(self, subscription: Subscription, error: Exception) -> None:
        """Tell that a conversation cannot be read; the others go on."""
        logger.error("subscription lost", extra={"error": type(error).__name__})
        if self.feed.subscriptions.get(subscription.name) is subscription:
            self.feed.unsubscribe(subscription.name)
        self.answer(event(error) | {"conversation_id": subscription.name}, None)

    async def _write(self, *frames: bytes) -> None:
        if self._left:
            return
        self._beat = False
        self.sending = True
        self.spoke_at = self._loop.time()
        try:
            if len(frames) > 1 and self._joins:
                await self.socket.send({"type": "websocket.send", "frames": frames})
            else:
                for frame in frames:
                    await self.socket.send({"type": "websocket.send", "text": frame.decode()})
        except RuntimeError:  # the server has closed it, and is about to say so
            raise WebSocketDisconnect(1006) from None
        self.sending = False

    def answer(self, data: Json, ref: object) -> None:
        """Send an answer, before any event that becomes visible after this."""
        self._answers.append(data if ref is None else data | {"ref": ref})
        self._signal.set()

    def beat(self) -> None:
        """Send a heartbeat soon."""
        self._beat = True
        self._signal.set()

    def end(self) -> None:
        """Send what is visible, then close, for the client to come back and go on."""
        self._shut(RESTART, "restart")

    def drop(self) -> None:
        """Give up a client that takes nothing."""
        self._stop_sending()

    def _shut(self, code: int, reason: str) -> None:
        self._close = self._close or (code, reason)
        self._signal.set()

    # ---- receiving

    async def _receive(self) -> None:
        frames = Frames(self)
        most = self.services.settings.max_body_bytes
        while not self._left:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                self._left = True
                return
            text = message.get("text")
            if text is None:
                return self._shut(UNSUPPORTED, "text frames only")
            if len(text) > most or len(text.encode()) > most:
                return self._shut(TOO_BIG, f"at most {most} bytes")
            self._busy = True
            await frames.take(text)
            self._busy = False
            # Also where it is 0: between two frames everybody else has a turn.
            await asyncio.sleep(self._throttle.delay(self._loop.time()))
            # Who does not read his answers is asked to wait with the next question.
            while self._answers and not self._left:
                await self._told.wait()

    # ---- subscriptions

    def subscribe(self, conversation: Conversation, start: Start, ref: object = None) -> None:
        """
        Send a conversation from a place on; subscribing again replaces.

        Raises:
            InvalidRequest: The socket follows too many.
        """
        if self._left:
            return
        followed = self.feed.subscriptions
        if conversation.address.conversation_id not in followed:
            if len(followed) >= MAX_SUBSCRIPTIONS:
                most = f"a socket may follow {MAX_SUBSCRIPTIONS} at once"
                raise InvalidRequest(("conversation_id", most))
        self.feed.subscribe(conversation, start, ref)
