"""
Erasures that a process began and did not end: found as intents, and carried out at the next start.

Blocking, for a thread, before anybody reads or writes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import orjson

from chatstream.events import Address, EventId, Json, envelope, is_event_id
from chatstream.log.files import records
from chatstream.log.files.copies import remove_copies
from chatstream.log.files.intents import (
    Intent,
    Scope,
    finish_intent,
    remove_conversation,
    remove_user,
)
from chatstream.log.files.opening import opener, read_file
from chatstream.log.files.paths import Folder, is_folder, live_files, put

logger = logging.getLogger(__name__)


def read_intent(path: Path) -> Intent | None:
    """
    Return what is to be erased; None where that cannot be told.

    Raises:
        OSError: It cannot be read.
    """
    try:
        intent: Intent = orjson.loads(read_file(path))
        names = intent["user_id"], intent["conversation_id"]
        is_whole = intent["scope"] in get_args(Scope) and is_event_id(intent["id"])
        if not (is_whole and all(isinstance(name, str) for name in names)):
            raise ValueError(intent["scope"])  # nothing is erased on a guess
    except (ValueError, KeyError, TypeError):
        logger.error("unreadable intent", extra={"file": path.name})
        return None
    return intent


def carry_out(folder: Folder, intent: Intent) -> None:
    """
    Erase what an intent names and is not younger than it, and forget the intent.

    Raises:
        OSError: It is not erased; the next start tries again.
    """
    scope, identifier = intent["scope"], intent["id"]
    address = Address(intent["user_id"], intent["conversation_id"])
    if scope == "user":
        if _older(folder.user(intent["user_id"]), identifier):
            remove_user(folder, intent)
    elif scope == "conversation":
        conversation = folder.conversation(address)
        created = _created(conversation)
        if created is None or created <= identifier:
            remove_conversation(conversation)
    else:
        _clear(folder.conversation(address), address, identifier)
    finish_intent(folder, intent)
    logger.warning("finished an erasure", extra={"scope": scope})


def _older(user: Path, identifier: EventId) -> bool:
    """Return whether a user's folder is the one that the intent means, not one made after it."""
    if not is_folder(user):
        return False
    created = [_created(entry) for entry in user.iterdir()]
    return all(first is None or first <= identifier for first in created)


def _created(path: Path) -> EventId | None:
    """Return a log's beginning; None where there is none that says."""
    try:
        with open(path, "rb", opener=opener) as file:
            record = records.parse(file.readline())
    except FileNotFoundError:
        return None
    return record["id"] if record is not None else EventId("0000000000000-0000")


def _clear(path: Path, address: Address, upto: EventId) -> None:
    for live in live_files(path):
        if live.name.split(".")[1] <= upto:
            live.unlink(missing_ok=True)
    for name in (".aside", ".corrupt"):
        path.with_suffix(name).unlink(missing_ok=True)
    if is_folder(path.parent):
        remove_copies(path)
    try:
        lines = read_file(path).split(b"\n")[:-1]
    except FileNotFoundError:
        return
    parsed = [(line, records.parse(line)) for line in lines]
    later = [(line, record) for line, record in parsed if record and _later(record, upto)]
    kept = [line for line, _ in later]
    header = next((r for _, r in parsed if r and r["type"] == "log"), None)
    if len(kept) + 1 == len(lines) and header is not None:
        return
    created = header["id"] if header else upto
    data = records.header(address, created, header.get("created_at", "") if header else "")
    if not any(record["type"] == "history.cleared" for _, record in later):
        # The clear had not told anybody yet: readers that come back learn of it here.
        event = envelope("history.cleared", upto, address.conversation_id)
        kept.insert(0, records.line(event, {"turns": 0, "running": []})[1][:-1])
    put(path, data + b"".join(line + b"\n" for line in kept), path.with_suffix(".aside"))


def _later(record: Json, upto: EventId) -> bool:
    """Return whether a record and its turn came after a clear."""
    return record["id"] > upto and str(record.get("started_id", record["id"])) > upto
