"""
The vocabulary of a conversation: ids, addresses, event types. Values, no I/O.

An `EventId` is an event's place, `<ms>-<n>`: 13 digits, a dash, 4 digits. Two ids compare as
strings in the order in which they were given (`protocol.md`, section 1).
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, NewType

import orjson

EventId = NewType("EventId", str)
TurnId = NewType("TurnId", str)

Json = dict[str, Any]
"""A JSON object that was read, or is to be written."""

BEGINNING = EventId("0")
"""The cursor before every event; it compares below every id."""

PER_MILLISECOND = 10_000
"""Ids in one millisecond: what four digits can count."""

TerminalType = Literal["turn.completed", "turn.failed", "turn.cancelled", "turn.interrupted"]
TurnStatus = Literal["running", "completed", "failed", "cancelled", "interrupted"]
_STATUSES: dict[str, TurnStatus] = {
    "turn.completed": "completed",
    "turn.failed": "failed",
    "turn.cancelled": "cancelled",
    "turn.interrupted": "interrupted",
}
TERMINAL_TYPES = frozenset(_STATUSES)
DeltaKind = Literal["text", "reasoning"]

# An id from the last years that 13 digits can count (2255 to 2286) is damage: the clock of the
# data folder would go on from that id, and soon have no digits left.
_ID = re.compile(r"[0-8][0-9]{12}-[0-9]{4}", re.ASCII)


class Address(NamedTuple):
    """One conversation of one user. Two addresses compare byte for byte."""

    user_id: str
    conversation_id: str


def is_event_id(text: str) -> bool:
    """Return whether `text` has the form of an id, given or not."""
    return _ID.fullmatch(text) is not None


def event_id(number: int) -> EventId:
    """
    Make the id of a place given as a number, `ms * 10,000 + n`.

    >>> event_id(1764000000000 * 10_000 + 7)
    '1764000000000-0007'
    """
    milliseconds, count = divmod(number, PER_MILLISECOND)
    return EventId(f"{milliseconds:013d}-{count:04d}")


def place(identifier: str) -> int:
    """
    Return an id's place as a number; the beginning is 0.

    >>> place("1764000000000-0007") - place("1764000000000-0000")
    7
    """
    if identifier == BEGINNING:
        return 0
    return int(identifier[:13]) * PER_MILLISECOND + int(identifier[14:])


def before(identifier: EventId) -> EventId:
    """
    Return the id just before another: a cursor from which that event comes first.

    >>> before(EventId("1764000000001-0000"))
    '1764000000000-9999'
    """
    return event_id(place(identifier) - 1)


def timestamp(milliseconds: int) -> str:
    """
    Write a time as RFC 3339, UTC, milliseconds.

    >>> timestamp(1764000000123)
    '2025-11-24T16:00:00.123Z'
    """
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def time_of(identifier: str) -> str:
    """
    Return when an id was given, as `timestamp` writes it.

    >>> time_of("1764000000123-0007")
    '2025-11-24T16:00:00.123Z'
    """
    return timestamp(place(identifier) // PER_MILLISECOND)


def envelope(kind: str, identifier: EventId, conversation_id: str) -> Json:
    """Return what every event begins with."""
    return {"type": kind, "id": identifier, "conversation_id": conversation_id}


def terminal_fields(
    *,
    ended_at: str | None,
    usage: Json | None = None,
    provider: str | None = None,
    model: str | None = None,
    ttft_ms: int | None = None,
    duration_ms: int | None = None,
) -> Json:
    """Return what every terminal event says besides its text; what is not known is null."""
    return {
        "usage": usage,
        "provider": provider,
        "model": model,
        "ended_at": ended_at,
        "ttft_ms": ttft_ms,
        "duration_ms": duration_ms,
    }


def status_of(event_type: str) -> TurnStatus:
    """
    Return the turn's status after a terminal event of this type; a damaged one interrupts it.

    >>> status_of("turn.failed"), status_of("turn.fai1ed")
    ('failed', 'interrupted')
    """
    return _STATUSES.get(event_type, "interrupted")


def kept(event: Mapping[str, object]) -> bytes:
    """Encode an event that waits in memory; `orjson` itself returns 4 KiB at least, or 64."""
    return bytes(memoryview(orjson.dumps(event)))


def new_turn_id() -> str:
    """Return an id that no other turn has: a UUIDv7 (RFC 9562, section 5.7), sorted by time."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    number &= ~(0xF << 76) & ~(0x3 << 62)
    return str(uuid.UUID(int=number | 0x7 << 76 | 0x2 << 62))
