"""Clients that follow several conversations over one WebSocket, and start turns on it."""

from __future__ import annotations

import asyncio
from collections import deque

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.chaos.http import PATIENCE
from tests.chaos.ledger import Json, Turn
from tests.chaos.view import View
from tests.chaos.world import Client, Room, World


class SocketReader(Client):
    """
    One socket of one user over many conversations.

    Attributes:
        views: What it shows, by conversation.
    """

    def __init__(self, world: World, name: str, rooms: list[Room]) -> None:
        super().__init__(world, name)
        self.rooms = rooms
        self.views = {
            room.name: View(world.ledger, name, room.name, erasable=room.erasable) for room in rooms
        }
        self._wanted: deque[tuple[Room, Turn, asyncio.Future[None]]] = deque()
        self._sent: dict[str, tuple[Turn, asyncio.Future[None]]] = {}
        self._first_time: set[str] = set()
        self._socket: ClientConnection | None = None

    @property
    def done(self) -> bool:
        """Whether it has all that there will be."""
        return all(
            room.last is not None and room.last.turn_id in self.views[room.name].ended
            for room in self.rooms
        )

    async def start(self, room: Room, turn: Turn) -> None:
        """Start a turn; returns once it is acknowledged."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent[turn.turn_id] = turn, future
        self._first_time.add(turn.turn_id)
        if self._socket is not None:
            await self._send(self._socket, room, turn)
        await future

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

    async def _follow(self, socket: ClientConnection) -> None:
        for view in self.views.values():
            view.connecting()
            after = view.last_id or "0"
            await self._write(
                socket, type="subscribe", conversation_id=view.conversation, after=after
            )
        for turn, _ in list(self._sent.values()):
            self._first_time.discard(turn.turn_id)
            await self._send(socket, self._room(turn), turn)
        self._socket = socket
        while not self.done:
            async with asyncio.timeout(PATIENCE):
                data = await socket.recv()
            await self._take(socket, orjson.loads(data))
            if any(view.must_rewind for view in self.views.values()):
                return

    def _room(self, turn: Turn) -> Room:
        return next(room for room in self.rooms if room.name == turn.conversation)

    async def _take(self, socket: ClientConnection, frame: Json) -> None:
        kind = frame["type"]
        if kind == "ack":
            sent = self._sent.pop(frame["ref"], None)
            if sent is not None:
                sent[0].acked = True
                sent[1].set_result(None)
        elif kind == "error":
            if frame["code"] != "draining":
                self.violate(0, f"an error frame: {frame}")
            await socket.close()
        else:
            if kind == "turn.started" and frame["turn_id"] in self._sent:
                if frame["turn_id"] in self._first_time:
                    self.violate(6, f"{frame['turn_id']} is seen before its ack")
            if kind == "heartbeat":
                return
            self.views[frame["conversation_id"]].take(frame)

    async def _send(self, socket: ClientConnection, room: Room, turn: Turn) -> None:
        try:
            await self._write(
                socket,
                type="send",
                ref=turn.turn_id,
                turn_id=turn.turn_id,
                message=turn.message,
                conversation_id=room.name,
            )
        except (WebSocketException, OSError):
            pass  # the socket is found dead by its reader, which sends it again

    @staticmethod
    async def _write(socket: ClientConnection, **frame: str) -> None:
        await socket.send(orjson.dumps(frame).decode())
