"""
Opening what lies in a data folder: no symbolic link is followed there, and nothing blocks.

Sync clients, backups and other users of the machine put things where a server looks. Anything but
a regular file is refused by an error that names it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_PLAIN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
READ = os.O_RDONLY
UPDATE = os.O_RDWR
REPLACE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def open_file(path: Path | str, flags: int = READ) -> int:
    """
    Open a regular file, or make one (0600) where `flags` say so; the caller closes it.

    Raises:
        OSError: It cannot be opened, or is a symbolic link, a pipe or another thing.
    """
    try:
        fd = os.open(path, flags | _PLAIN, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return fd


def open_folder(path: Path) -> int:
    """
    Open a folder that is no symbolic link; the caller closes it.

    Raises:
        OSError: It cannot be opened, or is none.
    """
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | _PLAIN)
    except NotADirectoryError as error:
        if path.is_symlink():
            raise _link(path) from error
        raise


def read_file(path: Path) -> bytes:
    """
    Return what a regular file holds.

    Raises:
        OSError: As `open_file`.
    """
    with open(open_file(path), "rb") as file:
        return file.read()


def opener(path: str, flags: int) -> int:
    """Open for `open`, as `open_file` does."""
    return open_file(path, flags)


def _link(path: Path | str) -> OSError:
    return OSError(errno.ELOOP, "is a symbolic link, which is not followed", str(path))
