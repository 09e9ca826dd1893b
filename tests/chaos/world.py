"""What all clients of a run share: its network, its ledger, its conversations and their turns."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol
from urllib.parse import urlencode

from tests.chaos.http import CutError, Manner, ask
from tests.chaos.ledger import Json, Ledger, Turn
from tests.chaos.proxy import Plan, Proxy, plan
from tests.upstream import EMOJI, text_of

GOING_ON = "pace=60,tokens=12"
"""What the provider says where it is asked to go on: the script is the model's name then."""
GOES_ON = text_of(12)


class Asker(Protocol):
    """
    A socket that carries what is asked on it.

    Attributes:
        gone: It has all that there will be, and takes nothing more.
    """

    gone: bool

    async def ask(self, room: Room, kind: str, **fields: object) -> Json:
        """Send a frame about a conversation, over every cut; return the answer to it."""


@dataclass(eq=False)
class Room:
    """
    One conversation. `lock` keeps starts and clears apart until each is answered, so that it is
    known which turns a clear erases.

    Attributes:
        titles: All that it was given since it was last cleared; the last one stands.
        redoing: The turn that is being done again, while that is not answered.
        sockets: Those that follow it.
    """

    user: str
    name: str
    clearable: bool
    erasable: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    turns: list[Turn] = field(default_factory=list)
    last: Turn | None = None
    titles: list[str] = field(default_factory=list)
    redoing: Turn | None = None
    sockets: list[Asker] = field(default_factory=list)

    def query(self, **more: str) -> str:
        """Return what names it in a URL."""
        return urlencode({"user_id": self.user, "conversation_id": self.name, **more})

    @property
    def body(self) -> Json:
        """What names it in a body."""
        return {"user_id": self.user, "conversation_id": self.name}


class World:
    """
    One run's surroundings.

    Attributes:
        calm: No connection is broken any more.
        resting: Nothing new is begun.
        hurry: What is done now and then is done this much more often.
    """

    def __init__(self, seed: int, ledger: Ledger, proxy: Proxy, hurry: float = 1.0) -> None:
        self.seed = seed
        self.ledger = ledger
        self.proxy = proxy
        self.calm = False
        self.resting = asyncio.Event()
        self.hurry = hurry
        self.tasks: set[asyncio.Task[None]] = set()
        self._numbers = count()

    def rng(self, name: str) -> random.Random:
        """Return a client's own generator."""
        return random.Random(f"{self.seed}/{name}")

    def spawn(self, job: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a client; that it breaks is a violation too."""
        task = asyncio.create_task(job, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.ledger.violate(0, f"{task.get_name()} broke: {error!r}")

    def new_turn(self, room: Room, rng: random.Random, script: str | None = None) -> Turn:
        """Make a turn whose text is known."""
        number = next(self._numbers)
        marker = f"mk{self.seed}x{number}z"
        tokens, thoughts = rng.randrange(2, 50), rng.choice((0, 0, 0, 8))
        steps = [f"pace={rng.choice((15, 40, 100, 400))}"]
        if thoughts:
            steps.append(f"reason={thoughts}")
        steps += [f"say={marker}%20", f"tokens={tokens}"]
        text = f"{marker} {text_of(tokens)}"
        may_fail = False
        if script is not None:
            size = int(script)
            steps, thoughts = [f"say={marker}%20", f"huge={size}"], 0
            text = f"{marker} {'x' * size}"
        elif rng.random() < 0.1:
            steps.append("emoji")
            text += EMOJI
        elif rng.random() < 0.1:
            steps.append(rng.choice(("cut", "error=500", "eof")))
            may_fail = True
        turn = Turn(
            room.user,
            room.name,
            self._turn_id(number),
            marker,
            "!" + " ".join(steps),
            text,
            text_of(thoughts),
            may_fail,
        )
        return self._take(room, turn)

    def new_turn_like(self, room: Room, rng: random.Random, base: Turn, kind: str) -> Turn:
        """Make a turn that does an ended one again: `regenerate`, `continue` or `edit`."""
        if kind == "edit":
            turn = self.new_turn(room, rng)
        else:
            asked = base.asked_as or base
            turn = Turn(
                room.user,
                room.name,
                self._turn_id(),
                asked.marker,
                asked.message,
                asked.text,
                asked.reasoning,
                asked.may_fail,
                asked_as=asked,
            )
            if kind == "continue":
                assert base.terminal is not None
                turn.beginning = base.terminal["text"]
                turn.text = turn.beginning + GOES_ON
                turn.reasoning, turn.may_fail = "", False
            self._take(room, turn)
        turn.base, turn.kind = base, kind
        return turn

    def _turn_id(self, number: int | None = None) -> str:
        return f"turn-{self.seed}-{next(self._numbers) if number is None else number:06d}"

    def _take(self, room: Room, turn: Turn) -> Turn:
        turn.floor = self.ledger.last
        self.ledger.turns[turn.turn_id] = turn
        self.ledger.figures["turns"] += 1
        room.turns.append(turn)
        if room.redoing is not None:
            turn.may_hide = turn.cancel_asked = True
        return turn


class Client:
    """Somebody who talks to the server through the broken network, and does not give up."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.ledger = world.ledger
        self.name = name
        self.rng = world.rng(name)

    async def dial(self, receive_buffer: int | None = None) -> socket.socket:
        """Connect, once the network lets it."""
        while True:
            fate = Plan() if self.world.calm else plan(self.rng)
            try:
                return await self.world.proxy.dial(fate, receive_buffer)
            except OSError:
                await self.rest()

    async def rest(self) -> None:
        """Wait as a client does before it comes back, though shorter."""
        await asyncio.sleep(self.rng.uniform(0.02, 0.2))

    async def some_time(self, shortest: float, longest: float) -> bool:
        """Wait some seconds; False where the run rests."""
        resting = self.world.resting
        seconds = self.rng.uniform(shortest, longest) / self.world.hurry
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await resting.wait()
        return not resting.is_set()

    def manner(self) -> Manner:
        """Draw how to read: some read slowly."""
        if self.world.calm or self.rng.random() < 0.8:
            return Manner()
        return Manner(self.rng.randrange(1, 200), self.rng.choice((0.0, 0.005)))

    async def call(
        self, method: str, target: str, json: Json | None = None
    ) -> tuple[int, Json, dict[str, str]]:
        """Ask until there is a whole answer other than that the server goes away (503)."""
        while True:
            try:
                async with ask(await self.dial(), method, target, json=json) as answer:
                    body = await answer.json()
                    if answer.status != 503:
                        if answer.status == 500:
                            self.violate(0, f"{method} {target}: {body}")
                        return answer.status, body, answer.headers
            except CutError:
                pass
            await self.rest()

    def socket_of(self, room: Room) -> Asker | None:
        """Draw a socket to ask on; None where it is to be by HTTP."""
        there = [socket for socket in room.sockets if not socket.gone]
        return self.rng.choice(there) if there and self.rng.random() < 0.5 else None

    async def is_acked(self, socket: Asker, room: Room, kind: str, **fields: object) -> bool:
        """Ask for something on a socket; False where there is no such turn."""
        answer = await socket.ask(room, kind, **fields)
        self.ledger.figures[f"over a socket: {kind}"] += 1
        if answer["type"] != "ack" and answer.get("code") != "not_found":
            self.violate(0, f"asked on a socket, and told {answer}")
        return bool(answer["type"] == "ack")

    def violate(self, promise: int, detail: str) -> None:
        """Note that a promise was broken to this client."""
        self.ledger.violate(promise, f"{self.name}: {detail}")
