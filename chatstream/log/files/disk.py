"""
What all conversations of a data folder share: the clock, the syncs, the reserve, the flushes.

For the loop's thread. Nothing here knows what a record says.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol, TypeVar

from chatstream.events import EventId
from chatstream.log.files.clock import IdClock
from chatstream.log.files.copies import Copies
from chatstream.log.files.disk_reserve import Reserve
from chatstream.log.files.paths import Folder
from chatstream.log.files.syncer import Syncer
from chatstream.log.files.trouble import FULL, Trouble, reason

logger = logging.getLogger(__name__)

T = TypeVar("T")
Fsync = Literal["always", "terminal", "never"]

RETRY_SECONDS = 0.5
"""When deltas that the disk refused are tried again."""
READERS = 4
"""Threads that read and rewrite. They are not those that sync: a reader slows no writer."""
PROBE_SECONDS = 2.0
"""How long a disk has to answer before it counts as unusable."""
MAX_OPEN_FILES = 256
"""Conversations whose file stays open; live files of running turns come on top."""


class Flushes(Protocol):
    """What can be flushed: a running turn."""

    def flush(self) -> None:
        """Write what waits, and show it."""
        ...


class Holds(Protocol):
    """What holds a file open that may be closed and opened again."""

    def close_file(self) -> bool:
        """Close it, unless it is in use; return whether it is closed."""
        ...


class Disk:
    """Writes for all conversations. `full` says that no turn may start until there is room."""

    def __init__(self, folder: Folder, fsync: Fsync) -> None:
        self.folder = folder
        self.fsync: Fsync = fsync
        self.syncer = Syncer()
        self.trouble = Trouble()
        self.copies = Copies()
        self.reserve = Reserve(folder.reserve)
        self.clock: IdClock
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="chatstream-read")
        self._flushes: list[Flushes] = []
        self._probing: asyncio.Future[None] | None = None
        self._open: OrderedDict[Holds, None] = OrderedDict()

    async def run(self, job: Callable[[], T]) -> T:
        """Do blocking work on a thread."""
        return await self._loop.run_in_executor(self._readers, job)

    def close(self) -> None:
        """Flush, wait for the syncs under way, and let go of every file."""
        self._flush_all()
        self._readers.shutdown(wait=True)
        self.syncer.close()
        for holder in list(self._open):
            self.rest(holder)
        if hasattr(self, "clock"):
            try:
                self.clock.close()
            except OSError as error:
                # The ceiling that is on disk holds: the next start leaves a larger gap.
                logger.warning("clock not closed", extra={"errno": error.errno})

    def next_id(self) -> EventId:
        """
        Give the next id of the data folder.

        Raises:
            StorageFull, StorageFailed: None may be given: the clock's ceiling cannot be moved.
        """
        try:
            return self.clock.next()
        except OSError as error:
            message = "The disk refused the clock of the data folder."
            raise self.trouble.refusal(error, message, self.folder.clock) from error

    def opened(self, holder: Holds) -> None:
        """Note that a file is used; the ones unused for longest are closed beyond a bound."""
        self._open[holder] = None
        self._open.move_to_end(holder)
        if len(self._open) > MAX_OPEN_FILES:
            oldest = next(iter(self._open))
            if not self.rest(oldest):
                self._open.move_to_end(oldest)

    def rest(self, holder: Holds) -> bool:
        """Close a file that is not in use; return whether it is closed."""
        if not holder.close_file():
            return False
        self._open.pop(holder, None)
        return True

    def flush_soon(self, turn: Flushes) -> None:
        """Flush a turn after the work that is ready now: its text then leaves in the same write."""
        if not self._flushes:
            self._loop.call_soon(self._flush_all)
        self._flushes.append(turn)

    def flush_later(self, turn: Flushes) -> None:
        """Flush a turn that the disk has just refused, in a while."""
        self._loop.call_later(RETRY_SECONDS, turn.flush)

    def _flush_all(self) -> None:
        turns, self._flushes = self._flushes, []
        for turn in turns:
            turn.flush()

    def write(self, fd: int, data: bytes, offset: int, *, may_use_reserve: bool) -> None:
        """
        Write all of `data` at `offset`, or nothing: a partial write is cut back.

        Raises:
            StorageFull: There is no room (nor, if it may be used, in the reserve).
            StorageFailed: The disk refused for another reason.
        """
        try:
            self._write_whole(fd, data, offset)
        except OSError as error:
            cut_back(fd, offset)
            if error.errno not in FULL or not may_use_reserve:
                message = "The message could not be written to disk; nothing was started."
                raise self.trouble.refusal(error, message, _path_of(fd)) from error
            try:
                self.reserve.release()
                self._write_whole(fd, data, offset)
            except OSError as again:
                cut_back(fd, offset)
                raise self.trouble.refusal(again, "The disk is full.", _path_of(fd)) from again

    @staticmethod
    def _write_whole(fd: int, data: bytes, offset: int) -> None:
        done = os.pwrite(fd, data, offset)
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)

    def admit(self) -> None:
        """
        Refuse what would begin something new while the disk is full, or cannot be used.

        Raises:
            StorageFull: The reserve cannot be held.
            StorageFailed: The disk refuses for another reason.
        """
        self.check()
        try:
            held = self.reserve.hold()
        except OSError as error:
            message = "The disk refused; nothing was started."
            raise self.trouble.refusal(error, message, self.folder.reserve) from error
        if not held:
            no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            message = "The disk is full; nothing was started."
            raise self.trouble.refusal(no_room, message, self.folder.reserve)

    def check(self, user_id: str | None = None) -> None:
        """
        Refuse where the data folder, or a user's in it, is not the one that was taken.

        Raises:
            StorageFailed: It is gone, is another one, or cannot be looked into.
        """
        try:
            self.folder.check(user_id)
        except OSError as error:
            message = "The data folder cannot be used."
            raise self.trouble.refusal(error, message, self.folder.root) from error

    async def unusable(self) -> str | None:
        """Return why the data folder cannot be used, for people; None where it can."""
        if self._probing is None:
            # Not a reader's thread: the disk is not away because all readers are busy.
            self._probing = asyncio.ensure_future(asyncio.to_thread(self._probe))
        try:
            await asyncio.wait_for(asyncio.shield(self._probing), PROBE_SECONDS)
        except TimeoutError:
            return "The disk does not answer."  # all callers share one look
        except OSError as error:
            self._probing = None
            self.trouble.note(error, self.folder.root)
            return f"The data folder cannot be used: {reason(error)}."
        self._probing = None
        return None

    def _probe(self) -> None:
        """Look whether the disk can be used; after a refusal by a small write. For a thread."""
        self.folder.check_access()
        if self.trouble.open:
            self.clock.renew()
            self.trouble.open = False


def _path_of(fd: int) -> str | None:
    """Return where an open file lies, where the system tells."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def cut_back(fd: int, size: int) -> bool:
    """Drop what lies behind `size`; False where that fails: the next look at the file does it."""
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        logger.error("cutting back failed", extra={"errno": error.errno})
        return False
    return True
