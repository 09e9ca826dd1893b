"""
`/ws`: many conversations over one WebSocket (CONTRACT section 4).

Two tasks a socket: one takes frames in and answers them, one sends. Sending asks each
subscription in turn for a slice, so that one long backlog does not keep the others waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from chatstream import wire
from chatstream.errors import ChatstreamError
from chatstream.frames import Frames, problem, read_frame
from chatstream.log.conversation import Conversation
from chatstream.log.records import Json
from chatstream.services import services_of
from chatstream.subscriber import Signal, Start, Subscriber
from chatstream.validation import UserQuery, parse

PROTOCOL = "chatstream.v1"
SLICE = 16 * 1024
"""What one subscription sends before the next has its turn."""
MAX_ANSWERS = 64
"""So many answers may wait for a client that does not read; then nothing more is taken in."""

UNSUPPORTED, POLICY, TOO_BIG, RESTART = 1003, 1008, 1009, 1012


async def serve(socket: WebSocket) -> None:
    """Serve one socket until either side leaves."""
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(subprotocol=PROTOCOL if PROTOCOL in offered else None)
    try:
        asked = parse(UserQuery, dict(socket.query_params), strict=False)
    except ChatstreamError as error:
        await socket.send_text(problem(error, None).decode())
        await socket.close(POLICY, error.code)
        return
    await Session(socket, asked.user_id).run()


class Subscription:
    """One conversation on a socket. `held` while an answer must go out before its events."""

    def __init__(self, subscriber: Subscriber, opening: list[bytes], held: int) -> None:
        self.subscriber = subscriber
        self.opening = opening
        self.told = False
        self.held = held

    async def frames(self) -> list[bytes]:
        """Return what is to be sent next; empty where there is nothing."""
        if self.held:
            return []
        frames, self.opening = self.opening, []
        subscriber = self.subscriber
        frames += [event.json for event in await subscriber.take(SLICE)]
        if not self.told and subscriber.caught_up:
            self.told = True
            name = subscriber.conversation.address.conversation_id
            frames.append(wire.caught_up(name, subscriber.backlog_until))
        return frames


class Session:
    """
    One socket of one user.

    Attributes:
        subscriptions: By conversation id.
    """

    def __init__(self, socket: WebSocket, user_id: str) -> None:
        self.socket = socket
        self.user_id = user_id
        self.services = services_of(socket)
        self.subscriptions: dict[str, Subscription] = {}
        self.spoke_at = 0.0
        self.sending = False
        self._answers: deque[bytes] = deque()
        self._signal = Signal()
        self._room = Signal()
        self._close: tuple[int, str] | None = None
        self._beat = False
        self._left = False
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until either side leaves."""
        self._task = asyncio.current_task()
        receiving = asyncio.ensure_future(self._receive())
        self.services.pulse.add(self)
        self.services.metrics.stream_opened("websocket")
        try:
            await self._send_all()
        except (WebSocketDisconnect, asyncio.CancelledError):
            if not (self._left or self._close):
                raise
        finally:
            self.services.pulse.remove(self)
            self.services.metrics.stream_closed("websocket")
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            for name in list(self.subscriptions):
                self.unsubscribe(name)
        if self._close and self.socket.application_state is WebSocketState.CONNECTED:
            await self.socket.close(*self._close)

    # ---- sending

    async def _send_all(self) -> None:
        while not self._left and self._close is None:
            sent = False
            while self._answers:
                await self._write(self._answers.popleft())
                self._room.set()
                sent = True
            for subscription in list(self.subscriptions.values()):
                for frame in await subscription.frames():
                    await self._write(frame)
                    sent = True
                if self._answers:
                    break
            if not sent:
                await self._signal.wait()
                if self._beat:
                    self._beat = False
                    await self._write(wire.HEARTBEAT)

    async def _write(self, frame: bytes) -> None:
        self.sending = True
        self.spoke_at = asyncio.get_running_loop().time()
        await self.socket.send({"type": "websocket.send", "text": frame.decode()})
        self.sending = False

    def answer(self, data: Json, ref: object) -> None:
        """Send an answer, before any event that becomes visible after this."""
        if ref is not None:
            data["ref"] = ref
        self._answers.append(orjson.dumps(data))
        self._signal.set()

    def beat(self) -> None:
        """Send a heartbeat soon."""
        self._beat = True
        self._signal.set()

    def end(self) -> None:
        """Close, for the client to come back and go on."""
        self._shut(RESTART, "restart")

    def drop(self) -> None:
        """Give up a client that takes nothing."""
        self._left = True
        if self._task is not None:
            self._task.cancel()

    def _shut(self, code: int, reason: str) -> None:
        self._close = self._close or (code, reason)
        self._signal.set()

    # ---- receiving

    async def _receive(self) -> None:
        frames = Frames(self)
        most = self.services.settings.max_body_bytes
        try:
            while True:
                message = await self.socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                text = message.get("text")
                if text is None:
                    self._shut(UNSUPPORTED, "text frames only")
                elif len(text) > most or len(text.encode()) > most:
                    self._shut(TOO_BIG, f"at most {most} bytes")
                else:
                    await self._take(frames, text)
                while len(self._answers) > MAX_ANSWERS:
                    await self._room.wait()
        finally:
            self._left = self._close is None
            self._signal.set()

    async def _take(self, frames: Frames, text: str) -> None:
        ref = None
        try:
            data = read_frame(text)
            ref = data.pop("ref", None)
            await frames.take(data, ref)
        except ChatstreamError as error:
            self._answers.append(problem(error, ref))
            self._signal.set()

    # ---- subscriptions

    def subscribe(self, conversation: Conversation, start: Start, ref: object = None) -> None:
        """Send a conversation from a place on; subscribing again replaces."""
        name = conversation.address.conversation_id
        held = self.subscriptions[name].held if name in self.subscriptions else 0
        self.unsubscribe(name)
        opening = [wire.ready(name, start.after, ref)]
        if start.reset:
            opening.append(wire.reset(name))
        subscriber = Subscriber(conversation, start, self._signal.set)
        self.subscriptions[name] = Subscription(subscriber, opening, held)
        self._signal.set()

    def hold(self, conversation_id: str) -> Subscription | None:
        """Keep a conversation's events back until `release`."""
        subscription = self.subscriptions.get(conversation_id)
        if subscription is not None:
            subscription.held += 1
        return subscription

    def release(self, conversation_id: str) -> None:
        """Let them go."""
        if (subscription := self.subscriptions.get(conversation_id)) and subscription.held:
            subscription.held -= 1
            self._signal.set()

    def unsubscribe(self, conversation_id: str) -> bool:
        """Stop sending a conversation; say whether it was sent."""
        subscription = self.subscriptions.pop(conversation_id, None)
        if subscription is not None:
            subscription.subscriber.close()
        return subscription is not None
