"""
Many new files at once, or none: written aside, then made to stand by one rename.

Blocking, for the owner of the data folder, before anything is read or written in it. After a
death, recovery either discards or finishes it; see `recovery`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from chatstream.events import EventId
from chatstream.log.files.paths import Folder, is_folder
from chatstream.log.files.syncer import sync_folder

STAGED = ".staged"
"""Not decided, or done with: to be discarded."""
DECIDED = ".import"
"""Decided: to be finished."""


class Staging:
    """Files of users, not yet in their places. `commit` or `discard` must follow."""

    def __init__(self, folder: Folder, identifier: EventId) -> None:
        """
        Begin one.

        Raises:
            OSError: The data folder cannot be written.
        """
        self._folder = folder
        self._aside = folder.intents / f"{identifier}{STAGED}"
        self._aside.mkdir(mode=0o700)

    def write(self, target: Path, pieces: Iterable[bytes]) -> None:
        """
        Write what `target`, a file in a user's folder, shall hold.

        Raises:
            OSError: It could not be written whole.
        """
        path = self._aside / target.parent.name / target.name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(path, "xb", opener=_private) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())

    def commit(self) -> None:
        """
        Put every file in its place; returns once that is durable.

        Raises:
            OSError: Where `decided`, recovery finishes it; else nothing has changed.
        """
        for user in self._aside.iterdir():
            sync_folder(user)
        sync_folder(self._aside)
        os.rename(self._aside, self._decided)
        sync_folder(self._folder.intents)
        finish(self._folder, self._decided)

    def discard(self) -> None:
        """Forget what was written, unless it is decided."""
        shutil.rmtree(self._aside, ignore_errors=True)

    @property
    def decided(self) -> bool:
        """Whether the files will stand, whatever dies now."""
        return self._decided.exists()

    @property
    def _decided(self) -> Path:
        return self._aside.with_suffix(DECIDED)


def finish(folder: Folder, decided: Path) -> None:
    """
    Move the files that are not in their places yet, durably.

    Raises:
        OSError: The next start tries again.
    """
    users = sorted(decided.iterdir())
    for user in users:
        target = folder.users / user.name
        if not is_folder(target):
            target.mkdir(mode=0o700)
        for file in sorted(user.iterdir()):
            os.replace(file, target / file.name)
        sync_folder(target)
    sync_folder(folder.users)
    # Durably marked as finished before any of it goes: a power cut must not bring half of it back.
    done = decided.with_suffix(STAGED)
    os.rename(decided, done)
    sync_folder(folder.intents)
    shutil.rmtree(done, ignore_errors=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
