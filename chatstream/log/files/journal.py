"""
What is written to a conversation, and what readers may see of it: its file, tail and readers.

An append writes at once. Its event is seen once it is durable, in the order of the ids (see
`visibility`).
For the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from chatstream.events import BEGINNING, Address, EventId, Json, TurnId, event_id, place
from chatstream.log.files import lookup, records
from chatstream.log.files.disk import Disk
from chatstream.log.files.log_file import LogFile
from chatstream.log.files.records import Encoded
from chatstream.log.files.summary import FileState
from chatstream.log.files.tail import PIECE, Tail
from chatstream.log.files.trouble import FULL
from chatstream.log.files.visibility import FOREVER, End, Order, Pending

T = TypeVar("T")
TAIL_BYTES = 32 * 1024
"""What a conversation with readers keeps in memory for those that are a little behind."""

Written = Encoded | OSError
"""What became of a record: the event once it is durable, or the error of the disk."""


class Journal:
    """
    A conversation's events in order.

    Attributes:
        epoch: Counts clears and erasures: what was read before one is void after it.
        gate: While a clear or an erase is under way: done when it is over.
    """

    def __init__(self, disk: Disk, address: Address, state: FileState) -> None:
        self.disk = disk
        self.address = address
        self.epoch = 0
        self.gate: asyncio.Future[None] | None = None
        self.tail = Tail(address.conversation_id, state.last)
        self.order = Order(disk.syncer)
        self.file = LogFile(disk, address, self.order)
        self._watchers: dict[Callable[[], None], None] = {}
        self._farewell: list[Encoded] = []
        self.adopt(state)

    def adopt(self, state: FileState) -> None:
        """Take over the file as it was found, or as it was made anew."""
        if (fd := self.file.let_go()) >= 0:
            self.order.close(fd)
        end = End(state.size, state.turns, state.titled)
        self.file.replaced(state.created, end, state.inode)
        self._last = state.last

    @property
    def path(self) -> Path:
        """Where its file is, or would be."""
        return self.file.path

    @property
    def created(self) -> EventId | None:
        """The id of the log's beginning; None while there is no file."""
        return self.file.created

    @property
    def turns(self) -> int:
        """How many turns it counts."""
        return self.file.end.turns

    @property
    def visible(self) -> int:
        """The place up to which everything may be shown."""
        pending = self.order.next_place
        return pending - 1 if pending < FOREVER else FOREVER

    @property
    def last_id(self) -> EventId:
        """A cursor at the log's end: everything visible is at or below it."""
        last = min(self.visible, self._last)
        return event_id(last) if last else BEGINNING

    @property
    def shown_size(self) -> int:
        """Bytes of the file that may be shown."""
        return self.order.shown_size(self.file.end.size) if self.created else 0

    @property
    def readers(self) -> int:
        """How many watch it."""
        return len(self._watchers)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever there may be something new to read. It must not block."""
        self._watchers[wake] = None

    def unwatch(self, wake: Callable[[], None]) -> None:
        """Stop calling `wake`; it need not have been watching."""
        self._watchers.pop(wake, None)
        if not self._watchers:
            self._farewell.clear()
            self.tail.trim(self.order.next_place, 0)

    def notify(self) -> None:
        """Wake the readers."""
        for wake in list(self._watchers):
            wake()

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
        """Return events above a place that memory has no more, and the place to go on after."""
        upto = self.tail.after

        def job(fd: int, size: int) -> list[Encoded]:
            low, high = event_id(after), event_id(upto)
            return lookup.slice_after(fd, size, low, high, None, limit)[0]

        found = await self.with_file(job)
        # An erased file does not hold the events that tell its readers of the erasure.
        if told := [e for e in self._farewell if after < place(e.id) <= upto]:
            found = told + [e for e in found if e.id > told[-1].id]
        return found, place(found[-1].id) if found else upto

    async def with_file(self, job: Callable[[int, int], T]) -> T:
        """
        Run `job(fd, size)` on a thread over what may be shown of the file.

        Its result is never older than a clear that has been answered. Where there is no file, the
        size is 0.

        Raises:
            StorageFailed: The file cannot be read, or was changed from outside.
        """
        while True:
            await self.settled()
            epoch = self.epoch
            try:
                result = await self.file.read(self.shown_size, job)
            except OSError as error:
                if epoch == self.epoch and self.gate is None:
                    message = "The conversation's file cannot be read."
                    raise self.file.refusal(error, message) from error
                continue
            if epoch == self.epoch and self.gate is None:
                return result

    async def settled(self) -> None:
        """Wait until no clear or erase is under way."""
        while self.gate is not None:
            await asyncio.shield(self.gate)

    def append(
        self,
        event: Json,
        own: Json,
        end: End,
        done: Callable[[Written], None],
        *,
        may_use_reserve: bool = False,
    ) -> None:
        """
        Write a permanent record at once; `done` tells when it is durable, or that it failed.

        `end` holds what is new about the file's end, besides its size.

        Raises:
            StorageFull, StorageFailed: Nothing is written, and `done` is not called.
        """
        json, line = records.line(event, own)
        was = self.file.end
        fd = self.file.append(
            line, end._replace(size=was.size + len(line)), may_use_reserve=may_use_reserve
        )
        encoded = Encoded.of(event, json)
        self.tail.add(encoded)
        self._last = place(encoded.id)
        if self.disk.fsync == "never":
            done(encoded)
            self.shown()
        else:
            tell = partial(self._settle, encoded, done)
            self.order.add(Pending(self._last, was, (fd,), tell), self)

    def wrote_live(self, identifier: EventId, fd: int, failed: Callable[[], None]) -> None:
        """Note an event in a live file; it is shown once all before it is."""
        self._last = place(identifier)
        if self.disk.fsync == "always":

            def tell(error: OSError | None) -> None:
                if error is not None:
                    failed()

            self.order.add(Pending(self._last, None, (fd, self.path.parent), tell), self)
        elif not self.order.busy:
            self.notify()

    def _settle(
        self, encoded: Encoded, done: Callable[[Written], None], error: OSError | None
    ) -> None:
        if error is not None:
            self.tail.remove(encoded.id)
        done(encoded if error is None else error)

    def undo(self, end: End | None, error: OSError) -> None:
        """Take back the event of a failed sync, which no reader has seen."""
        self.disk.trouble.note(error, self.path)
        if error.errno in FULL:
            self.disk.reserve.release()
        self.file.cut(end if end is not None else self.file.end)

    def shown(self) -> None:
        """Wake the readers for what may be visible now; trim the rest of the tail."""
        self.tail.trim(self.order.next_place, TAIL_BYTES if self._watchers else 0)
        self.notify()

    def tell(self, state: FileState, events: list[Encoded]) -> None:
        """Go on with a new file, or with none, and show the events that tell of it."""
        self.epoch += 1
        self.tail.clear(place(events[0].id) - 1)
        self.adopt(state)
        for event in events:
            self.tail.add(event)
        self._last = place(events[-1].id)
        self._farewell = events if self._watchers else []

    def open_gate(self) -> None:
        """Let writes go on."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.set_result(None)
        self.notify()
