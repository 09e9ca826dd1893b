"""Planted faults of what keeps things: the files, their syncs, the clock and the erasures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatstream.log.files import erasure, feedback, intents, visibility
from chatstream.log.files.clock import IdClock
from chatstream.log.files.conversation import Conversation
from chatstream.log.files.live_file import LiveFile
from chatstream.log.files.paths import FEEDBACK, Folder
from chatstream.log.files.records import Encoded
from tests.chaos.planting import Fault, put


def show_before_writing() -> None:
    """Deltas are shown, and their live file is not written."""

    def broken(self: LiveFile, data: bytes) -> None:
        self._written += len(data)

    put(LiveFile, "write", broken)


def forget_to_sync() -> None:
    """What should be durable is only written."""

    def broken(targets: Iterable[visibility.Target]) -> None:
        """Leave it to the operating system."""

    put(visibility, "_sync_all", broken)


def acknowledge_before_syncing() -> None:
    """What is on its way to the disk counts as durable."""
    add = visibility.Order.add

    def broken(
        self: visibility.Order, pending: visibility.Pending, owner: visibility.Owner
    ) -> None:
        add(self, replace(pending, tell=lambda error: None), owner)
        pending.tell(None)

    put(visibility.Order, "add", broken)


def forget_feedback() -> None:
    """Feedback is acknowledged, and kept in memory."""
    put(feedback, "_append", lambda disk, user_id, entry: None)


def forget_titles() -> None:
    """A renaming is acknowledged, and not written."""

    async def broken(self: Conversation, title: str) -> Encoded | None:
        return None

    put(Conversation, "rename", broken)


def begin_the_clock_anew() -> None:
    """The clock believes the machine's, and neither its ceiling nor the logs."""
    begin = IdClock.__init__

    def broken(self: IdClock, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        self._last = 0

    put(IdClock, "__init__", broken)
    put(IdClock, "raise_to", lambda self, number: None)


def keep_a_copy() -> None:
    """A clear leaves what was there, where no look for copies finds it."""
    write_aside = erasure.write_aside

    async def broken(path: Path, *given: Any) -> int:
        shutil.copy(path, path.parent.parent / f"{path.name}.old")
        return await write_aside(path, *given)

    put(erasure, "write_aside", broken)


def keep_live_files() -> None:
    """A clear leaves the running turns' text."""
    put(erasure, "remove_beside", lambda path: None)


def keep_the_feedback() -> None:
    """Erasing a user leaves their feedback."""
    remove_user = intents.remove_user

    def broken(folder: Folder, intent: intents.Intent) -> None:
        path = folder.user(intent["user_id"]) / FEEDBACK
        kept = path.read_bytes() if path.exists() else None
        remove_user(folder, intent)
        if kept is not None:
            path.parent.mkdir()
            path.write_bytes(kept)

    put(erasure, "remove_user", broken)


def lose_a_record() -> None:
    """A restart drops a log's last record, whole as it is."""
    own = Folder.own

    def broken(self: Folder) -> None:
        own(self)
        for path in self.users.glob("*/[!+]*.jsonl"):
            lines = path.read_bytes().splitlines(keepends=True)
            if len(lines) > 1:
                os.truncate(path, sum(map(len, lines[:-1])))

    put(Folder, "own", broken)


STORAGE_FAULTS: dict[str, Fault] = {
    "show-before-writing": Fault(2, show_before_writing),
    "acknowledge-before-syncing": Fault(2, acknowledge_before_syncing, slow_sync=True),
    "forget-to-sync": Fault(2, forget_to_sync, slow_sync=True),
    "forget-feedback": Fault(2, forget_feedback),
    "forget-titles": Fault(2, forget_titles),
    "lose-a-record": Fault(2, lose_a_record),
    "begin-the-clock-anew": Fault(3, begin_the_clock_anew),
    "keep-a-copy": Fault(7, keep_a_copy),
    "keep-live-files": Fault(7, keep_live_files),
    "keep-the-feedback": Fault(7, keep_the_feedback),
}
