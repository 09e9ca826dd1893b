"""
A conversation's file in use: appended to at its end, cut back, made, and read on threads.

For the loop's thread. Nothing here knows what a record says.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from chatstream.errors import StorageFailed, StorageFull
from chatstream.events import Address, EventId, time_of
from chatstream.log.files import records
from chatstream.log.files.copies import is_copy, set_apart
from chatstream.log.files.disk import Disk, cut_back
from chatstream.log.files.opening import REPLACE, UPDATE, open_file
from chatstream.log.files.syncer import sync_folder
from chatstream.log.files.trouble import Changed
from chatstream.log.files.visibility import End, Order

T = TypeVar("T")


class LogFile:
    """
    One file with one writer. It is opened when needed, and closed while it rests.

    Attributes:
        created: The id of the log's beginning; None while there is no file.
        end: Where it ends.
        changed: Another process has changed it; it is looked at anew before its next use.
    """

    def __init__(self, disk: Disk, address: Address, order: Order) -> None:
        """While something waits in `order`, a sync may need the open file."""
        self.path: Path = disk.folder.conversation(address)
        self.created: EventId | None = None
        self.end = End()
        self.changed = False
        self._inode = 0
        self._longer = False
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
        try:
            self._look()
        except OSError as error:
            raise self.refusal(error, "The conversation's file cannot be used.") from error
        self._disk.opened(self)
        size, self._longer = self.end.size, True
        self._disk.write(self._fd, line, size, may_use_reserve=may_use_reserve)
        self.end, self._longer = end, False
        return self._fd

    def _look(self) -> None:
        """Open the file where it rests, and see that it is as it was left: one look by its path."""
        if self._fd < 0:
            self._disk.folder.check()
            self._fd = reopen(self.path, self._inode, self.end.size, cut=self._longer)
            return
        try:
            about = os.lstat(self.path)
        except FileNotFoundError as error:
            raise Changed("the file is gone", self.path) from error
        refuse_changed(about, self._inode, self.end.size, self.path)
        cut_behind(self._fd, about.st_size, self.end.size, self.path, ours=self._longer)

    def refusal(self, error: OSError, message: str) -> StorageFull | StorageFailed:
        """Return the error of a refusal; a changed file is looked at before its next use."""
        if isinstance(error, Changed | FileNotFoundError | FileExistsError):
            self.changed = True
        return self._disk.trouble.refusal(error, message, self.path)

    def cut(self, end: End) -> None:
        """Drop what lies behind `end`. The next use opens the file anew, and looks at it."""
        if self._fd >= 0:
            self._longer = not cut_back(self._fd, end.size)
        self.end = end
        self.close_file()

    def replaced(self, created: EventId | None, end: End, inode: int) -> None:
        """Go on with another file of this name, or with none; the open one was let go of."""
        self.created, self.end, self._inode = created, end, inode
        self.changed = self._longer = False

    def let_go(self) -> int:
        """Return the open file, which is the caller's to close from now on; -1 for none."""
        fd, self._fd = self._fd, -1
        return fd

    def close_file(self) -> bool:
        """Let go of the file, where nothing waits for it; it is opened again when needed."""
        if self._order.busy:
            return False
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        return True

    def appeared(self) -> bool:
        """Return whether there is a file where this process knows of none."""
        if self.created is not None or self._making is not None:
            return False
        try:
            return os.lstat(self.path).st_ino != self._inode
        except OSError:
            return False

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
            size, inode = await self._disk.run(job)
        except OSError as error:
            raise self.refusal(error, "The conversation's file cannot be made.") from error
        self.replaced(identifier, End(size), inode)

    def _made(self, making: asyncio.Task[None]) -> None:
        self._making = None
        if not making.cancelled():
            making.exception()  # its callers, if any are left, get the error too

    async def read(self, size: int, job: Callable[[int, int], T]) -> T:
        """
        Run `job(fd, size)` on a thread; where there is no file, `size` is 0.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        return await self._disk.run(partial(_with_path, self.path, self._inode, size, job))


def create(
    disk: Disk, path: Path, address: Address, identifier: EventId, *, durable: bool
) -> tuple[int, int]:
    """
    Make a new file with its header; returns its size and its inode. Its name is durable, if asked;
    its content is with the first record that is: until then nothing in it was acknowledged.

    Raises:
        OSError: It could not be made, and is not there.
    """
    disk.folder.make_user(path.parent, durable=durable)
    header = records.header(address, identifier, time_of(identifier))
    try:
        fd = open_file(path, REPLACE)
    except FileExistsError:
        if not is_copy(path):
            raise
        set_apart(path)
        fd = open_file(path, REPLACE)
    try:
        if os.pwrite(fd, header, 0) < len(header):
            raise OSError(errno.ENOSPC, "no space for a new file")
        if durable:
            sync_folder(path.parent)
        return len(header), os.fstat(fd).st_ino
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def reopen(path: Path, inode: int, size: int, *, cut: bool) -> int:
    """
    Open a file for appending at `size`; with `cut`, what lies behind it goes: a write that failed.

    Raises:
        Changed: It is not as it was left.
        OSError: It cannot be opened.
    """
    try:
        fd = open_file(path, UPDATE)
    except FileNotFoundError as error:
        raise Changed("the file is gone", path) from error
    try:
        about = os.fstat(fd)
        refuse_changed(about, inode, size, path)
        if os.pread(fd, 1, size - 1) != b"\n":
            raise Changed("the last record's newline is gone", path)
        cut_behind(fd, about.st_size, size, path, ours=cut)
    except OSError:
        os.close(fd)
        raise
    return fd


def cut_behind(fd: int, found: int, size: int, path: Path, *, ours: bool) -> None:
    """Cut what a failed write of ours left behind `size`; raise Changed where it is not ours."""
    if found > size and not ours:
        raise Changed("somebody else has written in the file", path)
    if found > size:
        os.ftruncate(fd, size)


def refuse_changed(about: os.stat_result, inode: int, size: int, path: Path) -> None:
    """Raise Changed where a file is another one, or has lost what was acknowledged."""
    if about.st_ino != inode or about.st_nlink == 0:
        raise Changed("another file is in its place", path)
    if about.st_size < size:
        raise Changed(f"the file has {about.st_size} bytes where {size} were written", path)


def _with_path(path: Path, inode: int, size: int, job: Callable[[int, int], T]) -> T:
    if size == 0:
        return job(-1, 0)
    fd = open_file(path)
    try:
        # A clear may have put another file here meanwhile; the caller finds that out.
        refuse_changed(os.fstat(fd), inode, size, path)
        return job(fd, size)
    finally:
        os.close(fd)
