"""
The live file of a running turn: its deltas, for the process that finds them after a crash.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from chatstream.events import EventId
from chatstream.log.files.journal import Journal
from chatstream.log.files.opening import open_file

logger = logging.getLogger(__name__)


class LiveFile:
    """
    Holds what a turn has said until its terminal event is durable. For the loop's thread.

    Attributes:
        path: Where it lies, or would.
        fd: The open file; -1 where it is not open.
    """

    def __init__(self, journal: Journal, started_id: EventId) -> None:
        self.path = journal.path.with_suffix(f".{started_id}.live")
        self.fd = -1
        self._disk = journal.disk
        self._order = journal.order
        self._written = 0
        self._exists = False

    def found(self) -> None:
        """Have it removed with the turn's end, though another process wrote it."""
        self._exists = True

    def write(self, data: bytes) -> None:
        """
        Append; the file is made with the first write.

        Raises:
            StorageFull, StorageFailed: Nothing was written.
        """
        disk = self._disk
        if self.fd < 0:
            try:
                disk.folder.check()
                self.fd = open_file(self.path, os.O_WRONLY | os.O_CREAT)
            except OSError as error:
                message = "The reply cannot be written to disk."
                raise disk.trouble.refusal(error, message, self.path) from error
            self._exists = True
        disk.write(self.fd, data, self._written, may_use_reserve=True)
        self._written += len(data)

    @property
    def is_lost(self) -> bool:
        """Whether what was written is no longer at its path."""
        return self.fd >= 0 and not _is_at(self.path, self.fd)

    def restore(self, data: bytes) -> None:
        """Write everything again, in a new file; raises as `write`."""
        self.close()
        self._written = 0
        self.write(data)

    def close(self) -> None:
        """Close it, after the sync that may be using it."""
        if self.fd >= 0:
            self._order.close(self.fd)
            self.fd = -1

    def remove(self) -> None:
        """Remove what the durable terminal event has; off the loop."""
        if self._exists:
            self._disk.syncer.submit(self._unlink, _report)

    def _unlink(self) -> None:
        self._disk.folder.check()
        self.path.unlink(missing_ok=True)


def _is_at(path: Path, fd: int) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.lstat(path).st_ino == os.fstat(fd).st_ino
    except OSError:
        return False


def _report(error: OSError | None) -> None:
    if error is not None:
        logger.warning("live file not removed", extra={"errno": error.errno})
