"""Work that goes on to its end where the caller who began it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Detached:
    """Tasks of their own; they are held here, since a loop holds no task. For one loop's thread."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work, and return its task: to be shielded by those who wait for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what comes of the work; it goes on where this call is cancelled."""
        return await asyncio.shield(self.begin(work))

    async def settle(self) -> None:
        """Wait for the end of all that was begun."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the callers that are left have it too
