"""
The order of sight: which events of a conversation may be shown, and when.

Synced and unsynced events share one order. An event is visible once every event with a lower id
is visible or has failed. For the loop's thread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from chatstream.events import EventId
from chatstream.log.files.syncer import Syncer, sync_folder

FOREVER = 10**18
"""A place behind every event."""

Target = int | Path
"""What is to be synced: an open file, or a folder whose names are new."""


class End(NamedTuple):
    """Where a conversation's file ends, and what the next record needs to know of those before."""

    size: int = 0
    turns: int = 0
    titled: EventId | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """
    An event that is written but not yet durable.

    Attributes:
        before: The file's end before it; None for one in a live file.
        tell: Called once it is durable, with None, or with what the disk said.
    """

    place: int
    before: End | None
    targets: tuple[Target, ...]
    tell: Callable[[OSError | None], None]


class Owner(Protocol):
    """Whose events are in order: a journal."""

    def undo(self, end: End | None, error: OSError) -> None:
        """Take back what a failed sync leaves in doubt; `end` is the file's end before it."""
        ...

    def shown(self) -> None:
        """See what may be visible now."""
        ...


class Order:
    """
    Holds back what is not durable, and syncs it: all that waits at once, one sync at a time.

    A failed sync fails everything that waits: the owner's `undo` is called first, then each `tell`.
    `shown` is called after each sync. The owner is known while something waits, and not longer: a
    conversation that is forgotten is freed at once, not when the collector comes by.
    """

    def __init__(self, syncer: Syncer) -> None:
        self._syncer = syncer
        self._owner: Owner | None = None
        self._pending: list[Pending] = []  # empty, a deque takes 0.7 KiB
        self._syncing = False
        self._retired: list[int] = []
        self._drained: asyncio.Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether anything waits for the disk."""
        return self._syncing or bool(self._pending)

    @property
    def next_place(self) -> int:
        """The place of the first event that may not be shown."""
        return self._pending[0].place if self._pending else FOREVER

    def shown_size(self, size: int) -> int:
        """Return how much may be shown of a file of this size."""
        return next((p.before.size for p in self._pending if p.before is not None), size)

    def add(self, pending: Pending, owner: Owner) -> None:
        """Hold an event back until it is synced."""
        self._owner = owner
        self._pending.append(pending)
        self._sync()

    def close(self, fd: int) -> None:
        """Close a file, after the sync that may be using it."""
        self._retired.append(fd)
        if not self._syncing:
            self._close_retired()

    async def drained(self) -> None:
        """Wait until nothing waits for the disk."""
        while self._pending:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    def _sync(self) -> None:
        if self._syncing or not self._pending:
            return
        self._syncing = True
        targets = {target for pending in self._pending for target in pending.targets}
        self._syncer.submit(partial(_sync_all, targets), partial(self._synced, len(self._pending)))

    def _synced(self, count: int, error: OSError | None) -> None:
        self._syncing = False
        owner = self._owner
        assert owner is not None  # it is known as long as something waits
        if error is not None:
            count = len(self._pending)
        done, self._pending = self._pending[:count], self._pending[count:]
        if error is not None:
            owner.undo(next((p.before for p in done if p.before is not None), None), error)
        for pending in done:
            pending.tell(error)
        self._close_retired()
        self._sync()
        if self._drained is not None and not self._pending:
            self._drained.set_result(None)
            self._drained = None
        if not self._pending:
            self._owner = None
        owner.shown()

    def _close_retired(self) -> None:
        for fd in self._retired:
            os.close(fd)
        self._retired.clear()


def _sync_all(targets: Iterable[Target]) -> None:
    for target in targets:
        if isinstance(target, int):
            os.fdatasync(target)
        else:
            sync_folder(target)
