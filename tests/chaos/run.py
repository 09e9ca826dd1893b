"""The run itself: who takes part, when the server dies, and what must hold at the end."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.chaos.audit import asked_once, audit, audit_answers, audit_views
from tests.chaos.clearers import Clearer
from tests.chaos.faults import FAULTS
from tests.chaos.http import Manner, ask, events
from tests.chaos.ledger import Ledger
from tests.chaos.opinions import Namer
from tests.chaos.pollers import Historian
from tests.chaos.proxy import Proxy
from tests.chaos.readers import ConversationReader
from tests.chaos.redoing import Redoer
from tests.chaos.report import Report, figures_of
from tests.chaos.server import ServerProcess, has_failed
from tests.chaos.sockets import SocketReader
from tests.chaos.view import View
from tests.chaos.world import Client, Room, World
from tests.chaos.writers import Writer
from tests.upstream import Upstream

USERS = ("ann", "Ann/é")
ROOMS = ("default", "feedback", "clear me", "CLEAR ME")
LEAVER, LEFT = "leaver", ("default", "notes")
"""A user who is erased now and then, with all their conversations."""
FSYNC = ("always", "terminal", "never")
HURRY = 3.0
"""How much more often things happen where a planted fault is to be found soon."""
PATIENT = 4
"""How many times as long a storm is where the least was not done."""
LAST_SECONDS = 120.0
"""What everybody has to come to the end once the network is whole again."""
HUGE, HUGE_TURNS = 240_000, 12
"""More than the buffers of a connection hold."""


async def run(
    seed: int,
    seconds: float,
    folder: Path,
    fault: str | None = None,
    fsync: str | None = None,
    least: Mapping[str, int] | None = None,
) -> Report:
    """
    Run for some seconds and to the end; with a planted fault, until it has been found.

    How the server syncs is the seed's choice too, unless it is given. Where a slow machine has not
    done the `least` by then, by the names of a report's figures, it goes on for longer.
    """
    if fsync is None:
        fsync = random.Random(f"{seed}/fsync").choice(FSYNC)
    began = time.monotonic()
    ledger = Ledger(FAULTS[fault].promise if fault else None)
    with Upstream() as upstream:
        server = ServerProcess(folder, ledger, seed, upstream.openai_url, fault, fsync)
        async with Proxy(server.port, ledger.figures) as proxy:
            play = Play(World(seed, ledger, proxy, HURRY if fault else 1.0), server)
            try:
                playing = asyncio.ensure_future(play.play(seconds, least or {}))
                failing = asyncio.ensure_future(ledger.failed.wait())
                waiting = [playing, failing] if fault else [playing]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in (playing, failing):
                    task.cancel()
                done = await asyncio.gather(playing, failing, return_exceptions=True)
                if isinstance(done[0], Exception):
                    ledger.violate(0, f"the run broke: {done[0]!r}")
                finished = done[0] is None
            finally:
                await play.leave()
        if finished:
            logs = audit(server.data, ledger, play.rooms)
            audit_views(logs, ledger, play.views)
            audit_answers(logs, ledger, play.historian)
            asked_once([vars(asked) for asked in upstream.asked], ledger)
        if stack := has_failed(server.log):
            ledger.violate(0, f"the server's log has a stack: {stack}")
    took = time.monotonic() - began
    return Report(seed, seconds, fsync, took, figures_of(ledger), ledger.violations)


class Play:
    """
    Everybody who takes part.

    Attributes:
        views: What the readers of whole conversations show, with their users.
    """

    def __init__(self, world: World, server: ServerProcess) -> None:
        self.world = world
        self.ledger = world.ledger
        self.server = server
        self.rng = world.rng("storm")
        self.rooms = [
            Room(user, name, "clear" in name.lower(), name.isupper())
            for user in USERS
            for name in ROOMS
        ]
        self.rooms += [Room(LEAVER, name, clearable=True, erasable=True) for name in LEFT]
        self.historian = Historian(world, self.rooms)
        self.readers = [
            ConversationReader(
                world, f"{kind} reader of {room.user}/{room.name}", room, drowsy=drowsy
            )
            for room in self.rooms
            for kind, drowsy in (("brisk", False), ("drowsy", True))
        ]
        self.sockets = [
            SocketReader(world, f"socket {number} of {user}", self._of(user))
            for user, sockets in ((USERS[0], 2), (USERS[1], 2), (LEAVER, 1))
            for number in range(sockets)
        ]
        for room in self.rooms:
            room.sockets = [socket for socket in self.sockets if room in socket.rooms]
        self.views: list[tuple[str, View]] = [(r.room.user, r.view) for r in self.readers]
        for client in self.sockets:
            self.views += [(client.rooms[0].user, view) for view in client.views.values()]

    def _of(self, user: str) -> list[Room]:
        return [room for room in self.rooms if room.user == user]

    async def play(self, seconds: float, least: Mapping[str, int]) -> None:
        """Do it all: the storm, then the calm in which everybody must come to the end."""
        spawn = self.world.spawn
        await self.server.start()
        for reader in self.readers:
            spawn(reader.run(), reader.name)
        for client in self.sockets:
            spawn(client.run(), client.name)
        for room in self.rooms:
            writer = Writer(self.world, room)
            roles: list[Writer | Redoer | Namer | Clearer] = [writer]
            roles += [Redoer(self.world, room), Namer(self.world, room)]
            if room.clearable and room.user != LEAVER:
                roles.append(Clearer(self.world, [room], self.server.data, leaving=False))
            for role in roles:
                spawn(role.run(), role.name)
        leaving = Clearer(self.world, self._of(LEAVER), self.server.data, leaving=True)
        spawn(leaving.run(), leaving.name)
        began = time.monotonic()
        await self._storm(began + seconds)
        while time.monotonic() < began + PATIENT * seconds and self._lacks(least):
            await self._storm(time.monotonic() + seconds / 4)
        self.world.resting.set()
        self.world.calm = True
        turns = self.ledger.turns.values()
        await self._expect(lambda: all(turn.over for turn in turns), "turns never ended")
        await self._stuck_reader()
        for room in self.rooms:
            await self._last_turn(room)
        await self._expect(lambda: not self.world.tasks, "clients never came to the end")
        await self.historian.run()

    def _lacks(self, least: Mapping[str, int]) -> bool:
        found = figures_of(self.ledger)
        return any(found.get(name, 0) < count for name, count in least.items())

    async def _storm(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self.rng.uniform(1.5, 5.0) / self.world.hurry))
            how = self.rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
            await self.server.stop(how)
            if how is signal.SIGKILL:
                self.ledger.figures["kill -9"] += 1
                self.server.lose_power(torn=self.rng.random() < 0.7)
            else:
                self.ledger.figures["SIGTERM"] += 1
            await self.server.start()
            self.ledger.figures["restarts"] += 1

    async def _stuck_reader(self) -> None:
        """A reader that takes nothing: turns go on and end; then it reads everything."""
        room = self.rooms[0]
        caller = Client(self.world, "stuck reader")
        view = View(self.ledger, caller.name, room.name)
        view.connecting()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        patience = 10 / self.world.hurry
        where = "127.0.0.1", self.server.port  # not by the proxy, whose buffers are large
        await asyncio.get_running_loop().sock_connect(sock, where)
        async with ask(
            sock, "GET", f"/events?{room.query(after='0')}", manner=Manner(2000)
        ) as answer:
            for _ in range(HUGE_TURNS):
                turn = self.world.new_turn(room, self.rng, str(HUGE))
                body = {**room.body, "turn_id": turn.turn_id, "message": turn.message}
                await caller.call("POST", "/turns", body)
                turn.acked = True
                if not await turn.bell.until(lambda turn=turn: turn.over, patience):  # type: ignore[misc]
                    self.ledger.violate(4, f"{turn.turn_id} waits for a reader that is stuck")
                    return
            async for event in events(answer):
                view.take(event)
                if turn.turn_id in view.ended:
                    return

    async def _last_turn(self, room: Room) -> None:
        turn = self.world.new_turn(room, self.rng)
        body = {**room.body, "turn_id": turn.turn_id, "message": turn.message}
        room.last = turn
        await Client(self.world, f"last of {room.user}/{room.name}").call("POST", "/turns", body)
        turn.acked = True

    async def _expect(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + LAST_SECONDS / self.world.hurry
        while not condition():
            if time.monotonic() > deadline:
                self.ledger.violate(1, f"{otherwise}: {self._late()}")
                return
            await asyncio.sleep(0.05)

    def _late(self) -> list[str]:
        turns = [turn.turn_id for turn in self.ledger.turns.values() if not turn.over]
        return [*turns, *(task.get_name() for task in self.world.tasks)][:10]

    async def leave(self) -> None:
        """End everybody, then the server."""
        tasks = list(self.world.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.server.stop(signal.SIGTERM)
