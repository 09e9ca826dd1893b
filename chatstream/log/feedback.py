"""
What users think of answers: an append-only file per user, beside the conversations.

A later rating of the same turn stands; the earlier ones stay in the file. Ratings live in memory
only for users whose history is read, in a bounded number.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import aiofiles
import orjson

from chatstream.errors import StorageFailed, StorageFull
from chatstream.events import EventId, place, timestamp
from chatstream.log.disk import Disk, cut_back
from chatstream.log.records import VERSION, Json, committed_size
from chatstream.log.reserve import FULL
from chatstream.log.syncer import sync_folder

USERS_IN_MEMORY = 256


class Rating(NamedTuple):
    """The feedback that stands for a turn."""

    id: EventId
    rating: int
    comments: str | None


class Ratings:
    """One user's: by conversation and turn; `last` changes with each."""

    def __init__(self) -> None:
        self.last: str = "0"
        self.by_turn: dict[tuple[str, str], Rating] = {}

    def take(self, entry: Json) -> None:
        """Let an entry of the file stand."""
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
        self._epoch = 0

    async def add(self, user_id: str, fields: Json) -> Json:
        """
        Keep one; returns it once it is durable.

        Raises:
            StorageFull, StorageFailed: It was not kept.
        """
        self._disk.admit()
        identifier = self._disk.clock.next()
        entry = {
            "type": "feedback",
            "id": identifier,
            "timestamp": timestamp(place(identifier) // 10_000),
            **fields,
        }
        path = self._disk.folder.feedback(user_id)
        durable = self._disk.fsync != "never"
        try:
            async with self.held(user_id):
                await self._disk.run(partial(_append, path, user_id, entry, durable))
        except OSError as error:
            kind = StorageFull if error.errno in FULL else StorageFailed
            raise kind("The feedback could not be written to disk.") from error
        if ratings := self._users.get(user_id):
            ratings.take(entry)
        return entry

    async def ratings(self, user_id: str) -> Ratings:
        """Return a user's ratings."""
        if user_id in self._users:
            self._users.move_to_end(user_id)
            return self._users[user_id]
        epoch = self._epoch
        ratings = Ratings()
        for line in await _lines(self._disk.folder.feedback(user_id)):
            try:
                entry = orjson.loads(line)
                if entry["type"] == "feedback":
                    ratings.take(entry)
            except (ValueError, KeyError, TypeError):
                continue  # a damaged line hides only itself
        if user_id in self._users:
            return self._users[user_id]
        if epoch == self._epoch:
            self._users[user_id] = ratings
            if len(self._users) > USERS_IN_MEMORY:
                self._users.popitem(last=False)
        return ratings

    def held(self, user_id: str) -> asyncio.Lock:
        """Return what is held while a user's file is written, or is erased."""
        return self._locks.setdefault(user_id, asyncio.Lock())

    def forget(self, user_id: str) -> None:
        """Drop what is in memory of a user that was erased."""
        self._epoch += 1
        self._users.pop(user_id, None)


async def _lines(path: Path) -> list[bytes]:
    try:
        async with aiofiles.open(path, "rb") as file:
            return (await file.read()).split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _append(path: Path, user_id: str, entry: Json, durable: bool) -> None:
    new_user = not path.parent.exists()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(fd).st_size
        data = orjson.dumps(entry) + b"\n"
        if size == 0:
            header = {"type": "feedback_log", "version": VERSION, "id": entry["id"]}
            data = orjson.dumps({**header, "user_id": user_id}) + b"\n" + data
        elif os.pread(fd, 1, size - 1) != b"\n":
            size = committed_size(fd)
            cut_back(fd, size)
        if os.write(fd, data) < len(data):
            cut_back(fd, size)
            raise OSError(28, "no space for feedback")
        if durable:
            os.fdatasync(fd)
    finally:
        os.close(fd)
    if durable and size == 0:
        sync_folder(path.parent)
        if new_user:
            sync_folder(path.parent.parent)
