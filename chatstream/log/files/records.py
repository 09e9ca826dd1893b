"""
The lines of a conversation's file: how one is written, and how it is understood.

One JSON object a line; its newline is the commit mark. The public event comes first and our own
bookkeeping from `turns` on, so that the event as clients see it is a slice of the line.
"""

from __future__ import annotations

from typing import NamedTuple

import orjson

from chatstream.events import (
    TERMINAL_TYPES,
    Address,
    EventId,
    Json,
    TurnId,
    is_event_id,
    kept,
)

VERSION = 1

# In a string every quote is escaped, so these bytes stand only between two fields.
_BOOKKEEPING = b',"turns":'

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
