"""
The one clock that gives every id of a data folder.

Ids never go back and are never given twice, whatever happens to the machine's clock or to a
file's tail: a ceiling on disk lies ahead of every id in use and is the floor of the next start.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from chatstream.events import PER_MILLISECOND, EventId, event_id, is_event_id, place
from chatstream.log.files.opening import UPDATE, open_file

LEASE_MS = 30_000
"""How far the ceiling lies ahead. After a crash ids begin there: at most this far in the future."""


class IdClock:
    """
    Gives ids, each above all before it, over restarts too. For one thread, the loop's.

    The ceiling is renewed on `executor` at half its lease; only where that came too late (after a
    long silence) does `next` sync a few bytes itself.
    """

    def __init__(
        self,
        path: Path,
        executor: Executor,
        *,
        floor: EventId,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Open the clock; no id at or below `floor`, nor below the ceiling on disk, is given again.

        `check` is called before a file that was removed is made again: it raises where it must
        not be made.

        Raises:
            OSError: The file can be neither read nor made.
        """
        self._executor = executor
        self._now_ms = now_ms
        self._write_lock = threading.Lock()
        self._path = path
        self._check = check
        self._fd = open_file(path, UPDATE | os.O_CREAT)
        stored = os.pread(self._fd, 64, 0).split(b"\n", 1)[0].decode("ascii", "replace")
        floor_ms = int(stored) if is_event_id(f"{stored}-0000") else 0
        self._last = max(place(floor), floor_ms * PER_MILLISECOND)
        self._ceiling_ms = 0
        self._renewing = False

    @property
    def last(self) -> EventId:
        """The highest id that may have been given."""
        return event_id(self._last)

    def next(self) -> EventId:
        """
        Give the next id.

        Raises:
            OSError: The ceiling had to be moved and the disk refused.
        """
        number = max(self._now_ms() * PER_MILLISECOND, self._last + 1)
        milliseconds = number // PER_MILLISECOND
        if milliseconds >= self._ceiling_ms - LEASE_MS // 2:
            if milliseconds >= self._ceiling_ms:
                self._raise_ceiling(milliseconds + LEASE_MS)
            elif not self._renewing:
                self._renewing = True
                self._executor.submit(self._renew, milliseconds + LEASE_MS)
        self._last = number
        return event_id(number)

    def raise_to(self, number: int) -> None:
        """Give no id at or below this place any more: a file from elsewhere holds it."""
        self._last = max(self._last, number)

    def renew(self) -> None:
        """
        Move the ceiling a little, to see that the disk takes it.

        Raises:
            OSError: It does not.
        """
        self._raise_ceiling(max(self._ceiling_ms, self._last // PER_MILLISECOND) + 1)

    def close(self) -> None:
        """Write the exact place, so that the next start goes on from there, and let go."""
        with self._write_lock:
            if self._fd >= 0:
                try:
                    self._write(self._last // PER_MILLISECOND + 1)
                finally:
                    os.close(self._fd)
                    self._fd = -1

    def _renew(self, ceiling_ms: int) -> None:
        try:
            self._raise_ceiling(ceiling_ms)
        finally:
            self._renewing = False

    def _raise_ceiling(self, ceiling_ms: int) -> None:
        with self._write_lock:
            if self._fd >= 0 and ceiling_ms > self._ceiling_ms:
                self._write(ceiling_ms)
                self._ceiling_ms = ceiling_ms

    def _write(self, milliseconds: int) -> None:
        if os.fstat(self._fd).st_nlink == 0:
            self._check()
            fd = open_file(self._path, UPDATE | os.O_CREAT)
            os.close(self._fd)
            self._fd = fd
        # Fourteen bytes in the file's first sector: they reach the disk whole or not at all.
        os.pwrite(self._fd, b"%013d\n" % milliseconds, 0)
        os.fdatasync(self._fd)
