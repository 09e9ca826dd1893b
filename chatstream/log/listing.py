"""
A user's conversations as a list: read from the ends of their files, with what did not change kept.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from chatstream.events import EventId, place, timestamp
from chatstream.log import records
from chatstream.log.disk import Disk
from chatstream.log.folder import conversation_files
from chatstream.log.records import Json

TITLE_CHARS = 60
ENTRIES_IN_MEMORY = 20_000


class Entry(NamedTuple):
    """One conversation of a list. `last_id` orders it."""

    conversation_id: str
    title: str
    updated_at: str
    turns: int
    last_id: EventId


class Listing:
    """Reads lists on a thread; remembers entries by their file's size and time, in a bound."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._known: OrderedDict[tuple[Path, int, int], Entry | None] = OrderedDict()

    async def read(self, user_id: str) -> list[Entry]:
        """Return a user's conversations, newest first. Damaged files are left out."""
        return await self._disk.run(partial(self._read, self._disk.folder.user(user_id)))

    def _read(self, folder: Path) -> list[Entry]:
        entries = [self._entry(path) for path in conversation_files(folder)]
        return sorted((e for e in entries if e), key=lambda e: e.last_id, reverse=True)

    def _entry(self, path: Path) -> Entry | None:
        try:
            found = path.stat()
            key = path, found.st_mtime_ns, found.st_size
            if key not in self._known:
                self._known[key] = read_entry(path)
                while len(self._known) > ENTRIES_IN_MEMORY:
                    self._known.popitem(last=False)
            return self._known[key]
        except (OSError, KeyError):
            return None


def read_entry(path: Path) -> Entry | None:
    """Return what a list says of a file, from its first lines and its last."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = records.committed_size(fd)
        header = records.parse(records.first_line(fd, size))
        if header is None or header["type"] != "log":
            return None
        last = next(records.records_back(fd, size, 4096), None)
        data: Json = last.data if last else header
        return Entry(
            conversation_id=header["conversation_id"],
            title=_title(fd, size, data.get("titled")),
            updated_at=timestamp(place(data["id"]) // 10_000),
            turns=data.get("turns", 0),
            last_id=data["id"],
        )
    finally:
        os.close(fd)


def _title(fd: int, size: int, titled: EventId | None) -> str:
    if titled and (renamed := records.line_at(fd, size, titled)):
        return str(renamed["title"])
    for event in records.first_records(fd, size):
        if event["type"] == "turn.started":
            words = " ".join(event["message"]["content"].split())
            return words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1].rstrip() + "…"
    return ""
