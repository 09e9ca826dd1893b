"""
Finding records in a conversation's file: from its end, by an id, by a turn. Blocking: for threads.

Every function reads a file descriptor at places that it is given; damaged lines are passed over,
and each is reported once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import orjson

from chatstream.events import EventId, Json, before
from chatstream.log.files import records
from chatstream.log.files.line_io import BLOCK, line_around, lines_back

logger = logging.getLogger(__name__)

# In a string every quote is escaped, so these bytes stand only between two fields.
_STARTED = b'{"type":"turn.started"'
_REPLACES = b',"replaces":'


class Record(NamedTuple):
    """A permanent record as it lies in a file: where it begins and ends, and what it says."""

    start: int
    end: int
    data: Json


def records_back(fd: int, end: int, block: int = BLOCK) -> Iterator[Record]:
    """Yield the permanent records before `end`, newest first; damaged lines are passed over."""
    for start, data in lines_back(fd, end, block):
        record = records.parse(data)
        if record is None:
            damaged(fd, start)
        elif record["type"] != "log":
            yield Record(start, start + len(data) + 1, record)


def damaged(fd: int, offset: int) -> None:
    """Report a line that is not a record, when it is first read."""
    about = os.fstat(fd)
    _report(about.st_dev, about.st_ino, offset)


@lru_cache(maxsize=10_000)
def _report(device: int, inode: int, offset: int) -> None:
    logger.warning("bad line", extra={"device": device, "inode": inode, "offset": offset})


def offset_after(fd: int, size: int, after: str) -> int:
    """
    Return the offset of the first line whose id is above `after`, by halving.

    Ids rise through a file, so this reads some twenty lines of it, however long it is.
    """
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        start, data = line_around(fd, middle, size)
        record = records.parse(data)
        while record is None and start + len(data) + 1 < high:
            start, data = line_around(fd, start + len(data) + 1, size)
            record = records.parse(data)
        if record is None or record["id"] > after:
            high = line_around(fd, middle, size)[0]
        else:
            low = start + len(data) + 1
    return low


def slice_after(
    fd: int, size: int, after: str, upto: str, offset: int | None, limit: int = BLOCK
) -> tuple[list[records.Encoded], int]:
    """
    Return the events above `after` and not above `upto`, oldest first, and where to go on.

    Stops once `limit` bytes are found: at least one event where there is one. `offset` is what an
    earlier call returned, or None to look the place up.
    """
    found: list[records.Encoded] = []
    place = offset_after(fd, size, after) if offset is None else offset
    total = 0
    rest = b""
    while place + len(rest) < size and total < limit:
        data = rest + os.pread(fd, min(BLOCK, size - place - len(rest)), place + len(rest))
        if len(data) == len(rest):
            break
        *whole, rest = data.split(b"\n")
        for text in whole:
            event = records.encoded(text)
            if event is not None and event.id > upto:
                return found, place
            if event is None and place > 0:
                damaged(fd, place)
            place += len(text) + 1
            if event is not None and event.id > after:
                found.append(event)
                total += len(event.json)
                if total >= limit:
                    return found, place
    return found, place


def first_records(fd: int, size: int, limit: int = BLOCK) -> Iterator[Json]:
    """Yield the permanent records at the beginning of a file, as far as a block holds them."""
    data = os.pread(fd, min(limit, size), 0)
    while data.count(b"\n") < 2 and len(data) < size:
        data += os.pread(fd, min(limit, size - len(data)), len(data))
    for line_data in data.split(b"\n")[:-1]:
        record = records.parse(line_data)
        if record is not None and record["type"] != "log":
            yield record


def line_at(fd: int, size: int, identifier: EventId) -> Json | None:
    """Return the record with this id; None where its line is not there or damaged."""
    start = offset_after(fd, size, before(identifier))
    while start < size:
        data = line_around(fd, start, size)[1]
        if (record := records.parse(data)) is not None:
            return record if record["id"] == identifier else None
        start += len(data) + 1  # a damaged line before it does not hide it
    return None


def turn_ids(fd: int, size: int, most: int) -> list[tuple[str, EventId]]:
    """Return the newest turns, newest first: their ids, and where they start."""
    found: list[tuple[str, EventId]] = []
    for _, data in lines_back(fd, size, 4 * BLOCK):
        if data.startswith(_STARTED) and (record := records.parse(data)) is not None:
            found.append((record["turn_id"], record["id"]))
            if len(found) >= most:
                break
    return found


def replacements(fd: int, size: int) -> list[tuple[str, str]]:
    """Return the turns that replace another, newest first, each with the one it replaces."""
    found: list[tuple[str, str]] = []
    for _, data in lines_back(fd, size, 4 * BLOCK):
        if _REPLACES in data and data.startswith(_STARTED):
            started = records.parse(data)
            if started is not None and started.get("replaces"):
                found.append((started["turn_id"], started["replaces"]))
    return found


def find_turn(fd: int, size: int, turn_id: str) -> list[Record]:
    """
    Return a turn's records, newest first: its terminal event, if it has ended, and its start.

    Searches the bytes from the end: only lines that hold the id are parsed.
    """
    # Quotes inside a string are escaped, so a text cannot forge this.
    needle = b'"turn_id":' + orjson.dumps(turn_id)
    found: list[Record] = []
    for start, data in lines_back(fd, size, 4 * BLOCK):
        if needle in data:
            record = records.parse(data)
            if record is not None and record.get("turn_id") == turn_id:
                found.append(Record(start, start + len(data) + 1, record))
                if record["type"] == "turn.started":
                    return found
    return found
