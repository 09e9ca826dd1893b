"""
A conversation's file in use: appended to at its end, cut back, made, and read on threads.

For the loop's thread. What a record says is others' business.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from chatstream.errors import StorageFailed
from chatstream.events import Address, EventId, place, timestamp
from chatstream.log import records
from chatstream.log.disk import Disk, cut_back
from chatstream.log.order import End, Order
from chatstream.log.reserve import refusal
from chatstream.log.syncer import sync_folder

logger = logging.getLogger(__name__)

T = TypeVar("T")


class LogFile:
    """
    One file with one writer. It is opened when needed, and closed while it rests.

    Attributes:
        created: The id of the log's beginning; None while there is no file.
        end: Where it ends.
    """

    def __init__(self, disk: Disk, address: Address, order: Order) -> None:
        """While something waits in `order`, a sync may need the open file."""
        self.path: Path = disk.folder.conversation(address)
        self.created: EventId | None = None
        self.end = End()
        self._disk = disk
        self._address = address
        self._order = order
        self._fd = -1
        self._making: asyncio.Task[None] | None = None

    def append(self, line: bytes, end: End, *, may_use_reserve: bool) -> int:
        """
        Write a line at the end, which becomes `end`; returns the open file, to be synced.

        Raises:
            StorageFull, StorageFailed: Nothing is written.
        """
        if self._fd < 0:
            try:
                self._fd = reopen(self.path, self.end.size)
            except OSError as error:
                raise StorageFailed("The conversation's file cannot be opened.") from error
        self._disk.opened(self)
        self._disk.write(self._fd, line, self.end.size, may_use_reserve=may_use_reserve)
        self.end = end
        return self._fd

    def cut(self, end: End) -> None:
        """Take back what is behind `end`. The file is opened anew, and looked at, for the next."""
        if self._fd >= 0:
            cut_back(self._fd, end.size)
        self.end = end
        self.close_file()

    def replaced(self, created: EventId | None, end: End) -> None:
        """Go on with another file of this name, or with none."""
        self.close_file()
        self.created, self.end = created, end

    def close_file(self) -> bool:
        """Let go of the file, where nothing waits for it; it is opened again when needed."""
        if self._order.busy:
            return False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return True

    async def make(self) -> None:
        """
        Make the file, durably; a caller that leaves does not undo it.

        Raises:
            StorageFull, StorageFailed: There is none.
        """
        if self._making is None:
            self._making = asyncio.ensure_future(self._make())
            self._making.add_done_callback(self._made)
        await asyncio.shield(self._making)

    async def settled(self) -> None:
        """Wait until no making is under way."""
        if self._making is not None:
            await asyncio.wait([self._making])

    async def _make(self) -> None:
        identifier = self._disk.next_id()
        durable = self._disk.fsync != "never"
        job = partial(create, self._disk, self.path, self._address, identifier, durable=durable)
        try:
            size = await self._disk.run(job)
        except OSError as error:
            logger.error("file not made", extra={"errno": error.errno})
            raise refusal(error, "The conversation's file cannot be made.") from error
        self.end = End(size)
        self.created = identifier

    def _made(self, making: asyncio.Task[None]) -> None:
        self._making = None
        if not making.cancelled():
            making.exception()  # its callers, if any are left, have it too

    async def read(self, size: int, job: Callable[[int, int], T]) -> T:
        """
        Run `job(fd, size)` on a thread; where there is no file, `size` is 0.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        return await self._disk.run(partial(_with_path, self.path, size, job))


def create(disk: Disk, path: Path, address: Address, identifier: EventId, *, durable: bool) -> int:
    """
    Make a new file with its header; returns its size. Its name is durable, if asked; its content
    is with the first record that is: until then nothing in it was acknowledged.

    Raises:
        OSError: It could not be made, and is not there.
    """
    disk.folder.make_user(path.parent, durable=durable)
    header = records.header(address, identifier, timestamp(place(identifier) // 10_000))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        if os.pwrite(fd, header, 0) < len(header):
            raise OSError(28, "no space for a new file")
        if durable:
            sync_folder(path.parent)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
    return len(header)


def reopen(path: Path, size: int) -> int:
    """
    Open a file for appending at `size`; what lies behind it was never acknowledged, and is cut.

    Raises:
        OSError: It cannot be opened, or has lost what was acknowledged.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(fd).st_size
        if found < size:
            raise OSError(5, f"{found} bytes where {size} were written")
        if os.pread(fd, 1, size - 1) != b"\n":
            raise OSError(5, "the last record's newline is gone")
        if found > size:
            os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def _with_path(path: Path, size: int, job: Callable[[int, int], T]) -> T:
    if size == 0:
        return job(-1, 0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # A clear may have put a shorter file here meanwhile; the caller finds that out.
        return job(fd, min(size, os.fstat(fd).st_size))
    finally:
        os.close(fd)
