"""
Syncs to disk, off the loop: those of a moment share a few threads and one wake-up of the loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

logger = logging.getLogger(__name__)

THREADS = 4
"""Disks take several syncs at once; beyond a few threads they only wait for each other."""

Job = Callable[[], None]
Done = Callable[[OSError | None], None]


class Syncer:
    """
    Runs jobs on a few threads and reports their ends to the loop, in batches.

    `submit` belongs to the loop's thread. Jobs may end in any order. No end is ever lost: an
    unforeseen error of a job arrives as an `OSError`, and a job that comes after `close` is done
    at once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="chatstream-sync")
        self._waiting: deque[tuple[Job, Done]] = deque()
        self._ended: deque[tuple[Done, OSError | None]] = deque()
        self._working = 0
        self._told = False
        self._closed = False

    def submit(self, job: Job, done: Done) -> None:
        """Run `job` on a thread, then `done` on the loop, with the job's error or None."""
        if self._closed:
            _tell(done, _run(job))
            return
        self._waiting.append((job, done))
        if self._working < THREADS:
            self._working += 1
            self.executor.submit(self._work)

    def close(self) -> None:
        """Wait for the jobs under way, and for those that their ends submit; report every end."""
        self.executor.shutdown(wait=True)
        self._closed = True
        self._tell_ended()
        while self._waiting:
            job, done = self._waiting.popleft()
            _tell(done, _run(job))

    def _work(self) -> None:
        while True:
            try:
                job, done = self._waiting.popleft()
            except IndexError:
                break
            self._ended.append((done, _run(job)))
            self._wake()
        self._loop.call_soon_threadsafe(self._leave)

    def _wake(self) -> None:
        # Two threads may both see False: the second wake-up finds nothing to report.
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._tell_ended)

    def _leave(self) -> None:
        self._working -= 1
        # A job may have come between the thread's last look and now.
        if self._waiting and self._working < THREADS and not self._closed:
            self._working += 1
            self.executor.submit(self._work)

    def _tell_ended(self) -> None:
        self._told = False
        while self._ended:
            _tell(*self._ended.popleft())


def _run(job: Job) -> OSError | None:
    try:
        job()
    except OSError as error:
        return error
    except Exception:
        logger.exception("sync job failed")
        return OSError(errno.EIO, "sync job failed")
    return None


def _tell(done: Done, error: OSError | None) -> None:
    try:
        done(error)
    except Exception:
        # One conversation's error must not keep the others waiting.
        logger.exception("end of a sync not taken")


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
