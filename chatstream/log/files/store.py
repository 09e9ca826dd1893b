"""
The event log on per-user append-only JSONL files: opens the data folder, holds what is in use.

See `protocol.md`, section 5 for the files, `conversation` for one log, `recovery` for a start.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from chatstream.detached import Detached
from chatstream.errors import OVERLOADED, ChatstreamError, Unavailable
from chatstream.events import BEGINNING, Address, EventId, event_id
from chatstream.log.files import erasure
from chatstream.log.files.clock import IdClock
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.disk import Disk, Fsync
from chatstream.log.files.feedback import Feedback
from chatstream.log.files.leftovers import end_orphans
from chatstream.log.files.listing import Entry, Listing
from chatstream.log.files.outside import first_look, look_anew
from chatstream.log.files.ownership import unusable
from chatstream.log.files.paths import Folder
from chatstream.log.files.recovery import survey
from chatstream.log.files.syncer import sync_folder
from chatstream.log.files.usage import Usage
from chatstream.log.files.usage_file import Counts

logger = logging.getLogger(__name__)

T = TypeVar("T")
# In the class, `list` is its method.
Conversations = list[Conversation]
Entries = list[Entry]

QUIET_CONVERSATIONS = 512
"""Conversations kept in memory that nobody reads or writes: opening one anew costs a file read."""
EMPTY_CONVERSATIONS = 32
"""Of these, conversations without any event: opening one anew costs only a look at the folder, and
a client can think of any number of names."""
MOST_CONVERSATIONS = 32_768
"""Conversations that may be read or written at once: each takes some 2 KiB, its text besides."""
RECOVERED_AT_ONCE = 64


class JsonlLog:
    """
    All conversations of a data folder. For the loop's thread; made by `open_log`.

    Attributes:
        feedback: The users' ratings.
        on_erased: Called with the user before an erasure is answered, also where it failed: nothing
            of that user may be kept elsewhere.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._conversations: OrderedDict[Address, Conversation] = OrderedDict()
        self._empty: OrderedDict[Address, Conversation] = OrderedDict()
        # A caller that still holds one that was forgotten must get the same again: two would
        # write one file at places of their own.
        self._known: WeakValueDictionary[Address, Conversation] = WeakValueDictionary()
        self._opening: dict[Address, asyncio.Future[Conversation]] = {}
        self._erasing: dict[str, asyncio.Future[None]] = {}
        self._openings = Detached()
        self._erasures = Detached()
        self._erased_count = 0
        self._listing = Listing(disk)
        self._usage = Usage(disk)
        self.feedback = Feedback(disk)
        self.on_erased: Callable[[str], None] = lambda user_id: None

    @property
    def last_id(self) -> EventId:
        """The highest id that may have been given."""
        return self._disk.clock.last

    def admit(self) -> None:
        """Refuse what would begin something new: raises StorageFull or StorageFailed."""
        self._disk.admit()

    async def trouble(self) -> str | None:
        """Return why the data folder cannot be used, for people; None where it can."""
        return await self._disk.unusable()

    async def conversation(self, address: Address) -> Conversation:
        """
        Return a conversation's log; there is always one, if only an empty one without a file.

        Turns in it that no process runs any more are ended first, as `turn.interrupted`.

        Raises:
            StorageFailed: Its file cannot be read, or a newer release wrote it.
            Unavailable: Too many others are in use.
        """
        while (erasing := self._erasing.get(address.user_id)) is not None:
            await asyncio.shield(erasing)
        if (found := self._known.get(address)) is not None:
            self._keep(address, found)
            if not found.running:
                # What runs is in memory, and can be read and stopped without the disk.
                self._disk.check(address.user_id)
            found.file.changed = found.file.changed or found.file.appeared()
            await look_anew(found)
            if found.orphans:
                await end_orphans(found)
            return found
        self._disk.check(address.user_id)
        if (opening := self._opening.get(address)) is None:
            if len(self._known) + len(self._opening) >= MOST_CONVERSATIONS:
                raise Unavailable("Too many conversations are followed.", code=OVERLOADED)
            opening = self._opening[address] = self._openings.begin(self._open(address))
            opening.add_done_callback(lambda _: self._opening.pop(address, None))
        return await asyncio.shield(opening)

    async def _open(self, address: Address) -> Conversation:
        state = await first_look(self._disk, address)
        self._disk.clock.raise_to(state.last)
        conversation = Conversation(self._disk, address, state)
        try:
            await end_orphans(conversation)
        except BaseException:
            self._disk.rest(conversation.file)
            raise
        self._known[address] = conversation
        self._keep(address, conversation)
        return conversation

    def _keep(self, address: Address, conversation: Conversation) -> None:
        """Keep it in memory for a while; for a shorter one where it never had an event."""
        self._empty.pop(address, None)
        is_empty = conversation.created is None and conversation.last_id == BEGINNING
        kept, most = (
            (self._empty, EMPTY_CONVERSATIONS)
            if is_empty
            else (self._conversations, QUIET_CONVERSATIONS)
        )
        kept[address] = conversation
        kept.move_to_end(address)
        while len(kept) > most:
            # Its users hold it, and it is found again as long as they do.
            _, oldest = kept.popitem(last=False)
            self._disk.rest(oldest.file)

    async def clear(self, conversation: Conversation) -> None:
        """Erase a conversation's events; see `erasure.clear`. It goes on if the caller leaves."""
        await self._erase(erasure.clear(conversation), conversation.address.user_id)

    async def erase(self, conversation: Conversation) -> bool:
        """Erase a conversation with its file; see `erasure.erase`. As `clear`, it goes on."""
        return await self._erase(erasure.erase(conversation), conversation.address.user_id)

    async def erase_user(self, user_id: str) -> None:
        """
        Erase every trace of a user, feedback included; returns once it is gone from the disk.

        Raises:
            StorageFailed: Not everything is gone.
        """
        await self._erase(self._erase_user(user_id), user_id)

    async def _erase(self, erasing: Coroutine[Any, Any, T], user_id: str) -> T:
        async def told() -> T:
            try:
                return await erasing
            finally:
                self._erased_count += 1
                self.on_erased(user_id)

        return await self._erasures.run(told())

    async def _erase_user(self, user_id: str) -> None:
        while (erasing := self._erasing.get(user_id)) is not None:
            await asyncio.shield(erasing)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._erasing[user_id] = done
        try:
            self._disk.check(user_id)
            if opening := [f for a, f in self._opening.items() if a.user_id == user_id]:
                await asyncio.wait(opening)
            conversations = self._known_of(user_id)
            async with self.feedback.held(user_id):
                await erasure.erase_user(self._disk, user_id, conversations)
                self.feedback.forget(user_id)
                self._usage.forget(user_id)
        finally:
            del self._erasing[user_id]
            done.set_result(None)

    async def list(self, user_id: str) -> Entries:
        """Return a user's conversations, newest first; an answered clear is always seen."""

        async def read() -> Entries:
            mine = self._known_of(user_id)
            shown = {found.path: found.shown_size for found in mine if found.order.busy}
            return await self._listing.read(user_id, shown)

        return await self._undisturbed(read, user_id)

    async def usage(self, user_id: str, first: str, last: str) -> Counts:
        """
        Return the usage of a user's turns that ended on these days (`YYYY-MM-DD`, UTC).

        Running turns, ends that are not durable, and turns that a clear has erased do not count.
        """

        def shown() -> dict[str, int]:
            return {found.path.name: found.shown_size for found in self._known_of(user_id)}

        read = partial(self._usage.read, user_id, shown, first, last)
        return await self._undisturbed(read, user_id)

    def _known_of(self, user_id: str) -> Conversations:
        return [found for address, found in self._known.items() if address.user_id == user_id]

    async def _undisturbed(self, read: Callable[[], Awaitable[T]], user_id: str) -> T:
        """Read, and read again where an erasure ended meanwhile: erased data is never returned."""
        while True:
            erased = self._erased_count
            self._disk.check(user_id)
            try:
                found = await read()
            except OSError as error:
                message = "The user's conversations cannot be read."
                path = self._disk.folder.user(user_id)
                raise self._disk.trouble.refusal(error, message, path) from error
            self._disk.check(user_id)
            if erased == self._erased_count:
                return found

    async def recover(self, orphaned: Sequence[Address]) -> None:
        """End what a crash left running; what cannot be ended is tried again when it is opened."""
        for first in range(0, len(orphaned), RECOVERED_AT_ONCE):
            some = orphaned[first : first + RECOVERED_AT_ONCE]
            results = await asyncio.gather(
                *(self.conversation(address) for address in some), return_exceptions=True
            )
            for result in results:
                if isinstance(result, ChatstreamError):
                    logger.error("not recovered", extra={"code": result.code})
                elif isinstance(result, Exception):
                    # A file that cannot be opened must not keep the others from being served.
                    logger.error("not recovered", exc_info=result)
                elif isinstance(result, BaseException):
                    raise result

    async def settle(self) -> None:
        """Wait for the erasures that are under way."""
        await self._erasures.settle()


@asynccontextmanager
async def open_log(root: Path, fsync: Fsync) -> AsyncIterator[JsonlLog]:
    """
    Own a data folder: recover what a crash left, then serve it until the exit.

    Raises:
        DataFolderError: Another process owns it, or it cannot be read and written.
    """
    folder = Folder(root)
    folder.own()
    try:
        disk = Disk(folder, fsync)
        try:
            try:
                log = await _recovered(disk)
            except OSError as error:
                raise unusable(root, error) from error
            try:
                yield log
            finally:
                await log.settle()
        finally:
            disk.close()
    finally:
        folder.release()


async def _recovered(disk: Disk) -> JsonlLog:
    folder = disk.folder
    findings = await disk.run(partial(survey, folder))
    floor = event_id(findings.floor)
    disk.clock = IdClock(folder.clock, disk.syncer.executor, floor=floor, check=folder.check)
    await disk.run(disk.reserve.hold)
    # The names of the clock and of the folders: without them the ids would begin anew.
    await disk.run(partial(sync_folder, folder.root))
    log = JsonlLog(disk)
    await log.recover(findings.orphaned)
    return log
