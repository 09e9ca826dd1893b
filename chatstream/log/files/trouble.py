"""
What the disk refuses: logged once a minute for each cause, with the path.

A disk that fails, fails for every turn and every reader at once: a line for each would fill what
is left of it.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from chatstream.errors import StorageFailed, StorageFull

logger = logging.getLogger(__name__)

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
EVERY_SECONDS = 60.0
MAX_CAUSES = 1000
"""Causes that are remembered: each file that was changed from outside is one of its own."""


class Changed(OSError):
    """A file is not as this process left it: another one has changed, moved or removed it."""

    def __init__(self, what: str, path: Path) -> None:
        super().__init__(errno.ESTALE, what, str(path))


class Trouble:
    """
    Remembers and logs refusals, from any thread.

    Attributes:
        open: Something but a full disk was refused since the disk was last found to be usable.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.open = False
        self._now = now
        self._told: dict[tuple[int | None, str], float] = {}

    def refusal(
        self, error: OSError, message: str, path: Path | str | None = None
    ) -> StorageFull | StorageFailed:
        """Note a refusal; returns what it is to the caller."""
        self.note(error, path)
        return refusal(error, message)

    def note(self, error: OSError, path: Path | str | None = None) -> None:
        """Log a refusal, unless its cause was logged within the minute."""
        full = error.errno in FULL
        self.open = self.open or not full
        where = str(error.filename or path or "")
        cause = error.errno, where if isinstance(error, Changed) else ""
        now = self._now()
        if now - self._told.get(cause, -EVERY_SECONDS) < EVERY_SECONDS:
            return
        if len(self._told) >= MAX_CAUSES:
            self._told.clear()
        self._told[cause] = now
        told = {"cause": error.strerror or str(error), "errno": error.errno, "path": where}
        logger.error("storage full" if full else "storage failed", extra=told)


def refusal(error: OSError, message: str) -> StorageFull | StorageFailed:
    """Return what a refusal of the disk is to the caller."""
    return StorageFull(message) if error.errno in FULL else StorageFailed(message)


def reason(error: OSError) -> str:
    """Return why, for people, without a path."""
    return error.strerror or os.strerror(error.errno or errno.EIO)
