"""
The data folder: where everything lies, and whose it is.

`users/<user>/<conversation>.jsonl`, live files `<conversation>.<started_id>.live` beside it, the
user's feedback in `+feedback.jsonl` (no id's name begins with `+`); at the top the clock, the
reserve, the lock and the intents to erase.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from chatstream.errors import DataFolderError
from chatstream.events import Address
from chatstream.log.names import file_name
from chatstream.log.syncer import sync_folder

FEEDBACK = "+feedback.jsonl"


class Folder:
    """The paths of a data folder; it touches the disk only in `own` and `release`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.users = root / "users"
        self.intents = root / "intents"
        self.clock = root / "clock"
        self.reserve = root / "reserve"
        self._lock_path = root / "lock"
        self._lock = -1
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
            if path.exists():
                return
            path.mkdir(mode=0o700)
            if durable:
                try:
                    sync_folder(self.users)
                except OSError:
                    path.rmdir()
                    raise

    def own(self) -> None:
        """
        Make the folder where it is missing, and take it for this process.

        Raises:
            DataFolderError: Another process owns it, or it cannot be written.
        """
        try:
            for path in (self.root, self.users, self.intents):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(self._lock_path, flags, 0o600)
        except OSError as error:
            raise DataFolderError(
                f"CHATSTREAM_DATA_DIR: {self.root} cannot be used as data folder: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock)
            self._lock = -1
            raise DataFolderError(
                f"CHATSTREAM_DATA_DIR: {self.root} is in use by the process {owner}; "
                "one process owns a data folder"
            ) from error
        try:
            os.ftruncate(self._lock, os.pwrite(self._lock, b"%d\n" % os.getpid(), 0))
        except OSError:
            pass  # a full disk: the lock holds all the same, only its owner's name is missing

    def release(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def conversation_files(folder: Path) -> list[Path]:
    """Return a user's conversations, in no order."""
    return [folder / name for name in conversation_names(folder)]


def conversation_names(folder: Path) -> list[str]:
    """Return the names of their files, in no order: of a thousand, a path each takes a while."""
    try:
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
    return [conversation.with_name(name) for name in names if name.endswith(".live")]


def put(path: Path, data: bytes, aside: Path) -> None:
    """
    Replace a file, durably and at once: whatever dies, it is the old one or the new one, whole.

    Raises:
        OSError: It may be either.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(aside, flags, 0o600)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], done)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(aside, path)
    sync_folder(path.parent)
