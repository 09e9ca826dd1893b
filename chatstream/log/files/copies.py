"""
Files that hold what a conversation's file held: copies of sync clients, editors and people.

A file is a conversation's where its name is what its first line's ids encode to. Any other file in
a user's folder is a copy: it is never shown, and is removed when its conversation is erased.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from chatstream.events import Json
from chatstream.log.files import records
from chatstream.log.files.line_io import BLOCK, committed_size
from chatstream.log.files.names import file_name
from chatstream.log.files.opening import open_file

logger = logging.getLogger(__name__)

MAX_TOLD = 10_000
MAX_NAMED = 10
"""Names in one line of the log."""

# `trip.jsonl`, `trip.corrupt` and `trip.1764000000000-0000.live` are a conversation's own names.
_OWN = re.compile(r"([a-z0-9_%~-]+)\.(?:jsonl|corrupt|aside|\d{13}-\d{4}\.live)", re.ASCII)
# How a name of no conversation begins, such as `.trip.jsonl.swp` and `trip 2.corrupt`.
_STEM = re.compile(r"[.#]*([a-z0-9_%~-]+)(?![a-z0-9_%~-])", re.ASCII)


class Copies:
    """Logs each copy once. For any thread."""

    def __init__(self) -> None:
        self._told: set[Path] = set()
        self._lock = threading.Lock()

    def tell(self, found: Iterable[Path]) -> None:
        """Log those that are new, in one line."""
        with self._lock:
            new = sorted(set(found) - self._told)
            if len(self._told) > MAX_TOLD:
                self._told.clear()
            self._told.update(new)
        if new:
            names = [path.name for path in new[:MAX_NAMED]]
            extra = {"path": str(new[0].parent), "files": names, "count": len(new)}
            logger.warning("copies of conversations, not shown", extra=extra)


def is_foreign(first: Json | None, path: Path) -> bool:
    """Return whether a file's first record names another conversation than its name does."""
    if first is None:
        return False  # damaged: it hides nothing else
    if first["type"] == "feedback_log":
        return True
    if not isinstance(conversation_id := first.get("conversation_id"), str):
        return False
    name = f"{file_name(conversation_id)}.jsonl"
    if first["type"] == "log" and file_name(first["user_id"]) != path.parent.name:
        return True
    return name != path.name and not _is_same_file(path, name)


def _is_same_file(path: Path, name: str) -> bool:
    """Return whether a name leads to the file all the same, as on a case-blind file system."""
    if path.name.lower() != name:
        return False
    with suppress(OSError):
        one, other = os.lstat(path), os.lstat(path.with_name(name))
        return (one.st_ino, one.st_nlink) == (other.st_ino, 1)
    return False


def first_record(fd: int, size: int) -> Json | None:
    """Return the first line of a file that is a record, as far as a block holds it."""
    data = os.pread(fd, min(size, 4096), 0)
    if (cut := data.find(b"\n")) >= 0 and (record := records.parse(data[:cut])) is not None:
        return record
    data = os.pread(fd, min(size, BLOCK), 0)
    parsed = map(records.parse, data.split(b"\n"))
    return next((record for record in parsed if record is not None), None)


def is_copy(path: Path) -> bool:
    """
    Return whether a file is not of the conversation that its name says.

    Raises:
        OSError: It cannot be read.
    """
    fd = open_file(path)
    try:
        return is_foreign(first_record(fd, committed_size(fd)), path)
    finally:
        os.close(fd)


def remove_copies(conversation: Path) -> None:
    """
    Remove what a user's folder holds of a conversation besides its own files.

    Raises:
        OSError: Something of it may still be there.
    """
    for entry, own in _files(conversation.parent):
        if (own is None or own[1] != conversation.stem) and _is_copy_of(entry, own, conversation):
            path = Path(entry.path)
            path.unlink(missing_ok=True)
            if path.suffix == ".jsonl":
                # A line that a repair has moved out does not say which conversation it is of.
                for suffix in (".corrupt", ".aside"):
                    path.with_suffix(suffix).unlink(missing_ok=True)


def set_apart(path: Path) -> None:
    """
    Rename a copy that has taken a conversation's name; the new name is no conversation's.

    Raises:
        OSError: It has the name still.
    """
    number = 1
    while (apart := path.with_name(f"{path.stem} copy {number}.jsonl")).exists():
        number += 1
    os.rename(path, apart)
    extra = {"path": str(path), "now": apart.name}
    logger.warning("copy of another conversation set apart", extra=extra)


def _files(folder: Path) -> Iterator[tuple[os.DirEntry[str], re.Match[str] | None]]:
    """
    Yield the regular files in a folder, with what their names say where they are our own.

    Folders that another program has made in it are searched too.
    """
    folders = [str(folder)]
    while folders:
        where = folders.pop()
        with suppress(FileNotFoundError), os.scandir(where) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    yield entry, _OWN.fullmatch(entry.name) if where == str(folder) else None
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def _is_copy_of(entry: os.DirEntry[str], own: re.Match[str] | None, conversation: Path) -> bool:
    try:
        fd = open_file(entry.path)
    except FileNotFoundError:
        return False
    try:
        first = first_record(fd, BLOCK)
    finally:
        os.close(fd)
    if first is None:
        stem = _STEM.match(entry.name) if own is None else None
        return stem is not None and stem[1] == conversation.stem
    if first["type"].startswith("feedback"):
        return False
    conversation_id = first.get("conversation_id")
    return isinstance(conversation_id, str) and file_name(conversation_id) == conversation.stem
