"""
One process owns a data folder: the lock on it, and the check that it is still the same folder.

Both the folder itself and the file `lock` in it are locked. Removing `lock` gives the
folder to nobody; an older release, which knows that file only, is refused too.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from chatstream.errors import DataFolderError
from chatstream.log.files.opening import READ, UPDATE, open_file, open_folder
from chatstream.log.files.trouble import Changed, reason

logger = logging.getLogger(__name__)

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
"""A mode with one of these bits lets others plant things among ours."""


class Ownership:
    """A data folder that is taken, until `release` or the process' death."""

    def __init__(self, root: Path, parts: Iterable[Path]) -> None:
        """
        Take it. `parts` are its folders, which are to stay the same too.

        Raises:
            DataFolderError: Another process owns it.
            OSError: It cannot be used.
        """
        self._root = root
        self._held: list[int] = []
        self._folders: dict[Path, tuple[int, int]] = {}
        try:
            self._take(root, parts)
        except BaseException:
            self.release()
            raise

    def _take(self, root: Path, parts: Iterable[Path]) -> None:
        # The folder itself may be a link: where the data lies is the operator's choice.
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._held.append(folder)
        self._lock(folder, root)
        lock = open_file(root / "lock", UPDATE | os.O_CREAT)
        self._held.append(lock)
        self._lock(lock, root)
        with suppress(OSError):  # a full disk: it is held all the same, only the name is missing
            os.ftruncate(lock, os.pwrite(lock, b"%d\n" % os.getpid(), 0))
        self._know(root, folder)
        for path in parts:
            fd = open_folder(path)
            self._held.append(fd)
            self._know(path, fd)

    def _lock(self, fd: int, root: Path) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataFolderError(
                f"CHATSTREAM_DATA_DIR: {root} is in use by the process {_owner(root, fd)}; "
                "one process owns a data folder"
            ) from error
        except OSError:
            # Some network file systems lock no folder: there the file has to do.
            if stat.S_ISREG(os.fstat(fd).st_mode):
                raise

    def _know(self, path: Path, fd: int) -> None:
        about = os.fstat(fd)
        self._folders[path] = about.st_dev, about.st_ino
        extra = {"path": str(path), "mode": oct(stat.S_IMODE(about.st_mode))}
        if about.st_uid not in (os.geteuid(), 0):
            logger.warning("another user owns the folder", extra=extra | {"uid": about.st_uid})
        if about.st_mode & OTHERS_WRITE:
            logger.warning("others may write in the folder: chmod 700 it", extra=extra)

    def check(self) -> None:
        """
        Look whether the folders that were taken are still at their paths.

        Raises:
            OSError: One is not.
        """
        for path, known in self._folders.items():
            about = os.stat(path, follow_symlinks=path is self._root)
            if (about.st_dev, about.st_ino) != known:
                raise Changed("is another folder than the one that was taken", path)

    def release(self) -> None:
        """Let another process have it."""
        for fd in reversed(self._held):
            os.close(fd)
        self._held.clear()


def unusable(root: Path, error: OSError) -> DataFolderError:
    """Return what refuses a start, with what cannot be used."""
    what = str(error.filename or root)
    where = f"{root} cannot be used as data folder"
    told = f"{where}: {reason(error)}" if what == str(root) else f"{where}: {what}: {reason(error)}"
    return DataFolderError(f"CHATSTREAM_DATA_DIR: {told}")


def _owner(root: Path, fd: int) -> str:
    """Return the process id of the owner, as the lock file or the kernel says."""
    with suppress(OSError, ValueError):
        lock = open_file(root / "lock", READ)
        try:
            return str(int(os.pread(lock, 32, 0)))
        finally:
            os.close(lock)
    inode = b":%d" % os.fstat(fd).st_ino
    with suppress(OSError), open("/proc/locks", "rb") as locks:
        for line in locks:
            fields = line.split()
            if len(fields) > 5 and fields[1] == b"FLOCK" and fields[5].endswith(inode):
                return fields[4].decode()
    return "unknown"
