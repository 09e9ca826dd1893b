"""
Room kept for a full disk: running turns can still end when nothing new may start.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from chatstream.errors import StorageFailed, StorageFull

RESERVE_BYTES = 16 * 1024 * 1024
"""Some sixty of the longest replies, or thousands of usual ones."""

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Reserve:
    """A file of fixed size in the data folder that is given up when the disk is full."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size = size

    def hold(self) -> bool:
        """
        Say whether the room is held, taking it first where needed. False: the disk is full.

        Raises:
            OSError: The disk refuses for another reason.
        """
        try:
            if self._path.stat().st_size == self._size:
                return True
        except FileNotFoundError:
            pass
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._size)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give the room up, for turns that must end."""
        self._path.unlink(missing_ok=True)


def refusal(error: OSError, message: str) -> StorageFull | StorageFailed:
    """Return what a refusal of the disk is to the caller."""
    return StorageFull(message) if error.errno in FULL else StorageFailed(message)
