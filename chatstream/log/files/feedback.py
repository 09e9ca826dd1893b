"""
What users think of answers: an append-only file per user, beside the conversations.

The last rating of a turn counts; the earlier ones stay in the file. Ratings live in memory
only for users whose history is read, in a bounded number.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import aiofiles
import orjson

from chatstream.detached import Detached
from chatstream.events import EventId, Json, time_of
from chatstream.log.files.disk import Disk, cut_back
from chatstream.log.files.line_io import committed_size
from chatstream.log.files.opening import UPDATE, open_file, opener
from chatstream.log.files.records import VERSION
from chatstream.log.files.syncer import sync_folder

USERS_IN_MEMORY = 256


class Rating(NamedTuple):
    """The feedback that counts for a turn."""

    id: EventId
    rating: int
    comments: str | None


class Ratings:
    """One user's: by conversation and turn; `last` changes with each."""

    def __init__(self) -> None:
        self.last: str = "0"
        self.by_turn: dict[tuple[str, str], Rating] = {}

    def take(self, entry: Json) -> None:
        """Count an entry of the file."""
        self.last = entry["id"]
        if entry.get("turn_id"):
            key = entry.get("conversation_id") or "default", entry["turn_id"]
            rating = Rating(entry["id"], entry["rating"], entry.get("comments"))
            self.by_turn[key] = rating


class Feedback:
    """All users' feedback. For the loop's thread."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._users: OrderedDict[str, Ratings] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._keeping = Detached()

    async def add(self, user_id: str, fields: Json) -> Json:
        """
        Write one entry; returns it once it is durable. A caller that leaves does not undo it.

        Raises:
            StorageFull, StorageFailed: It was not kept.
        """
        self._disk.admit()
        return await self._keeping.run(self._keep(user_id, fields))

    async def _keep(self, user_id: str, fields: Json) -> Json:
        identifier = self._disk.next_id()
        entry = {
            "type": "feedback",
            "id": identifier,
            "timestamp": time_of(identifier),
            **fields,
        }
        async with self.held(user_id):
            try:
                await self._disk.run(partial(_append, self._disk, user_id, entry))
            except OSError as error:
                message = "The feedback could not be written to disk."
                path = self._disk.folder.feedback(user_id)
                raise self._disk.trouble.refusal(error, message, path) from error
            if ratings := self._users.get(user_id):
                ratings.take(entry)
        return entry

    async def ratings(self, user_id: str) -> Ratings:
        """
        Return a user's ratings; none of those that an answered erasure has removed.

        Raises:
            StorageFailed: The file cannot be read.
        """
        async with self.held(user_id):
            if user_id not in self._users:
                self._users[user_id] = await self._read(user_id)
                if len(self._users) > USERS_IN_MEMORY:
                    self._users.popitem(last=False)
            self._users.move_to_end(user_id)
            return self._users[user_id]

    async def _read(self, user_id: str) -> Ratings:
        ratings = Ratings()
        path = self._disk.folder.feedback(user_id)
        try:
            lines = await _lines(path)
        except OSError as error:
            message = "The feedback cannot be read."
            raise self._disk.trouble.refusal(error, message, path) from error
        self._disk.check(user_id)  # a missing file may mean that the folder is gone
        for line in lines:
            try:
                entry = orjson.loads(line)
                if entry["type"] == "feedback":
                    ratings.take(entry)
            except (ValueError, KeyError, TypeError):
                continue  # a damaged line hides only itself
        return ratings

    def held(self, user_id: str) -> asyncio.Lock:
        """Return the lock that is held while a user's file is written or erased."""
        return self._locks.setdefault(user_id, asyncio.Lock())

    def forget(self, user_id: str) -> None:
        """Drop an erased user's ratings from memory."""
        self._users.pop(user_id, None)


async def _lines(path: Path) -> list[bytes]:
    try:
        async with aiofiles.open(path, "rb", opener=opener) as file:
            return (await file.read()).split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _append(disk: Disk, user_id: str, entry: Json) -> None:
    path = disk.folder.feedback(user_id)
    durable = disk.fsync != "never"
    disk.folder.make_user(path.parent, durable=durable)
    fd = open_file(path, UPDATE | os.O_CREAT)
    try:
        size = committed_size(fd)
        cut_back(fd, size)
        data = orjson.dumps(entry) + b"\n"
        if size == 0:
            header = {"type": "feedback_log", "version": VERSION, "id": entry["id"]}
            data = orjson.dumps({**header, "user_id": user_id}) + b"\n" + data
        try:
            if os.pwrite(fd, data, size) < len(data):
                raise OSError(errno.ENOSPC, "no space for feedback")
            if durable:
                os.fdatasync(fd)
                if size == 0:
                    sync_folder(path.parent)
        except OSError:
            cut_back(fd, size)
            if size == 0:
                path.unlink()
            raise
    finally:
        os.close(fd)
