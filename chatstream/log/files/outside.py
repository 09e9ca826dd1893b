"""
A conversation's file that another process has changed: it is read anew, and used as it is now.

An editor, a sync client or a restore may make a file shorter, longer, another one, or none while
it is in use. The file as it is then is the truth. Running turns alone are not lost with it: where
the message of one is gone, it is written again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from chatstream.errors import StorageFailed
from chatstream.events import Address, EventId, Json, before, place
from chatstream.log.files import lookup, records
from chatstream.log.files.disk import Disk, cut_back
from chatstream.log.files.live_turn import LiveTurn
from chatstream.log.files.log_file import create
from chatstream.log.files.opening import READ, UPDATE, open_file
from chatstream.log.files.records import Opening
from chatstream.log.files.summary import FileState, load
from chatstream.log.files.turn_journal import TurnJournal

logger = logging.getLogger(__name__)


async def first_look(disk: Disk, address: Address) -> FileState:
    """
    Return what the file of a conversation says; the conversation is not in use.

    Raises:
        StorageFailed: It cannot be read, or a newer release wrote it.
    """
    path = disk.folder.conversation(address)
    try:
        state = await disk.run(partial(load, path))
    except OSError as error:
        message = "The conversation's file cannot be read."
        raise disk.trouble.refusal(error, message, path) from error
    if state.created is None:
        disk.check(address.user_id)  # a missing file may mean that the folder is gone
    if state.foreign:
        disk.copies.tell([path])
    return state


async def look_anew(journal: TurnJournal) -> None:
    """
    Take over a conversation's file as it is now, if it was changed. For the loop's thread.

    Other reads and writes wait meanwhile. A caller that leaves does not stop it.

    Raises:
        StorageFull, StorageFailed: It cannot be read; it is tried again when it is next used.
    """
    await journal.settled()
    if journal.file.changed:
        journal.gate = asyncio.get_running_loop().create_future()
        looking = asyncio.ensure_future(_look(journal))
        looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        journal.looking = looking
        await asyncio.shield(looking)


async def _look(journal: TurnJournal) -> None:
    disk, path = journal.disk, journal.path
    try:
        await journal.file.settled()
        await journal.order.drained()
        turns = list(journal.running.values())
        openings = [turn.opening for turn in turns if turn.opening is not None]
        job = partial(look_again, disk, path, journal.address, openings)
        state, lost = await disk.run(job)
        journal.found_anew(state)
        for turn in turns:
            if turn.opening is None or turn.started_id in lost:
                _lose(journal, turn)
            else:
                turn.restore_live_file()
        told = {"path": str(path), "turns": state.turns, "lost": len(lost)}
        logger.warning("changed from outside, looked at anew", extra=told)
    except OSError as error:
        message = "The conversation's file cannot be read."
        raise disk.trouble.refusal(error, message, path) from error
    finally:
        journal.open_gate()


def _lose(journal: TurnJournal, turn: LiveTurn) -> None:
    """Stop a turn whose message is gone, and that has no place any more."""
    turn.ended = True
    turn.refused = StorageFailed("The turn's message was removed from the disk.")
    journal.running.pop(turn.started_place, None)
    journal.tail.drop(turn.turn_id)
    if turn.on_clear is not None:
        turn.on_clear()
    turn.close(None)
    turn.live_file.remove()


def look_again(
    disk: Disk, path: Path, address: Address, openings: Sequence[Opening]
) -> tuple[FileState, set[EventId]]:
    """
    Return what the file is now, and which of the running turns it cannot hold. For threads.

    Raises:
        OSError, StorageFailed: It cannot be read, or the data folder is not there.
    """
    disk.folder.check(address.user_id)
    running = frozenset(opening.id for opening in openings)
    state = load(path, running)
    disk.folder.check(address.user_id)
    missing = [o for o in openings if not _is_there(path, state, o.id)]
    # Ids rise through a file: a record from before its last one cannot be appended.
    lost = {o.id for o in missing if place(o.id) <= state.last}
    again = [o for o in missing if o.id not in lost]
    if again:
        kept = [o.id for o in openings if o not in missing]
        state = _put_back(disk, path, address, state, again, kept)
    return state, lost


def _is_there(path: Path, state: FileState, started_id: EventId) -> bool:
    if state.created is None:
        return False
    fd = open_file(path, READ)
    try:
        return lookup.line_at(fd, state.size, started_id) is not None
    finally:
        os.close(fd)


def _put_back(
    disk: Disk,
    path: Path,
    address: Address,
    state: FileState,
    openings: Sequence[Opening],
    running: list[EventId],
) -> FileState:
    durable = disk.fsync != "never"
    if state.created is None:
        # A reader from before it gets a `reset`, and loads what is there.
        size, inode = create(disk, path, address, before(openings[0].id), durable=durable)
        state = replace(state, created=before(openings[0].id), size=size, inode=inode)
    running += [orphan.started["id"] for orphan in state.orphans]
    turns, data = state.turns, b""
    for opening in openings:
        turns += 1
        running.append(opening.id)
        own: Json = {"turns": turns, "running": running, **opening.own}
        if state.titled:
            own["titled"] = state.titled
        data += records.line(opening.event, own)[1]
    fd = open_file(path, UPDATE)
    try:
        disk.write(fd, data, state.size, may_use_reserve=True)
        if durable:
            os.fdatasync(fd)
    except BaseException:
        cut_back(fd, state.size)
        raise
    finally:
        os.close(fd)
    size = state.size + len(data)
    return replace(state, size=size, turns=turns, last=place(openings[-1].id))
