"""
A user's conversations as a list, read from the ends of their files; unchanged files are not reread.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from chatstream.events import EventId, Json, time_of
from chatstream.log.files import lookup
from chatstream.log.files.copies import Copies, first_record, is_foreign
from chatstream.log.files.disk import Disk
from chatstream.log.files.line_io import committed_size
from chatstream.log.files.opening import open_file
from chatstream.log.files.paths import conversation_files

TITLE_CHARS = 60
ENTRIES_IN_MEMORY = 20_000


class Foreign(ValueError):
    """A file is not the conversation that its name says."""


class Entry(NamedTuple):
    """One conversation of a list. `last_id` orders it."""

    conversation_id: str
    title: str
    updated_at: str
    turns: int
    last_id: EventId


_State = tuple[int, int, int]
_Known = tuple[_State, Entry | None]
_Found = dict[Path, _Known]


class Listing:
    """Reads lists on threads; remembers entries while their files stay as they are, in a bound."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._known: OrderedDict[Path, _Known] = OrderedDict()

    async def read(self, user_id: str, shown: Mapping[Path, int]) -> list[Entry]:
        """
        Return a user's conversations, newest first. Damaged files are left out.

        `shown` has, for files that are being written, how much of them may be shown.
        """
        folder = self._disk.folder.user(user_id)
        known = {path: self._known[path] for path in list(self._known) if path.parent == folder}
        found = await self._disk.run(partial(_read, folder, known, shown, self._disk.copies))
        self._known.update(found)
        while len(self._known) > ENTRIES_IN_MEMORY:
            self._known.popitem(last=False)
        entries = [entry for _, entry in found.values() if entry is not None]
        return sorted(entries, key=lambda entry: entry.last_id, reverse=True)


def _read(
    folder: Path, known: Mapping[Path, _Known], shown: Mapping[Path, int], copies: Copies
) -> _Found:
    found: _Found = {}
    foreign: list[Path] = []
    refused: OSError | None = None
    for path in conversation_files(folder):
        try:
            about = path.stat(follow_symlinks=False)
            size = min(about.st_size, shown.get(path, about.st_size))
            state = about.st_ino, about.st_mtime_ns, size
            before = known.get(path)
            found[path] = (
                before if before and before[0] == state else (state, read_entry(path, size))
            )
        except Foreign:
            foreign.append(path)
            found[path] = state, None
        except FileNotFoundError:
            continue
        except OSError as error:
            refused = error
        except (LookupError, TypeError, ValueError):
            continue
    copies.tell(foreign)
    if refused is not None and not found:
        raise refused  # a list that cannot be read is not an empty list
    return found


def read_entry(path: Path, upto: int | None = None) -> Entry | None:
    """
    Return what a list says of a file (up to `upto`), from its first lines and its last.

    Raises:
        Foreign: It is a copy of another conversation's.
        OSError: It cannot be read.
    """
    fd = open_file(path)
    try:
        size = committed_size(fd, upto)
        first = first_record(fd, size) if size else None
        if is_foreign(first, path):
            raise Foreign(path.name)
        last = next(lookup.records_back(fd, size, 4096), None)
        data: Json | None = last.data if last else first
        if data is None:
            return None
        return Entry(
            conversation_id=data["conversation_id"],
            title=_title(fd, size, data.get("titled")),
            updated_at=time_of(data["id"]),
            turns=data.get("turns", 0),
            last_id=data["id"],
        )
    finally:
        os.close(fd)


def _title(fd: int, size: int, titled: EventId | None) -> str:
    if titled and (renamed := lookup.line_at(fd, size, titled)):
        return str(renamed["title"])
    for event in lookup.first_records(fd, size):
        if event["type"] == "turn.started":
            words = " ".join(event["message"]["content"].split())
            return words if len(words) <= TITLE_CHARS else words[: TITLE_CHARS - 1].rstrip() + "…"
    return ""
