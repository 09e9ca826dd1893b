"""
Syncs to disk, off the loop: those of a moment share a few threads and one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

THREADS = 4
"""Disks take several syncs at once; beyond a few threads they only wait for each other."""

Job = Callable[[], None]
Done = Callable[[OSError | None], None]


class Syncer:
    """
    Runs jobs on a few threads and tells the loop of their ends, in batches.

    `submit` belongs to the loop's thread. Jobs may end in any order.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="chatstream-sync")
        self._waiting: deque[tuple[Job, Done]] = deque()
        self._ended: deque[tuple[Done, OSError | None]] = deque()
        self._working = 0
        self._told = False

    def submit(self, job: Job, done: Done) -> None:
        """Run `job` on a thread, then `done` on the loop, with the job's error or None."""
        self._waiting.append((job, done))
        if self._working < THREADS:
            self._working += 1
            self.executor.submit(self._work)

    def close(self) -> None:
        """Wait for the jobs under way. What they would have told the loop is told first."""
        self.executor.shutdown(wait=True)
        self._tell()

    def _work(self) -> None:
        while True:
            try:
                job, done = self._waiting.popleft()
            except IndexError:
                break
            error: OSError | None = None
            try:
                job()
            except OSError as caught:
                error = caught
            self._ended.append((done, error))
            self._wake()
        self._loop.call_soon_threadsafe(self._leave)

    def _wake(self) -> None:
        # Two threads may both see False: the second wake-up finds nothing to tell.
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._tell)

    def _leave(self) -> None:
        self._working -= 1
        # A job may have come between the thread's last look and now.
        while self._waiting and self._working < THREADS:
            self._working += 1
            self.executor.submit(self._work)
            if self._working >= len(self._waiting):
                break

    def _tell(self) -> None:
        self._told = False
        while self._ended:
            done, error = self._ended.popleft()
            done(error)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
