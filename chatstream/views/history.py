"""
The past of a conversation, read from the end of its file: pages of history.

A turn that `replaces` another takes it, and every turn started between the two, out of view: the
record says where the replaced one started, so one look back over the file knows what is hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import orjson

from chatstream.errors import InvalidRequest
from chatstream.events import EventId, Json, before, is_event_id, status_of
from chatstream.log.files import lookup
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.feedback import Ratings

MAX_PAGE_BYTES = 512 * 1024

NOTHING_HIDDEN = EventId("9999999999999-9999")
_BEFORE = re.compile(r"(\d{13}-\d{4})([mr])(\d{13}-\d{4})", re.ASCII)


class Place(NamedTuple):
    """Where a page ends: at a turn's message (m) or reply (r), and what later turns hide."""

    started_id: EventId
    half: str
    hidden_from: EventId

    def __str__(self) -> str:
        return "".join(self)


class Page(NamedTuple):
    """Messages, oldest first, each encoded; `before` is for the next page."""

    messages: list[orjson.Fragment]
    before: str | None


class Turn(NamedTuple):
    """A turn in view, and from where on turns are hidden: by later turns, and by this one too."""

    started: Json
    terminal: Json | None
    hidden_from: EventId
    hides_from: EventId


def public(record: Json) -> Json:
    """Return a record without our own bookkeeping, which begins with `turns`."""
    shown: Json = {}
    for name, value in record.items():
        if name == "turns":
            break
        shown[name] = value
    return shown


def read_place(text: str | None) -> Place | None:
    """
    Read a page's `before`.

    Raises:
        InvalidRequest: No page gave it.
    """
    if text is None:
        return None
    match = _BEFORE.fullmatch(text)
    if match is None or not is_event_id(match[1]):
        raise InvalidRequest(("before", "must be what an earlier page gave"))
    return Place(EventId(match[1]), match[2], EventId(match[3]))


async def page(
    conversation: Conversation, ratings: Ratings, limit: int, until: Place | None
) -> Page:
    """Return the newest messages before a place: at most `limit` and 512 KiB, at least one."""
    running = frozenset(turn.started_id for turn in conversation.running.values())
    name = conversation.address.conversation_id
    shown = {turn_id: r for (where, turn_id), r in ratings.by_turn.items() if where == name}

    def job(fd: int, size: int) -> Page:
        found: list[orjson.Fragment] = []
        total = 0
        last: Place | None = None
        for at, item in messages(fd, size, until, running):
            rating = shown.get(item["turn_id"]) if item["role"] == "assistant" else None
            item["feedback"] = rating and {"rating": rating.rating, "comments": rating.comments}
            data = orjson.dumps(item)
            total += len(data) + 1
            if found and (len(found) >= limit or total > MAX_PAGE_BYTES):
                return Page(found[::-1], str(last))
            found.append(orjson.Fragment(data))
            last = at
        return Page(found[::-1], None)

    return await conversation.with_file(job)


def messages(
    fd: int, size: int, until: Place | None, running: frozenset[EventId]
) -> Iterator[tuple[Place, Json]]:
    """Yield the messages in view before a place, newest first, each with its own place."""
    hidden_from = until.hidden_from if until else NOTHING_HIDDEN
    for started, terminal, hidden, hides in turns_back(fd, size, until, hidden_from):
        status = (
            status_of(terminal["type"])
            if terminal
            else ("running" if started["id"] in running else "interrupted")
        )
        replied = until is not None and started["id"] == until.started_id and until.half == "r"
        if terminal is not None and terminal.get("text") and not replied:
            yield Place(started["id"], "r", hidden), _reply(started, terminal, status)
        yield Place(started["id"], "m", hides), _message(started, terminal, status)


def turns_back(fd: int, size: int, until: Place | None, hidden_from: EventId) -> Iterator[Turn]:
    """Yield the turns in view, newest first."""
    ends: dict[str, Json] = {}
    end = size
    if until is not None:
        # From the last page's turn on: with it where its message is still to come.
        after = until.started_id if until.half == "r" else before(until.started_id)
        end = lookup.offset_after(fd, size, after)
        ends = _ends_after(fd, end, size)
    for record in lookup.records_back(fd, end):
        data = record.data
        if data["type"] == "turn.started":
            hides_from = min(hidden_from, data.get("replaced_id", NOTHING_HIDDEN))
            if data["id"] < hidden_from:
                yield Turn(data, ends.pop(data["turn_id"], None), hidden_from, hides_from)
            hidden_from = hides_from
        elif data["type"] == "history.cleared":
            return
        elif "started_id" in data:
            ends.setdefault(data["turn_id"], data)


def _ends_after(fd: int, end: int, size: int) -> dict[str, Json]:
    """Return the ends, behind a place, of the turns that were running at that place."""
    last = next(lookup.records_back(fd, end), None)
    missing = set(last.data.get("running") or ()) if last else set()
    found: dict[str, Json] = {}
    after = last.data["id"] if last else EventId("0")
    offset: int | None = end
    while missing and (events := lookup.slice_after(fd, size, after, NOTHING_HIDDEN, offset))[0]:
        for event in events[0]:
            if event.type != "turn.started" and event.turn_id:
                data = orjson.loads(event.json)
                missing.discard(data.get("started_id"))
                found[event.turn_id] = data
        after, offset = events[0][-1].id, events[1]
    return found


def _message(started: Json, terminal: Json | None, status: str) -> Json:
    item: Json = {
        "role": "user",
        "message": started["message"]["content"],
        "turn_id": started["turn_id"],
        "id": started["id"],
        "timestamp": started["created_at"],
        "status": status,
        "provider": None,
        "model": None,
        "usage": None,
        "finish_reason": None,
    }
    if "replaces" in started:
        item["replaces"] = started["replaces"]
    if terminal is not None and "error" in terminal:
        item["error"] = terminal["error"]
    return item


def _reply(started: Json, terminal: Json, status: str) -> Json:
    item: Json = {
        "role": "assistant",
        "message": terminal["text"],
        "turn_id": started["turn_id"],
        "id": terminal["id"],
        "timestamp": terminal.get("ended_at"),
        "status": status,
        "provider": terminal.get("provider"),
        "model": terminal.get("model"),
        "usage": terminal.get("usage"),
        "finish_reason": terminal.get("finish_reason"),
    }
    if terminal.get("reasoning"):
        item["reasoning"] = terminal["reasoning"]
    return item
