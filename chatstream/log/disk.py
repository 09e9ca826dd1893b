"""
What all conversations of a data folder share: the clock, the syncs, the reserve, the flushes.

For the loop's thread. Nothing here knows what a record says.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar

from chatstream.errors import StorageFailed, StorageFull
from chatstream.log.clock import IdClock
from chatstream.log.folder import Folder
from chatstream.log.reserve import FULL, Reserve
from chatstream.log.syncer import Syncer

logger = logging.getLogger(__name__)

T = TypeVar("T")
Fsync = Literal["always", "terminal", "never"]

BUSY_FLUSHES = 1000
"""Above so many flushes a second streams are many, and waiting a little for more text pays."""
WINDOW_SECONDS = 0.03
"""How long deltas wait for more then: a screen's two frames."""


MAX_OPEN_FILES = 256
"""Conversations whose file stays open; live files of running turns come on top."""


class Flushes(Protocol):
    """What can be flushed: a running turn."""

    def flush(self) -> None:
        """Write what waits, and show it."""
        ...


class Holds(Protocol):
    """What holds a file open that may be closed and opened again: a conversation."""

    def close_file(self) -> bool:
        """Close it, unless it is in use; say whether it is closed."""
        ...


class Disk:
    """Writes for all conversations. `full` says that no turn may start until there is room."""

    def __init__(self, folder: Folder, fsync: Fsync) -> None:
        self.folder = folder
        self.fsync: Fsync = fsync
        self.syncer = Syncer()
        self.reserve = Reserve(folder.reserve)
        self.clock: IdClock
        self._loop = asyncio.get_running_loop()
        self._flushes: list[Flushes] = []
        self._open: OrderedDict[Holds, None] = OrderedDict()
        self._busy = False
        self._counted = 0
        self._counted_since = 0.0

    async def run(self, job: Callable[[], T]) -> T:
        """Do blocking work on a thread."""
        return await self._loop.run_in_executor(self.syncer.executor, job)

    def close(self) -> None:
        """Flush, wait for the syncs under way, and let go of every file."""
        self._flush_all()
        self.syncer.close()
        for holder in list(self._open):
            self.forget(holder)
        if hasattr(self, "clock"):
            self.clock.close()

    def opened(self, holder: Holds) -> None:
        """Take note that a file is used; the ones unused for longest are closed beyond a bound."""
        self._open[holder] = None
        self._open.move_to_end(holder)
        if len(self._open) > MAX_OPEN_FILES:
            for oldest in list(self._open)[: len(self._open) - MAX_OPEN_FILES]:
                if oldest.close_file():
                    del self._open[oldest]

    def forget(self, holder: Holds) -> None:
        """Close a file for good."""
        holder.close_file()
        self._open.pop(holder, None)

    def flush_soon(self, turn: Flushes) -> None:
        """Flush a turn once what is ready now has been taken in."""
        if not self._flushes:
            # Joining what is ready costs nothing; waiting for more pays only when many streams
            # are busy: then each write and each send carries several tokens.
            if self._busy:
                self._loop.call_later(WINDOW_SECONDS, self._flush_all)
            else:
                self._loop.call_soon(self._flush_all)
        self._flushes.append(turn)

    def _flush_all(self) -> None:
        turns, self._flushes = self._flushes, []
        for turn in turns:
            turn.flush()
        self._counted += len(turns)
        elapsed = self._loop.time() - self._counted_since
        if elapsed > 5 * WINDOW_SECONDS:
            self._busy = self._counted > BUSY_FLUSHES * elapsed
            self._counted = 0
            self._counted_since += elapsed

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
            if error.errno not in FULL:
                logger.error("write failed", extra={"errno": error.errno})
                raise StorageFailed("The message could not be written to disk.") from error
            if not may_use_reserve:
                raise StorageFull("The disk is full; nothing was started.") from error
            self.reserve.release()
            try:
                self._write_whole(fd, data, offset)
            except OSError as again:
                cut_back(fd, offset)
                raise StorageFull("The disk is full.") from again

    @staticmethod
    def _write_whole(fd: int, data: bytes, offset: int) -> None:
        done = os.pwrite(fd, data, offset)
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)

    def admit(self) -> None:
        """
        Refuse what would begin something new while the disk is full.

        Raises:
            StorageFull: The reserve cannot be held.
        """
        if not self.reserve.hold():
            raise StorageFull("The disk is full; nothing was started.")


def cut_back(fd: int, size: int) -> None:
    """Drop what lies behind `size`; where even that fails, recovery does it."""
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        logger.error("cutting back failed", extra={"errno": error.errno})
