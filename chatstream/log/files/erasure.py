"""
Clear and erase: what was cleared is in no file and cannot be read, whatever dies when.

The order: other writes wait; the intent becomes durable; the new file, or none, takes its place;
what lies beside it goes; the running turns get their ends. Each step is one job on a thread. The
calls here run in tasks of their own (see `store`): a caller that leaves does not cut them short.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from chatstream.errors import ChatstreamError, StorageFailed, StorageFull
from chatstream.events import (
    Address,
    EventId,
    Json,
    kept,
    place,
    terminal_fields,
    time_of,
)
from chatstream.log.files import records
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.disk import Disk
from chatstream.log.files.intents import (
    Intent,
    Scope,
    finish_intent,
    remove_beside,
    remove_conversation,
    remove_user,
    withdraw_intent,
    write_intent,
)
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.paths import put
from chatstream.log.files.records import Encoded
from chatstream.log.files.summary import FileState, load
from chatstream.log.files.trouble import FULL

logger = logging.getLogger(__name__)

T = TypeVar("T")
Change = Callable[[Conversation, Encoded], Awaitable[FileState]]


async def clear(conversation: Conversation) -> None:
    """
    Erase a conversation's events; its log goes on after a `history.cleared`.

    One without a file is left as it is, and no file is made.

    Raises:
        StorageFailed: Nothing is known to be erased; running turns were cancelled.
    """
    await _erase(conversation, "clear", _rewrite)


async def erase(conversation: Conversation) -> bool:
    """
    Erase a conversation, its file included; open streams get what `clear` sends.

    Returns whether there was a file.

    Raises:
        StorageFailed: As `clear`.
    """
    return await _erase(conversation, "conversation", _remove)


async def _erase(conversation: Conversation, scope: Scope, change: Change) -> bool:
    """Return whether there was a file."""
    disk = conversation.disk
    turns = await conversation.shut()
    events: list[Encoded] = []
    intent: Intent | None = None
    try:
        if conversation.created is None:
            # A file that was put aside, since nothing of it could be read, lies beside it too.
            await disk.run(partial(remove_beside, conversation.path))
            return False
        intent = _intent(disk, scope, conversation.address)
        events = farewell(conversation, turns)
        await with_reserve(disk, partial(disk.run, partial(write_intent, disk.folder, intent)))
        state = await with_reserve(disk, partial(change, conversation, events[-1]))
        conversation.go_on(state, turns, events)
    except (OSError, ChatstreamError) as error:
        await _give_up(conversation, turns, events)
        await _withdraw(disk, intent, conversation.created is not None)
        raise _refused(disk, error, "The history could not be erased.") from error
    finally:
        if conversation.gate is not None:
            conversation.open_gate()
    await _finish(disk, intent)
    return True


def _refused(
    disk: Disk, error: OSError | ChatstreamError, message: str
) -> StorageFull | StorageFailed:
    if isinstance(error, OSError):
        return disk.trouble.refusal(error, message, disk.folder.root)
    return StorageFull(message) if isinstance(error, StorageFull) else StorageFailed(message)


async def _finish(disk: Disk, intent: Intent) -> None:
    try:
        await disk.run(partial(finish_intent, disk.folder, intent))
    except OSError as error:
        # The erasure is done; the next start looks again, which does no harm.
        logger.warning("intent not removed", extra={"errno": error.errno})


async def _withdraw(disk: Disk, intent: Intent | None, is_there: bool) -> None:
    """Withdraw a failed erasure's intent: the next start would erase what was written since."""
    if intent is not None and is_there:
        try:
            await disk.run(partial(withdraw_intent, disk.folder, intent))
        except OSError as error:
            logger.error("intent not withdrawn", extra={"errno": error.errno})


async def _give_up(
    conversation: Conversation, turns: list[LiveTurn], events: list[Encoded]
) -> None:
    """Go on with the file that is there now; where that is the old one, its turns are cancelled."""
    try:
        state = await conversation.disk.run(partial(load, conversation.path))
    except (OSError, ChatstreamError):
        conversation.file.close_file()  # it is looked at again before the next write
        state = None
    if state is not None and events:
        last = place(events[-1].id)
        if state.created is None or state.last == last:
            state = FileState(state.created, state.size, last, inode=state.inode)
            conversation.go_on(state, turns, events)
            return
    conversation.file.close_file()
    conversation.open_gate()
    for turn in turns:
        turn.ended = False
        try:
            await turn.end("turn.cancelled", {"reason": "user"} | terminal_fields(ended_at=None))
        except ChatstreamError:
            conversation.running.pop(turn.started_place, None)
            turn.close(None)


async def with_reserve(disk: Disk, step: Callable[[], Awaitable[T]]) -> T:
    """Run a job that makes room; on a full disk it may use the reserve."""
    try:
        return await step()
    except OSError as error:
        if error.errno not in FULL:
            raise
        disk.reserve.release()
        return await step()


def _intent(disk: Disk, scope: Scope, address: Address) -> Intent:
    return Intent(
        id=disk.next_id(),
        scope=scope,
        user_id=address.user_id,
        conversation_id=address.conversation_id,
    )


def farewell(conversation: Conversation, turns: list[LiveTurn]) -> list[Encoded]:
    """Make the events of a clear: each running turn's end, and `history.cleared`."""
    events = []
    for turn in turns:
        identifier = conversation.disk.next_id()
        turn_id, started_id = turn.turn_id, turn.started_id
        fields: Json = {"turn_id": turn_id, "started_id": started_id, "reason": "cleared"}
        fields |= terminal_fields(ended_at=time_of(identifier))
        events.append(conversation.event(identifier, "turn.cancelled", fields))
    events.append(conversation.event(conversation.disk.next_id(), "history.cleared", {}))
    return [Encoded.of(event, kept(event)) for event in events]


async def _rewrite(conversation: Conversation, cleared: Encoded) -> FileState:
    created = conversation.created
    assert created is not None
    path = conversation.path
    size = await write_aside(path, conversation.address, created, cleared.json)
    await conversation.disk.run(partial(remove_beside, path))
    inode = os.lstat(path).st_ino
    return FileState(created=created, size=size, last=place(cleared.id), inode=inode)


async def _remove(conversation: Conversation, cleared: Encoded) -> FileState:
    await conversation.disk.run(partial(remove_conversation, conversation.path))
    return FileState(last=place(cleared.id))


async def write_aside(path: Path, address: Address, created: EventId, event: bytes) -> int:
    """Replace a conversation's file, durably and at once, by this event; returns its size."""
    data = records.header(address, created, time_of(created))
    data += records.line_of(event, {"turns": 0, "running": []})
    await asyncio.to_thread(put, path, data, path.with_suffix(".aside"))
    return len(data)


async def erase_user(disk: Disk, user_id: str, conversations: list[Conversation]) -> None:
    """
    Erase a user's folder; open streams of its conversations get what `clear` sends.

    The caller prevents that a file of this user is opened or made meanwhile.

    Raises:
        StorageFailed: As `clear`.
    """
    shut: list[tuple[Conversation, list[LiveTurn]]] = []
    events: dict[Conversation, list[Encoded]] = {}
    intent: Intent | None = None
    try:
        for conversation in conversations:
            shut.append((conversation, await conversation.shut()))
        intent = _intent(disk, "user", Address(user_id, ""))
        events = {c: farewell(c, turns) for c, turns in shut}
        await with_reserve(disk, partial(disk.run, partial(write_intent, disk.folder, intent)))
        await disk.run(partial(remove_user, disk.folder, intent))
        for conversation, turns in shut:
            told = events[conversation]
            conversation.go_on(FileState(last=place(told[-1].id)), turns, told)
    except (OSError, ChatstreamError) as error:
        for conversation, turns in shut:
            await _give_up(conversation, turns, events.get(conversation, []))
        await _withdraw(disk, intent, disk.folder.user(user_id).exists())
        raise _refused(disk, error, "The user could not be erased.") from error
    finally:
        for conversation, _ in shut:
            if conversation.gate is not None:
                conversation.open_gate()
    await _finish(disk, intent)
