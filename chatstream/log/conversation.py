"""
One conversation's log: its file, its tail in memory, and the turns that run in it.

Appending writes at once and is seen once it is durable: synced and unsynced records share one
order, and an event is visible only when every lower id is visible or has failed. For the loop's
thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import orjson

from chatstream.errors import StorageFailed, TurnEnded
from chatstream.events import (
    BEGINNING,
    Address,
    EventId,
    TerminalType,
    TurnId,
    before,
    event_id,
    place,
)
from chatstream.log import records
from chatstream.log.disk import Disk, cut_back
from chatstream.log.file_state import FileState, Orphan, create, interrupted, reopen
from chatstream.log.live_turn import LiveTurn
from chatstream.log.records import Encoded, Json
from chatstream.log.tail import PIECE, Tail

logger = logging.getLogger(__name__)

T = TypeVar("T")
RECENT_TURNS = 1000
"""For so many turns back a repeated `turn_id` is known (CONTRACT, promise 6)."""
FOREVER = 10**18
TAIL_BYTES = 32 * 1024
"""What a conversation with readers keeps in memory for those that are a little behind."""


@dataclass(slots=True)
class Pending:
    """An event that is written but not yet durable. `start` is -1 for one in a live file."""

    place: int
    start: int
    fd: int
    encoded: Encoded | None
    done: Callable[[Encoded | None], None]


class Conversation:
    """
    The log of one conversation, safe to use from any task of the loop.

    Attributes:
        created: The id of the log's beginning; None while there is no file.
        running: The turns whose terminal event is not durable yet, by the place of their start.
        epoch: Counts clears and erasures: what was read before one is void after it.
    """

    def __init__(self, disk: Disk, address: Address, state: FileState) -> None:
        self.disk = disk
        self.address = address
        self.path: Path = disk.folder.conversation(address)
        self.running: dict[int, LiveTurn] = {}
        self.epoch = 0
        self.gate: asyncio.Future[None] | None = None
        self._pending: deque[Pending] = deque()
        self._syncing = False
        self._watchers: dict[Callable[[], None], None] = {}
        self._creating = asyncio.Lock()
        self._drained: asyncio.Future[None] | None = None
        self.tail = Tail(address.conversation_id, state.last)
        self.adopt(state)

    def adopt(self, state: FileState) -> None:
        """Take over the file as it was found, or as it was made anew."""
        self.created = state.created
        self.fd = -1
        self.size = state.size
        self.turns = state.turns
        self.titled = state.titled
        self.recent: dict[str, EventId] | None = None if state.turns else {}
        self._last = state.last

    # ---- seeing

    @property
    def visible(self) -> int:
        """The place up to which everything may be shown."""
        return self._pending[0].place - 1 if self._pending else FOREVER

    @property
    def last_id(self) -> EventId:
        """A cursor at the log's end: everything visible is at or below it."""
        if self._pending:
            return event_id(self._pending[0].place - 1)
        return event_id(self._last) if self._last else BEGINNING

    @property
    def shown_size(self) -> int:
        """Bytes of the file that may be shown."""
        return next((p.start for p in self._pending if p.start >= 0), self.size)

    @property
    def quiet(self) -> bool:
        """Whether nothing runs, waits or reads here: then it may be forgotten."""
        return not (self.running or self._pending or self._watchers or self.gate)

    @property
    def readers(self) -> int:
        """How many watch it."""
        return len(self._watchers)

    def resume_from(self) -> EventId:
        """Return the cursor from which a reader of the history misses nothing."""
        if self.running:
            return before(event_id(min(self.running)))
        return self.last_id

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever there may be something new to read. It must not block."""
        self._watchers[wake] = None

    def unwatch(self, wake: Callable[[], None]) -> None:
        """Stop that; also where it never began."""
        self._watchers.pop(wake, None)
        if not self._watchers:
            self.tail.trim(FOREVER, 0)

    def read(
        self, after: int, limit: int = PIECE, turn_id: TurnId | None = None
    ) -> list[Encoded] | None:
        """
        Return the visible events above a place, oldest first; None where memory begins later.

        Then `read_file` has what is missing. Empty: there is nothing new.
        """
        if after < self.tail.after:
            return None
        return self.tail.read(after, self.visible, limit, turn_id)

    async def read_file(self, after: int, limit: int = PIECE) -> tuple[list[Encoded], int]:
        """Return events above a place that lie in the file only, and the place to go on after."""
        upto = self.tail.after

        def job(fd: int, size: int) -> list[Encoded]:
            low, high = event_id(after), event_id(upto)
            return records.slice_after(fd, size, low, high, None, limit)[0]

        found = await self.with_file(job)
        return found, place(found[-1].id) if found else upto

    async def with_file(self, job: Callable[[int, int], T]) -> T:
        """
        Run `job(fd, size)` on a thread over what may be shown of the file.

        Its result is never older than a clear that has been answered. Where there is no file, the
        size is 0.
        """
        while True:
            await self.settled()
            epoch, size = self.epoch, self.shown_size if self.created else 0
            result = await self.disk.run(partial(_with_path, self.path, size, job))
            if epoch == self.epoch and self.gate is None:
                return result

    async def settled(self) -> None:
        """Wait until no clear or erase is under way."""
        while self.gate is not None:
            await asyncio.shield(self.gate)

    # ---- finding turns

    def live(self, turn_id: str) -> LiveTurn | None:
        """Return a running turn."""
        for turn in self.running.values():
            if turn.turn_id == turn_id:
                return turn
        return None

    async def find(self, turn_id: str) -> list[Json]:
        """Return a turn's permanent records, its start first; empty where there is none."""

        def job(fd: int, size: int) -> list[Json]:
            return [record.data for record in reversed(records.find_turn(fd, size, turn_id))]

        return await self.with_file(job)

    async def load_recent(self) -> dict[str, EventId]:
        """Return the starts of the newest turns by their ids; read from the file at first use."""
        if self.recent is None:
            epoch = self.epoch
            found = await self.with_file(partial(records.turn_ids, most=RECENT_TURNS))
            if self.recent is None and epoch == self.epoch:
                self.recent = dict(reversed(found))
        return self.recent if self.recent is not None else await self.load_recent()

    # ---- writing

    async def start(
        self,
        turn_id: TurnId,
        body: str,
        fields: Json,
        *,
        replaced: EventId | None = None,
        admit: Callable[[], None],
    ) -> LiveTurn | EventId:
        """
        Begin a turn: returns it once `turn.started` is durable.

        A turn of this id that was started before is returned instead: running, or where it
        started. Nothing is awaited between that look and the append, nor after `admit`, which
        may refuse by raising.

        Raises:
            StorageFull, StorageFailed: Nothing was started.
        """
        while True:
            await self.settled()
            recent = await self.load_recent()
            if self.gate is None and recent is self.recent:
                if turn := self.live(turn_id):
                    if await asyncio.shield(turn.started):
                        return turn
                    continue
                if turn_id in recent:
                    return recent[turn_id]
                if self.created is not None:
                    break
                admit()
                await self._create()
        admit()
        turn = self._begin(turn_id, body, fields, replaced)
        if not await asyncio.shield(turn.started):
            raise StorageFailed("The message could not be written to disk; nothing was started.")
        return turn

    def _begin(
        self, turn_id: TurnId, body: str, fields: Json, replaced: EventId | None
    ) -> LiveTurn:
        identifier = self.disk.clock.next()
        turn = LiveTurn(self, turn_id, identifier, body)
        own: Json = {"body": body}
        if replaced is not None:
            own["replaced_id"] = replaced
        self.running[turn.started_place] = turn
        try:
            self._append(
                identifier,
                "turn.started",
                {"turn_id": turn_id, **fields},
                own,
                turns=self.turns + 1,
                done=partial(self._began, turn),
            )
        except BaseException:
            del self.running[turn.started_place]
            turn.close(None)
            raise
        assert self.recent is not None
        self.recent[turn_id] = identifier
        if len(self.recent) > RECENT_TURNS:
            del self.recent[next(iter(self.recent))]
        return turn

    def _began(self, turn: LiveTurn, encoded: Encoded | None) -> None:
        if encoded is not None:
            turn.started.set_result(True)
        else:
            del self.running[turn.started_place]
            self.turns -= 1
            if self.recent is not None:
                self.recent.pop(turn.turn_id, None)
            turn.close(None)

    async def end_turn(self, turn: LiveTurn, kind: TerminalType, fields: Json) -> Encoded:
        """Append a terminal event; see `LiveTurn.end`, which is what callers use."""
        await self.settled()
        if turn.ended:
            raise TurnEnded("The turn has ended.")
        event: Json = {"turn_id": turn.turn_id, "started_id": turn.started_id}
        event["text"] = orjson.Fragment(b'"' + turn.text() + b'"')
        if reasoning := turn.text("reasoning"):
            event["reasoning"] = orjson.Fragment(b'"' + reasoning + b'"')
        turn.ended = True
        written: asyncio.Future[Encoded | None] = asyncio.get_running_loop().create_future()
        try:
            self._append(
                self.disk.clock.next(),
                kind,
                event | fields,
                {},
                turns=self.turns,
                done=partial(self._ended, turn, written),
                may_use_reserve=True,
            )
        except BaseException:
            turn.ended = False
            raise
        encoded = await asyncio.shield(written)
        if encoded is None:
            raise StorageFailed("The reply could not be written to disk.")
        return encoded

    def _ended(
        self,
        turn: LiveTurn,
        written: asyncio.Future[Encoded | None],
        encoded: Encoded | None,
    ) -> None:
        if encoded is None:
            turn.ended = False
        else:
            self.running.pop(turn.started_place, None)
            self.tail.drop(turn.turn_id)
            turn.close(encoded)
            self.disk.syncer.submit(partial(turn.live_path.unlink, missing_ok=True), _report)
        written.set_result(encoded)

    async def end_orphans(self, orphans: list[Orphan]) -> None:
        """
        End turns that no process runs any more, as `turn.interrupted`. Before anybody reads.

        Raises:
            StorageFull, StorageFailed: The next start, or opening, tries again.
        """
        for orphan in orphans:
            turn = LiveTurn.left(self, orphan)
            self.running[turn.started_place] = turn
        for orphan in orphans:
            turn = self.running[place(orphan.started["id"])]
            await turn.end("turn.interrupted", interrupted(orphan))
            logger.warning("turn interrupted", extra={"turn_id": turn.turn_id})

    async def rename(self, title: str) -> Encoded:
        """
        Append `conversation.renamed`; returns once it is durable.

        Raises:
            StorageFull, StorageFailed: The title is as it was.
        """
        await self.settled()
        renamed: asyncio.Future[Encoded | None] = asyncio.get_running_loop().create_future()
        identifier = self.disk.clock.next()
        self._append(
            identifier,
            "conversation.renamed",
            {"title": title},
            {"titled": identifier},
            turns=self.turns,
            done=renamed.set_result,
        )
        encoded = await asyncio.shield(renamed)
        if encoded is None:
            raise StorageFailed("The title could not be written to disk.")
        self.titled = identifier
        return encoded

    def _append(
        self,
        identifier: EventId,
        kind: str,
        fields: Json,
        own: Json,
        *,
        turns: int,
        done: Callable[[Encoded | None], None],
        may_use_reserve: bool = False,
    ) -> None:
        """Write a permanent record at once; `done` tells when it is durable, or that it failed."""
        fd = self._open()
        event = {
            "type": kind,
            "id": identifier,
            "conversation_id": self.address.conversation_id,
            **fields,
        }
        running = [turn.started_id for turn in self.running.values() if not turn.ended]
        bookkeeping: Json = {"turns": turns, "running": running}
        if self.titled:
            bookkeeping["titled"] = self.titled
        json, line = records.line(event, bookkeeping | own)
        self.disk.write(fd, line, self.size, may_use_reserve=may_use_reserve)
        encoded = Encoded(identifier, fields.get("turn_id"), kind, json)
        self.tail.add(encoded)
        self._last = place(identifier)
        start, self.size, self.turns = self.size, self.size + len(line), turns
        if self.disk.fsync == "never":
            done(encoded)
            self._show()
        else:
            self._pending.append(Pending(self._last, start, fd, encoded, done))
            self._sync()

    def wrote_live(self, turn: LiveTurn, identifier: EventId, fd: int) -> None:
        """Take note of an event in a live file; it is shown once all before it is."""
        self._last = place(identifier)
        if self.disk.fsync == "always":
            self._pending.append(Pending(self._last, -1, fd, None, partial(self._muted, turn)))
            self._sync()
        elif not self._pending:
            self._notify()

    def _muted(self, turn: LiveTurn, encoded: Encoded | None) -> None:
        turn.mute()
        self.tail.drop(turn.turn_id)

    def _sync(self) -> None:
        """Sync what waits, all of it at once; what comes meanwhile waits for the next."""
        if self._syncing or not self._pending:
            return
        self._syncing = True
        count = len(self._pending)
        fds = {pending.fd for pending in self._pending}
        self.disk.syncer.submit(partial(_sync_all, fds), partial(self._synced, count))

    def _synced(self, count: int, error: OSError | None) -> None:
        self._syncing = False
        if error is not None:
            self._fail(error)
        else:
            for _ in range(count):
                pending = self._pending.popleft()
                if pending.encoded is not None:
                    pending.done(pending.encoded)
            self._sync()
        self._show()

    def _fail(self, error: OSError) -> None:
        """Take back what is not durable: it was never seen. The file is reopened for the next."""
        logger.error("sync failed", extra={"errno": error.errno, "events": len(self._pending)})
        failed, self._pending = self._pending, deque()
        start = next((pending.start for pending in failed if pending.start >= 0), self.size)
        cut_back(self.fd, start)
        self.size = start
        self.close_file()
        for pending in failed:
            if pending.encoded is not None:
                self.tail.remove(pending.encoded.id)
            pending.done(None)

    def _show(self) -> None:
        keep_from = self._pending[0].place if self._pending else FOREVER
        self.tail.trim(keep_from, TAIL_BYTES if self._watchers else 0)
        if self._drained is not None and not self._pending:
            self._drained.set_result(None)
            self._drained = None
        self._notify()

    def _notify(self) -> None:
        for wake in self._watchers:
            wake()

    # ---- the file

    async def _create(self) -> None:
        async with self._creating:
            if self.created is None and self.gate is None:
                identifier = self.disk.clock.next()
                durable = self.disk.fsync != "never"
                job = partial(create, self.path, self.address, identifier, durable=durable)
                self.size = await self.disk.run(job)
                self.created = identifier

    def _open(self) -> int:
        if self.fd < 0:
            try:
                self.fd = reopen(self.path, self.size)
            except OSError as error:
                raise StorageFailed("The conversation's file cannot be opened.") from error
        self.disk.opened(self)
        return self.fd

    def close_file(self) -> bool:
        """Let go of the file, where nothing waits for it; it is opened again when needed."""
        if self._pending or self._syncing:
            return False
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        return True

    # ---- clearing (see `erase`)

    async def shut(self) -> list[LiveTurn]:
        """
        Make other writes wait, end what runs, and wait for what is on its way to the disk.

        Returns the turns that it ended: they have no terminal event yet. `reopen` must follow.
        """
        await self.settled()
        self.gate = asyncio.get_running_loop().create_future()
        async with self._creating:
            pass
        turns = [turn for turn in self.running.values() if not turn.ended]
        for turn in turns:
            turn.ended = True
            if turn.on_clear:
                turn.on_clear()
        if self._pending:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        return turns

    def reopen(self, state: FileState | None, turns: list[LiveTurn], events: list[Encoded]) -> None:
        """
        Go on after `shut`: with the new file and the events that tell of it, or as it was.

        `events` are the turns' ends, in order, and what follows them.
        """
        if state is not None:
            self.epoch += 1
            self.close_file()
            self.tail.clear(place(events[0].id) - 1)
            self.adopt(state)
            for event in events:
                self.tail.add(event)
            self._last = place(events[-1].id)
        for turn, event in zip(turns, events, strict=False):
            if state is None:
                self.tail.add(event)  # what ended its readers must be told, even so
            self.running.pop(turn.started_place, None)
            turn.close(event)
        gate, self.gate = self.gate, None
        assert gate is not None
        gate.set_result(None)
        self._show()


def _with_path(path: Path, size: int, job: Callable[[int, int], T]) -> T:
    if size == 0:
        return job(-1, 0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return job(fd, size)
    finally:
        os.close(fd)


def _sync_all(fds: set[int]) -> None:
    for fd in fds:
        os.fdatasync(fd)


def _report(error: OSError | None) -> None:
    if error is not None:
        logger.warning("live file not removed", extra={"errno": error.errno})
