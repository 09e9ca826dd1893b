"""
The event log on per-user append-only JSONL files: opens the data folder, holds what is in use.

See `CONTRACT.md` section 7 for the files, `conversation` for one log, `recovery` for a start.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from chatstream.errors import ChatstreamError, DataFolderError
from chatstream.events import Address, EventId, event_id
from chatstream.log import erase
from chatstream.log.clock import IdClock
from chatstream.log.conversation import Conversation
from chatstream.log.disk import Disk, Fsync
from chatstream.log.erase import Intent
from chatstream.log.feedback import Feedback
from chatstream.log.file_state import load
from chatstream.log.folder import Folder
from chatstream.log.listing import Entry, Listing
from chatstream.log.recovery import survey

logger = logging.getLogger(__name__)

QUIET_CONVERSATIONS = 512
"""Conversations kept in memory that nobody reads or writes: opening one anew costs a file read."""


class JsonlLog:
    """
    All conversations of a data folder. For the loop's thread; made by `open_log`.

    Attributes:
        feedback: The users' ratings.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._conversations: OrderedDict[Address, Conversation] = OrderedDict()
        # Whoever still holds one that was forgotten must get the same again: two of them would
        # write one file at places of their own.
        self._known: WeakValueDictionary[Address, Conversation] = WeakValueDictionary()
        self._opening: dict[Address, asyncio.Future[Conversation]] = {}
        self._erasing: dict[str, asyncio.Future[None]] = {}
        self._listing = Listing(disk)
        self.feedback = Feedback(disk)

    @property
    def last_id(self) -> EventId:
        """The highest id that may have been given."""
        return self._disk.clock.last

    def admit(self) -> None:
        """Refuse what would begin something new while the disk is full: raises StorageFull."""
        self._disk.admit()

    async def conversation(self, address: Address) -> Conversation:
        """
        Return a conversation's log; there is always one, if only an empty one without a file.

        Turns in it that no process runs any more are ended first, as `turn.interrupted`.

        Raises:
            StorageFailed: Its file cannot be read, or a newer release wrote it.
        """
        while (erasing := self._erasing.get(address.user_id)) is not None:
            await asyncio.shield(erasing)
        if (found := self._known.get(address)) is not None:
            self._conversations[address] = found
            self._conversations.move_to_end(address)
            self._trim()
            return found
        if (opening := self._opening.get(address)) is None:
            opening = asyncio.ensure_future(self._open(address))
            self._opening[address] = opening
            opening.add_done_callback(lambda _: self._opening.pop(address, None))
        return await asyncio.shield(opening)

    async def _open(self, address: Address) -> Conversation:
        state = await self._disk.run(partial(load, self._disk.folder.conversation(address)))
        self._disk.clock.raise_to(state.last)
        conversation = Conversation(self._disk, address, state)
        await conversation.end_orphans(state.orphans)
        self._conversations[address] = self._known[address] = conversation
        self._trim()
        return conversation

    def _trim(self) -> None:
        for address in list(self._conversations)[: len(self._conversations) - QUIET_CONVERSATIONS]:
            conversation = self._conversations[address]
            if conversation.quiet:
                del self._conversations[address]
                self._disk.forget(conversation)

    async def clear(self, conversation: Conversation) -> None:
        """Erase what a conversation holds; see `erase.clear`."""
        await erase.clear(conversation, self._write_intent)

    async def erase(self, conversation: Conversation) -> None:
        """Erase a conversation with its file; see `erase.erase`."""
        await erase.erase(conversation, self._write_intent)

    async def erase_user(self, user_id: str) -> None:
        """
        Erase every trace of a user, feedback included; returns once it is gone from the disk.

        Raises:
            StorageFailed: Not everything is gone; the next start finishes it.
        """
        while (erasing := self._erasing.get(user_id)) is not None:
            await asyncio.shield(erasing)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._erasing[user_id] = done
        try:
            pending = [f for a, f in self._opening.items() if a.user_id == user_id]
            await asyncio.gather(*pending, return_exceptions=True)
            conversations = [c for a, c in self._known.items() if a.user_id == user_id]
            async with self.feedback.held(user_id):
                await erase.erase_user(self._disk, user_id, conversations)
                self.feedback.forget(user_id)
        finally:
            del self._erasing[user_id]
            done.set_result(None)

    async def list(self, user_id: str) -> list[Entry]:
        """Return a user's conversations, newest first."""
        return await self._listing.read(user_id)

    async def exists(self, address: Address) -> bool:
        """Say whether a conversation has a file."""
        return (await self.conversation(address)).created is not None

    def _write_intent(self, intent: Intent) -> None:
        erase.write_intent(self._disk.folder, intent)


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
            findings = await disk.run(partial(survey, folder))
            disk.clock = IdClock(folder.clock, disk.syncer.executor, floor=event_id(findings.floor))
            await disk.run(disk.reserve.hold)
            log = JsonlLog(disk)
            for address in findings.orphaned:
                try:
                    await log.conversation(address)
                except ChatstreamError as error:
                    logger.error("not recovered", extra={"code": error.code})
            yield log
        except OSError as error:
            raise DataFolderError(
                f"CHATSTREAM_DATA_DIR: {root} cannot be used as data folder: {error.strerror}"
            ) from error
        finally:
            disk.close()
    finally:
        folder.release()
