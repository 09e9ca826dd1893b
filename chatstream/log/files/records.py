"""
The lines of a conversation's file: how they are written, and how they are read back.

One JSON object a line; its newline is the commit mark. The public event comes first and our own
bookkeeping from `turns` on, so that the event as clients see it is a slice of the line. Every
function reads a file descriptor at places that it is given; damaged lines are passed over, and
each is reported once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import orjson

from chatstream.events import (
    TERMINAL_TYPES,
    Address,
    EventId,
    Json,
    TurnId,
    before,
    is_event_id,
    kept,
)
from chatstream.log.files.line_io import BLOCK, line_around, lines_back

logger = logging.getLogger(__name__)

VERSION = 1

# In a string every quote is escaped, so these bytes stand only between two fields.
_BOOKKEEPING = b',"turns":'
_STARTED = b'{"type":"turn.started"'
_REPLACES = b',"replaces":'

# What others read of a record without asking whether it is there. A bit that fell over in a name
# leaves good JSON, and a line that is bad all the same.
_TEXTS: dict[str, tuple[str, ...]] = {
    "log": ("user_id", "conversation_id"),
    "turn.started": ("turn_id", "conversation_id", "created_at"),
    "turn.answering": ("turn_id",),
    "delta": ("turn_id", "text"),
    "conversation.renamed": ("title",),
} | dict.fromkeys(TERMINAL_TYPES, ("turn_id", "started_id"))
# What they read where it is there.
_KINDS: tuple[tuple[str, type], ...] = (
    *(("turns", int), ("running", list), ("request", dict), ("replaces", str)),
    *(("text", str), ("reasoning", str)),
)
_IDS = ("titled", "replaced_id")


class Encoded(NamedTuple):
    """
    An event ready to be sent: its place, its turn, its type, and its JSON without newline.

    Attributes:
        by_clear: It is the end of a turn that a clear has ended: `history.cleared` follows.
    """

    id: EventId
    turn_id: TurnId | None
    type: str
    json: bytes
    by_clear: bool = False

    @classmethod
    def of(cls, event: Json, json: bytes) -> Encoded:
        """Return an event that was encoded as `json`."""
        cleared = event.get("reason") == "cleared"
        return cls(event["id"], event.get("turn_id"), event["type"], json, cleared)


class Opening(NamedTuple):
    """A running turn's `turn.started`, and our own fields of it."""

    id: EventId
    event: Json
    own: Json


class Record(NamedTuple):
    """A permanent record as it lies in a file: where it begins and ends, and what it says."""

    start: int
    end: int
    data: Json


def header(address: Address, identifier: EventId, created_at: str) -> bytes:
    """Return a new log's first line; its id is the log's creation."""
    return (
        orjson.dumps(
            {
                "type": "log",
                "version": VERSION,
                "id": identifier,
                "user_id": address.user_id,
                "conversation_id": address.conversation_id,
                "created_at": created_at,
            }
        )
        + b"\n"
    )


def line(event: Json, bookkeeping: Json) -> tuple[bytes, bytes]:
    """Return an event's JSON for clients, and its line for the file."""
    public = kept(event)
    return public, line_of(public, bookkeeping)


def line_of(public: bytes, bookkeeping: Json) -> bytes:
    """Return the line for the file of an event that is encoded (`turns` comes first)."""
    return public[:-1] + b"," + orjson.dumps(bookkeeping)[1:] + b"\n"


def public_json(data: bytes) -> bytes:
    """Return the event of a line as clients see it."""
    cut = data.rfind(_BOOKKEEPING)
    return data if cut < 0 else data[:cut] + b"}"


def parse(data: bytes) -> Json | None:
    """Return what a line says, or None where it is not a record (damaged, or of another kind)."""
    try:
        record = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return None
    return record if is_event_id(str(record.get("id"))) and _is_whole(record) else None


def _is_whole(record: Json) -> bool:
    kind = record["type"]
    if not _has_texts(record, _TEXTS.get(kind, ())):
        return False
    for name, form in _KINDS:
        if name in record and type(record[name]) is not form:
            return False
    for name in _IDS:
        if name in record and not is_event_id(str(record[name])):
            return False
    if not all(isinstance(started_id, str) for started_id in record.get("running", ())):
        return False
    if "error" in record:
        error = record["error"]
        return isinstance(error, dict) and _has_texts(error, ("code", "message"))
    if kind == "turn.started":
        message = record.get("message")
        return isinstance(message, dict) and isinstance(message.get("content"), str)
    if kind == "feedback":
        return isinstance(record.get("rating"), int)
    return True


def _has_texts(given: Json, names: tuple[str, ...]) -> bool:
    return all(isinstance(given.get(name), str) for name in names)


def encoded(data: bytes) -> Encoded | None:
    """Return a line as an event to send; None for a header and for a damaged line."""
    record = parse(data)
    if record is None or record["type"] == "log":
        return None
    return Encoded.of(record, public_json(data))


def records_back(fd: int, end: int, block: int = BLOCK) -> Iterator[Record]:
    """Yield the permanent records before `end`, newest first; damaged lines are passed over."""
    for start, data in lines_back(fd, end, block):
        record = parse(data)
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
        record = parse(data)
        while record is None and start + len(data) + 1 < high:
            start, data = line_around(fd, start + len(data) + 1, size)
            record = parse(data)
        if record is None or record["id"] > after:
            high = line_around(fd, middle, size)[0]
        else:
            low = start + len(data) + 1
    return low


def slice_after(
    fd: int, size: int, after: str, upto: str, offset: int | None, limit: int = BLOCK
) -> tuple[list[Encoded], int]:
    """
    Return the events above `after` and not above `upto`, oldest first, and where to go on.

    Stops once `limit` bytes are found: at least one event where there is one. `offset` is what an
    earlier call returned, or None to look the place up.
    """
    found: list[Encoded] = []
    place = offset_after(fd, size, after) if offset is None else offset
    total = 0
    rest = b""
    while place + len(rest) < size and total < limit:
        data = rest + os.pread(fd, min(BLOCK, size - place - len(rest)), place + len(rest))
        if len(data) == len(rest):
            break
        *whole, rest = data.split(b"\n")
        for text in whole:
            event = encoded(text)
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
        record = parse(line_data)
        if record is not None and record["type"] != "log":
            yield record


def line_at(fd: int, size: int, identifier: EventId) -> Json | None:
    """Return the record with this id; None where its line is not there or damaged."""
    start = offset_after(fd, size, before(identifier))
    while start < size:
        data = line_around(fd, start, size)[1]
        if (record := parse(data)) is not None:
            return record if record["id"] == identifier else None
        start += len(data) + 1  # a damaged line before it does not hide it
    return None


def turn_ids(fd: int, size: int, most: int) -> list[tuple[str, EventId]]:
    """Return the newest turns, newest first: their ids, and where they start."""
    found: list[tuple[str, EventId]] = []
    for _, data in lines_back(fd, size, 4 * BLOCK):
        if data.startswith(_STARTED) and (record := parse(data)) is not None:
            found.append((record["turn_id"], record["id"]))
            if len(found) >= most:
                break
    return found


def replacements(fd: int, size: int) -> list[tuple[str, str]]:
    """Return the turns that replace another, newest first, each with the one it replaces."""
    found: list[tuple[str, str]] = []
    for _, data in lines_back(fd, size, 4 * BLOCK):
        if _REPLACES in data and data.startswith(_STARTED):
            started = parse(data)
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
            record = parse(data)
            if record is not None and record.get("turn_id") == turn_id:
                found.append(Record(start, start + len(data) + 1, record))
                if record["type"] == "turn.started":
                    return found
    return found
