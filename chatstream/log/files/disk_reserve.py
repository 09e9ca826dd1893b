"""
Room kept for a full disk: running turns can still end when nothing new may start.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from chatstream.log.files.opening import REPLACE, open_file
from chatstream.log.files.trouble import FULL

logger = logging.getLogger(__name__)

RESERVE_BYTES = 16 * 1024 * 1024
"""Some sixty of the longest replies, or thousands of usual ones."""


class Reserve:
    """A file of fixed size in the data folder that is given up when the disk is full."""

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        self._path = path
        self._size = size
        self._held = 0

    def hold(self) -> bool:
        """
        Take the room if it is not held; return whether it is. False: the disk is full.

        Anything else in its place is removed, and neither written to nor followed.

        Raises:
            OSError: The disk refuses for another reason.
        """
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISREG(found.st_mode) and found.st_size == self._size:
                self._held = found.st_ino
                return True
            self._path.unlink()
            if not stat.S_ISREG(found.st_mode):
                logger.warning("no regular file, removed", extra={"path": str(self._path)})
        return self._take()

    def _take(self) -> bool:
        try:
            fd = open_file(self._path, REPLACE)
            try:
                self._held = os.fstat(fd).st_ino
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
        """Give the room up, for turns that must end; another folder's reserve is not ours."""
        try:
            if os.lstat(self._path).st_ino == self._held:
                self._path.unlink()
        except FileNotFoundError:
            pass
