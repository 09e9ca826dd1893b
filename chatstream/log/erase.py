"""
Clear and erase: what was cleared is in no file and cannot be read, whatever dies when.

An intent is durable before anything is removed and is finished by recovery; it erases only what
is not above its own id, so a start that came later is never lost. Rewrites go through `aiofiles`:
they are off every hot path.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict

import aiofiles
import aiofiles.os
import orjson

from chatstream.errors import StorageFailed
from chatstream.events import Address, EventId, place, timestamp
from chatstream.log import records
from chatstream.log.conversation import Conversation
from chatstream.log.disk import Disk
from chatstream.log.file_state import FileState
from chatstream.log.folder import Folder, live_files
from chatstream.log.live_turn import LiveTurn
from chatstream.log.records import Encoded, Json
from chatstream.log.syncer import sync_folder

logger = logging.getLogger(__name__)

Scope = Literal["clear", "conversation", "user"]


class Intent(TypedDict):
    """What is to be erased: everything up to `id` in this place."""

    id: EventId
    scope: Scope
    user_id: str
    conversation_id: str


async def clear(conversation: Conversation, write_intent: Callable[[Intent], None]) -> None:
    """
    Erase a conversation's events; its log goes on after a `history.cleared`.

    One without a file is left as it is, and no file is made.

    Raises:
        StorageFailed: Nothing is known to be erased; running turns were cancelled.
    """
    turns = await conversation.shut()
    if conversation.created is None:
        conversation.reopen(None, turns, [])
        return
    created = conversation.created
    await _erase(conversation, turns, "clear", write_intent, partial(_rewrite, created=created))


async def erase(conversation: Conversation, write_intent: Callable[[Intent], None]) -> None:
    """
    Erase a conversation, its file included; open streams are told as by `clear`.

    Raises:
        StorageFailed: As `clear`.
    """
    turns = await conversation.shut()
    await _erase(conversation, turns, "conversation", write_intent, _remove)


async def _erase(
    conversation: Conversation,
    turns: list[LiveTurn],
    scope: Scope,
    write_intent: Callable[[Intent], None],
    change: Callable[[Conversation, Encoded], Awaitable[FileState]],
) -> None:
    state: FileState | None = None
    events: list[Encoded] = []
    disk = conversation.disk
    try:
        intent = Intent(
            id=disk.clock.next(),
            scope=scope,
            user_id=conversation.address.user_id,
            conversation_id=conversation.address.conversation_id,
        )
        events = farewell(conversation, turns)
        await disk.run(partial(write_intent, intent))
        state = await change(conversation, events[-1])
        await disk.run(partial(finish_intent, disk.folder, intent))
    except OSError as error:
        logger.error("erasing failed", extra={"errno": error.errno})
        raise StorageFailed("The history could not be erased.") from error
    finally:
        conversation.reopen(state, turns, events)


def farewell(conversation: Conversation, turns: list[LiveTurn]) -> list[Encoded]:
    """Make the events that tell of it: each running turn's end, and `history.cleared`."""
    clock = conversation.disk.clock
    events = []
    for turn in turns:
        identifier = clock.next()
        fields: Json = {
            "turn_id": turn.turn_id,
            "started_id": turn.started_id,
            "reason": "cleared",
            "usage": None,
            "provider": None,
            "model": None,
            "ended_at": timestamp(place(identifier) // 10_000),
            "ttft_ms": None,
            "duration_ms": None,
        }
        events.append(_encoded(conversation.address, identifier, "turn.cancelled", fields))
    events.append(_encoded(conversation.address, clock.next(), "history.cleared", {}))
    return events


def _encoded(address: Address, identifier: EventId, kind: str, fields: Json) -> Encoded:
    event = {"type": kind, "id": identifier, "conversation_id": address.conversation_id, **fields}
    return Encoded(identifier, fields.get("turn_id"), kind, orjson.dumps(event))


async def _rewrite(conversation: Conversation, cleared: Encoded, *, created: EventId) -> FileState:
    size = await write_aside(conversation.path, conversation.address, created, [cleared.json])
    await conversation.disk.run(partial(_unlink_live, conversation.path))
    return FileState(created=created, size=size, last=place(cleared.id))


async def _remove(conversation: Conversation, cleared: Encoded) -> FileState:
    await conversation.disk.run(partial(remove_conversation, conversation.path))
    return FileState(last=place(cleared.id))


async def write_aside(
    path: Path, address: Address, created: EventId, events: Sequence[bytes]
) -> int:
    """Replace a conversation's file, durably and at once, by these events; returns its size."""
    data = records.header(address, created, timestamp(place(created) // 10_000))
    for event in events:
        data += event[:-1] + b',"turns":0,"running":[]}\n'
    aside = path.with_suffix(".aside")
    async with aiofiles.open(aside, "wb", opener=private) as file:
        await file.write(data)
        await file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    await aiofiles.os.replace(aside, path)
    await asyncio.to_thread(sync_folder, path.parent)
    return len(data)


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _unlink_live(path: Path) -> None:
    for live in live_files(path):
        live.unlink(missing_ok=True)
    path.with_suffix(".corrupt").unlink(missing_ok=True)
    if path.parent.exists():
        sync_folder(path.parent)


def remove_conversation(path: Path) -> None:
    """Remove a conversation's files, durably."""
    path.unlink(missing_ok=True)
    _unlink_live(path)


def write_intent(folder: Folder, intent: Intent) -> None:
    """Make an intent durable: from here on it is carried out, by recovery if need be."""
    path = folder.intents / f"{intent['id']}.json"
    aside = path.with_suffix(".new")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, orjson.dumps(intent))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(aside, path)
    sync_folder(folder.intents)


def finish_intent(folder: Folder, intent: Intent) -> None:
    """Forget an intent. Should it come back after a power cut, it finds nothing to erase."""
    (folder.intents / f"{intent['id']}.json").unlink(missing_ok=True)


async def erase_user(disk: Disk, user_id: str, conversations: list[Conversation]) -> None:
    """
    Erase a user's folder; open streams on these conversations of theirs are told as by `clear`.

    Nothing may open or make a file of this user meanwhile: the caller sees to that.

    Raises:
        StorageFailed: As `clear`.
    """
    shut = [(conversation, await conversation.shut()) for conversation in conversations]
    states: dict[Conversation, FileState] = {}
    events = {conversation: farewell(conversation, turns) for conversation, turns in shut}
    intent = Intent(id=disk.clock.next(), scope="user", user_id=user_id, conversation_id="")
    try:
        await disk.run(partial(write_intent, disk.folder, intent))
        await disk.run(partial(remove_user, disk.folder, intent))
        await disk.run(partial(finish_intent, disk.folder, intent))
        states = {c: FileState(last=place(told[-1].id)) for c, told in events.items()}
    except OSError as error:
        logger.error("erasing failed", extra={"errno": error.errno})
        raise StorageFailed("The user could not be erased.") from error
    finally:
        for conversation, turns in shut:
            conversation.reopen(states.get(conversation), turns, events[conversation])


def remove_user(folder: Folder, intent: Intent) -> None:
    """Remove a user's folder, durably."""
    path = folder.user(intent["user_id"])
    if not path.exists():
        return
    # Renaming is at once: what is begun after it gets a folder of its own.
    aside = folder.intents / f"{intent['id']}.erased"
    os.replace(path, aside)
    sync_folder(folder.users)
    shutil.rmtree(aside)
    sync_folder(folder.intents)
