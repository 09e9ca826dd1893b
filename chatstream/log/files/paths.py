"""
The data folder: its paths, and the process that owns it.

`users/<user>/<conversation>.jsonl`, live files `<conversation>.<started_id>.live` beside it, the
user's feedback in `+feedback.jsonl` (no id's name begins with `+`); at the top the clock, the
reserve, the lock and the intents to erase.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from pathlib import Path

from chatstream.events import Address
from chatstream.log.files.names import file_name
from chatstream.log.files.opening import REPLACE, open_file
from chatstream.log.files.ownership import Ownership, unusable
from chatstream.log.files.syncer import sync_folder

FEEDBACK = "+feedback.jsonl"
_LIVE = re.compile(r"\d{13}-\d{4}\.live", re.ASCII)


class Folder:
    """
    The paths of a data folder. It touches the disk only where it is owned, checked or made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.users = root / "users"
        self.intents = root / "intents"
        self.clock = root / "clock"
        self.reserve = root / "reserve"
        self._ownership: Ownership | None = None
        self._making_user = threading.Lock()

    def user(self, user_id: str) -> Path:
        """Return a user's folder."""
        return self.users / file_name(user_id)

    def conversation(self, address: Address) -> Path:
        """Return a conversation's file."""
        return self.user(address.user_id) / f"{file_name(address.conversation_id)}.jsonl"

    def feedback(self, user_id: str) -> Path:
        """Return the file of a user's feedback."""
        return self.user(user_id) / FEEDBACK

    def make_user(self, path: Path, *, durable: bool) -> None:
        """
        Make a user's folder where it is missing. For threads: two that need the same one both
        return only once its name is durable, if asked.

        Raises:
            OSError: There is none.
        """
        with self._making_user:
            self.check()
            if is_folder(path):
                return
            path.mkdir(mode=0o700)
            if durable:
                try:
                    sync_folder(self.users)
                except OSError:
                    path.rmdir()
                    raise

    def check(self, user_id: str | None = None) -> None:
        """
        Look whether the folder that was taken is still at its path, and a user's is a folder.

        Raises:
            OSError: It is not, or cannot be looked into.
        """
        if self._ownership is not None:
            self._ownership.check()
        if user_id is not None:
            is_folder(self.user(user_id))

    def check_access(self) -> None:
        """
        Look also whether all of it may be read and written.

        Raises:
            OSError: It may not.
        """
        self.check()
        for path in (self.root, self.users, self.intents):
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                with os.scandir(path):  # this says why, where it cannot be read
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def own(self) -> None:
        """
        Make the folder where it is missing, and take it for this process.

        Raises:
            DataFolderError: Another process owns it, or it cannot be written.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.users, self.intents):
                if not is_folder(path):
                    path.mkdir(mode=0o700)
            self._ownership = Ownership(self.root, (self.users, self.intents))
        except OSError as error:
            raise unusable(self.root, error) from error

    def release(self) -> None:
        """Let another process have it."""
        if self._ownership is not None:
            self._ownership.release()
            self._ownership = None


def conversation_files(folder: Path) -> list[Path]:
    """Return a user's conversations, in no order."""
    return [folder / name for name in conversation_names(folder)]


def conversation_names(folder: Path) -> list[str]:
    """Return the names of their files, in no order: of a thousand, a path each takes a while."""
    try:
        if not is_folder(folder):
            return []
        with os.scandir(folder) as entries:
            files = [entry for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return [file.name for file in files if file.name.endswith(".jsonl") and file.name != FEEDBACK]


def live_files(conversation: Path) -> list[Path]:
    """Return the live files of a conversation; in a long-lived folder few match."""
    stem = conversation.stem + "."
    try:
        with os.scandir(conversation.parent) as entries:
            names = [e.name for e in entries if e.name.startswith(stem)]
    except FileNotFoundError:
        return []
    return [conversation.with_name(name) for name in names if _LIVE.fullmatch(name, len(stem))]


def put(path: Path, data: bytes, aside: Path) -> None:
    """
    Replace a file, durably and at once: whatever dies, it is the old one or the new one, whole.

    Raises:
        OSError: It may be either.
    """
    aside.unlink(missing_ok=True)
    fd = open_file(aside, REPLACE)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], done)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(aside, path)
    sync_folder(path.parent)


def is_folder(path: Path) -> bool:
    """
    Return whether there is a folder of this name.

    Raises:
        OSError: Something else has the name (no link is followed), or it cannot be looked at.
    """
    try:
        found = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISLNK(found):
        raise OSError(errno.ELOOP, "is a symbolic link, which is not followed", str(path))
    if not stat.S_ISDIR(found):
        raise OSError(errno.ENOTDIR, "is no folder", str(path))
    return True
