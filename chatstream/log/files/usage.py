"""
The usage of a user's turns, by day and model: a sum over files, each counted once and kept.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from chatstream.detached import Detached
from chatstream.log.files.copies import Copies
from chatstream.log.files.disk import Disk
from chatstream.log.files.paths import conversation_names
from chatstream.log.files.usage_file import SLICE, Count, Counts, UsageFile

CELLS_IN_MEMORY = 50_000
"""Files, and the days and models of each, that are kept: some 20 MB. Users read longest ago go."""

Shown = Callable[[], Mapping[str, int]]
_Files = dict[str, UsageFile]


class _Found(NamedTuple):
    """What was asked for, and how much is kept of the user for the next time."""

    counts: Counts
    weight: int


class Usage:
    """Counts on threads, one slice at a time: however much there is to read, others get theirs."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._known: OrderedDict[str, _Files] = OrderedDict()
        self._weights: dict[str, int] = {}
        self._weight = 0
        self._reading = asyncio.Lock()
        self._counting = Detached()

    async def read(self, user_id: str, shown: Shown, first: str, last: str) -> Counts:
        """
        Return the usage of a user's turns that ended on these days, both included.

        `shown` says of the files in use, by name, how much of them may be shown. Files that cannot
        be read are left out.
        """
        files = self._known.setdefault(user_id, {})
        self._known.move_to_end(user_id)
        found: _Found | None = None
        try:
            while found is None:
                # A caller that leaves must not open the lock while its thread still counts.
                work = self._slice(user_id, files, shown, first, last)
                found = await self._counting.run(work)
        finally:
            if self._known.get(user_id) is files:
                self._weigh(user_id, found.weight if found else 0)
        while self._weight > CELLS_IN_MEMORY:
            self.forget(next(iter(self._weights)))
        return found.counts

    def forget(self, user_id: str) -> None:
        """Keep nothing of a user."""
        self._known.pop(user_id, None)
        self._weigh(user_id, 0)

    def _weigh(self, user_id: str, weight: int) -> None:
        # The one that is weighed last is the last to go.
        self._weight += weight - self._weights.pop(user_id, 0)
        if weight:
            self._weights[user_id] = weight
        else:
            self._known.pop(user_id, None)

    async def _slice(
        self, user_id: str, files: _Files, shown: Shown, first: str, last: str
    ) -> _Found | None:
        folder = self._disk.folder.user(user_id)
        async with self._reading:
            job = partial(_count, folder, files, shown(), first, last, self._disk.copies)
            return await self._disk.run(job)


def _count(
    folder: Path,
    files: _Files,
    shown: Mapping[str, int],
    first: str,
    last: str,
    copies: Copies,
) -> _Found | None:
    """Count on, for a slice; returns the sum, or None where there is more to read."""
    refused: OSError | None = None
    names = conversation_names(folder)
    for gone in files.keys() - set(names):
        del files[gone]
    room = SLICE
    for name in names:
        try:
            path = os.path.join(folder, name)
            about = os.stat(path, follow_symlinks=False)
            size = min(about.st_size, shown.get(name, about.st_size))
            state = about.st_ino, about.st_mtime_ns, size
            file = files.get(name)
            if file is None:
                file = files[name] = UsageFile()
            elif file.state == state:
                continue
            room -= file.read_on(path, state)
        except OSError as error:
            files.pop(name, None)
            refused = None if isinstance(error, FileNotFoundError) else error
            continue
        if file.state is None or room <= 0:
            return None
    copies.tell(folder / name for name, file in files.items() if file.foreign)
    if refused is not None and not files:
        raise refused  # that nothing can be read does not mean that there is nothing
    weight = sum(1 + len(file.counts) for file in files.values())
    return _Found(_sum(files.values(), first, last), weight)


def _sum(files: Iterable[UsageFile], first: str, last: str) -> Counts:
    total: Counts = {}
    for file in files:
        for kind, count in file.counts.items():
            if first <= kind.day <= last:
                if kind not in total:
                    total[kind] = Count()
                total[kind].add(count)
    return total
