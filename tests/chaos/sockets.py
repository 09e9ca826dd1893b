"""Clients that follow several conversations over one WebSocket, on which others ask too."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.chaos.http import PATIENCE
from tests.chaos.ledger import Json
from tests.chaos.view import View
from tests.chaos.world import Client, Room, World


@dataclass(eq=False)
class Question:
    """
    A frame that wants an answer.

    Attributes:
        socket: Where it was last sent; on another socket it is sent again.
        again: It was sent before that one.
    """

    frame: Json
    answer: asyncio.Future[Json]
    socket: ClientConnection | None = None
    again: bool = False


class SocketReader(Client):
    """
    One socket of one user over many conversations.

    Attributes:
        views: What it shows, by conversation.
        gone: It has all that there will be, and takes nothing more.
    """

    def __init__(self, world: World, name: str, rooms: list[Room]) -> None:
        super().__init__(world, name)
        self.rooms = rooms
        self.views = {
            room.name: View(world.ledger, name, room.name, erasable=room.erasable) for room in rooms
        }
        self.gone = False
        self._asked: dict[str, Question] = {}
        self._numbers = count()
        self._socket: ClientConnection | None = None

    @property
    def done(self) -> bool:
        """Whether it has all that there will be, and has answered everybody."""
        return not self._asked and all(
            room.last is not None and room.last.turn_id in self.views[room.name].ended
            for room in self.rooms
        )

    async def ask(self, room: Room, kind: str, **fields: object) -> Json:
        """Send a frame about a conversation, over every cut; return the answer to it."""
        ref = f"{kind} {next(self._numbers)}"
        frame = {"type": kind, "ref": ref, "conversation_id": room.name, **fields}
        question = Question(frame, asyncio.get_running_loop().create_future())
        self._asked[ref] = question
        if self._socket is not None:
            await self._send(self._socket, question)
        return await question.answer

    async def run(self) -> None:
        """Read on over every cut."""
        while not self.done:
            sock = await self.dial()
            address = f"ws://127.0.0.1:{self.world.proxy.port}/ws?user_id={self.rooms[0].user}"
            socket: ClientConnection | None = None
            try:
                async with connect(
                    address,
                    sock=sock,
                    compression=None,
                    proxy=None,
                    ping_interval=None,
                    open_timeout=PATIENCE,
                    close_timeout=0.1,
                    max_size=1_000_000,
                ) as socket:
                    await self._follow(socket)
            except (WebSocketException, OSError, TimeoutError, EOFError):
                pass
            finally:
                self._socket = None
                if socket is not None:
                    # Where the run ends in the middle of its close, nobody else would.
                    socket.transport.abort()
                sock.close()
            await self.rest()
        self.gone = True

    async def _follow(self, socket: ClientConnection) -> None:
        for view in self.views.values():
            view.connecting()
            after = view.last_id or "0"
            where = {"conversation_id": view.conversation, "after": after}
            await self._write(socket, {"type": "subscribe", **where})
        while unsent := [q for q in self._asked.values() if q.socket is not socket]:
            for question in unsent:
                await self._send(socket, question)
        self._socket = socket
        while not self.done:
            async with asyncio.timeout(PATIENCE):
                data = await socket.recv()
            await self._take(socket, orjson.loads(data))
            if any(view.must_rewind for view in self.views.values()):
                return

    async def _take(self, socket: ClientConnection, frame: Json) -> None:
        kind = frame["type"]
        if kind == "error" and "retry_after" in frame:
            await socket.close()  # it is asked again elsewhere
        elif kind in ("ack", "history", "error"):
            self._answered(frame)
        elif kind != "heartbeat":
            if kind == "turn.started":
                self._look_for_ack(frame["turn_id"])
            self.views[frame["conversation_id"]].take(frame)

    def _answered(self, frame: Json) -> None:
        question = self._asked.pop(frame.pop("ref", ""), None)
        if question is None:
            self.violate(0, f"an answer to nothing: {frame}")
            return
        if frame["conversation_id"] != question.frame["conversation_id"]:
            self.violate(8, f"{question.frame} is answered by {frame}")
        question.answer.set_result(frame)

    def _look_for_ack(self, turn_id: str) -> None:
        for question in self._asked.values():
            if question.frame.get("message") and question.frame["turn_id"] == turn_id:
                if not question.again:
                    self.violate(6, f"{turn_id} is seen before its ack")

    async def _send(self, socket: ClientConnection, question: Question) -> None:
        question.again, question.socket = question.socket is not None, socket
        try:
            await self._write(socket, question.frame)
        except (WebSocketException, OSError):
            pass  # the socket is found dead by its reader, which sends it again

    @staticmethod
    async def _write(socket: ClientConnection, frame: Json) -> None:
        await socket.send(orjson.dumps(frame).decode())
