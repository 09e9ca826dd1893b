"""
A small world for readers that come at any moment: a real log on real files, and who writes it.
The clients are in `attach_client`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from chatstream.errors import StorageFailed, TurnEnded
from chatstream.events import EventId, Json, TurnId
from chatstream.log.files.clock import IdClock
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.disk import Disk, Fsync
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.paths import Folder
from chatstream.log.files.store import JsonlLog
from chatstream.log.files.syncer import Done, Job, Syncer, _run, _tell
from chatstream.metrics import Metrics
from chatstream.providers.adapters.scripted import Scripted
from chatstream.providers.registry import Providers
from chatstream.settings import Settings
from chatstream.turns.runner import TurnRunner
from chatstream.web.heartbeats import Pulse
from chatstream.web.rate_limits import Limits
from chatstream.web.state import Services
from tests.interleaving import InterleavedLoop, job_name
from tests.log_steps import ADDRESS, FIELDS, everything

if TYPE_CHECKING:
    from tests.attach_client import Client

NOW_MS = 1_764_000_000_000
SETTINGS = Settings()
METRICS = Metrics()
LIMITS = Limits(SETTINGS)
PROVIDERS = Providers({"scripted": Scripted("-")}, "scripted")
READS = frozenset(("_with_path", "load"))
SEEN_BY_NOBODY = frozenset(("write_intent", "finish_intent", "remove_beside", "unlink"))
"""What only recovery would see. These end at once: that they take long is no other story than that
the job before or after them does."""


def apart(one: str, other: str) -> bool:
    """Say of two jobs of the log that it makes no difference which runs first."""
    return bool(SEEN_BY_NOBODY & {one, other}) or {one, other} <= READS


class ArrivingSyncer(Syncer):
    """Each job's end comes when the scheduler says so; the first `failing` ones fail."""

    def __init__(self, loop: InterleavedLoop) -> None:
        super().__init__()
        self._arrives = loop.arrive
        self.failing = 0

    def submit(self, job: Job, done: Done) -> None:
        def come() -> None:
            error = _run(job)
            if self.failing and job_name(job) == "_sync_all":
                self.failing -= 1
                error = OSError(5, "broken")
            _tell(done, error)

        self._arrives(job_name(job), come)


class World:
    """
    One conversation, its turns, and what became of them.

    Attributes:
        turns: All that were started, by their ids, and the epoch of the log that each belongs to.
        words: What was written to each, in order.
        erased: The epoch of the log from which on nothing older may be shown.
    """

    def __init__(self, loop: InterleavedLoop, root: Path, fsync: Fsync = "terminal") -> None:
        self.loop = loop
        folder = Folder(root)
        for path in (folder.root, folder.users, folder.intents):
            path.mkdir(parents=True, exist_ok=True)
        for old in (folder.clock, *folder.intents.iterdir(), *folder.users.glob("*/*")):
            old.unlink(missing_ok=True)
        loop.prompt = SEEN_BY_NOBODY
        self.turns: dict[str, tuple[LiveTurn, int]] = {}
        self.words: dict[str, str] = {}
        self.erased = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.clients: list[Client] = []
        self.do(self._open(folder, fsync))

    async def _open(self, folder: Folder, fsync: Fsync) -> None:
        disk = self.disk = Disk(folder, fsync)
        self.syncer = disk.syncer = ArrivingSyncer(self.loop)
        beginning = EventId("0000000000000-0000")
        executor = self.syncer.executor
        disk.clock = IdClock(folder.clock, executor, floor=beginning, now_ms=lambda: NOW_MS)
        self.log = log = JsonlLog(disk)
        runner = TurnRunner(log, PROVIDERS, SETTINGS, METRICS)
        pulse = Pulse(SETTINGS.heartbeat)
        self.services = Services(SETTINGS, log, runner, PROVIDERS, METRICS, pulse, LIMITS)

    @property
    def conversation(self) -> Conversation | None:
        """The conversation, once somebody has opened it."""
        return self.log._known.get(ADDRESS)

    @property
    def epoch(self) -> int:
        """Which log of the conversation this is."""
        return self.conversation.epoch if self.conversation else 0

    # ---- playing

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in one order, to its end."""
        task = self.loop.create_task(work)
        self.loop.run_until_idle()
        task.result()

    def play(self, **actors: Coroutine[Any, Any, None]) -> None:
        """Let actors act in the order that is chosen, until nothing can happen any more."""
        for name, actor in actors.items():
            self.tasks.append(self.loop.create_task(actor, name=name))
        self.loop.watch = self._look
        self.loop.free()
        self.loop.run_until_idle()
        self.loop.settle()
        self.loop.watch = lambda: None
        for task in self.tasks:
            if task.done():
                task.result()

    def reads(self, client: Client) -> Client:
        """Let a client read what there is of the conversation now, and leave."""
        task = self.loop.create_task(client.follows(moments=False))
        self.loop.run_until_idle()
        task.cancel()
        self.loop.run_until_idle()
        self.clients.remove(client)
        return client

    def end(self) -> None:
        """Compare every client with a reader that was never cut off."""
        whole: list[Json] = []

        async def read() -> None:
            conversation = await self.log.conversation(ADDRESS)
            whole.extend(orjson.loads(event.json) for event in await everything(conversation))

        self.do(read())
        for client in self.clients:
            client.compare(whole)

    def close(self) -> None:
        """Stop whoever still waits, and let go of the files."""
        self.loop.settle()
        self.loop.watch = lambda: None
        self.loop.errors.clear()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_idle()
        self.disk.close()

    def _look(self) -> None:
        """Check what holds at every moment: what was shown survives a death of the process."""
        self.note()
        conversation = self.conversation
        if conversation is None or conversation.gate is not None:
            return
        for turn in conversation.running.values():
            shown = turn.text("text", conversation.visible)
            assert not shown or turn.live_file.path.exists(), "a delta was shown that is in no file"

    def note(self) -> None:
        """Take note of the turns that run now."""
        if (conversation := self.conversation) is not None:
            for turn in conversation.running.values():
                self.turns.setdefault(turn.turn_id, (turn, conversation.epoch))

    # ---- writing

    async def writes(
        self,
        turn_id: str,
        *words: str,
        moments: bool = True,
        turn: LiveTurn | None = None,
        end: bool = True,
    ) -> None:
        """Run a turn: every piece, and the end, comes at any moment."""
        wait = self.loop.moment if moments else _at_once
        if turn is None:
            await wait(f"{turn_id} start")
            try:
                turn = await self.starts(turn_id)
            except StorageFailed:
                return
            turn.mark({"provider": "p", "model": "m", "attempt": 1})
        for word in words:
            await wait(f"{turn_id} {word}")
            try:
                turn.write(word)
            except TurnEnded:
                return
            self.words[turn_id] += word
        if end:
            await wait(f"{turn_id} end")
            while True:
                try:
                    await turn.end("turn.completed", {"usage": None})
                except TurnEnded:
                    pass
                except StorageFailed:
                    continue
                return

    async def goes_on(self, turn_id: str, *words: str) -> None:
        """Go on with a turn that runs."""
        await self.writes(turn_id, *words, turn=self.turns[turn_id][0])

    async def starts(self, turn_id: str) -> LiveTurn:
        """Start a turn."""
        conversation = await self.log.conversation(ADDRESS)
        fields = {"message": {"role": "user", "content": turn_id}, **FIELDS}
        self.words[turn_id] = ""
        turn = await conversation.start(TurnId(turn_id), "body", lambda: fields)
        assert isinstance(turn, LiveTurn)
        self.turns.setdefault(turn_id, (turn, conversation.epoch))
        return turn

    async def erases(
        self,
        how: Callable[[Conversation], Coroutine[Any, Any, object]],
        then: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Clear or erase at any moment, and go on with something once that is answered."""
        conversation = await self.log.conversation(ADDRESS)
        await self.loop.moment("erase")
        await how(conversation)
        self.erased = conversation.epoch
        if then is not None:
            await then()


async def _at_once(name: str) -> None:
    return
