"""
What a conversation's file says when it is opened, and how a new one is made. Blocking: for threads.

Opening reads the end only: a torn last line is cut off, and the last record names the turns that
were running when the process died; their text is read from their live files.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from chatstream.errors import StorageFailed
from chatstream.events import EventId, Json, before, is_event_id, place
from chatstream.log.files import lookup, records
from chatstream.log.files.copies import first_record, is_foreign
from chatstream.log.files.line_io import committed_size, first_line
from chatstream.log.files.opening import UPDATE, open_file, read_file
from chatstream.log.files.paths import live_files

logger = logging.getLogger(__name__)

MAX_HEADER = 8192
"""Bytes of the longest header: two ids of 256 code points, escaped."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A turn that was running when the process died, and what had come of it."""

    started: Json
    text: str
    reasoning: str
    answering: Json
    live_path: Path


@dataclass(frozen=True, slots=True)
class FileState:
    """
    What is known of a file without reading it whole. `created` is None where there is none.

    `foreign`: there is one of this name, and it is a copy of another conversation's.
    """

    created: EventId | None = None
    size: int = 0
    last: int = 0
    turns: int = 0
    titled: EventId | None = None
    orphans: list[Orphan] = field(default_factory=list)
    inode: int = 0
    foreign: bool = False


def load(path: Path, running: frozenset[EventId] = frozenset()) -> FileState:
    """
    Read a conversation's file, repairing its end. Turns that are `running` here are no orphans.

    Raises:
        OSError: It cannot be read.
        StorageFailed: A newer version of chatstream wrote it.
    """
    try:
        fd = open_file(path, UPDATE)
    except FileNotFoundError:
        return FileState()
    try:
        size = committed_size(fd)
        if size and is_foreign(first_record(fd, size), path):
            return FileState(foreign=True, inode=os.fstat(fd).st_ino)
        created = _header(fd, size, path)
        _cut_torn_end(fd, size, path)
        return _read(fd, size, path, created, running) if size else FileState()
    finally:
        os.close(fd)


def _cut_torn_end(fd: int, size: int, path: Path) -> None:
    torn = os.fstat(fd).st_size - size
    if torn:
        logger.warning("torn end cut off", extra={"file": path.name, "bytes": torn})
    if size == 0 and torn > MAX_HEADER:
        # No torn header: the file is not ours, and is not thrown away.
        os.replace(path, path.with_suffix(".corrupt"))
    elif size == 0:
        path.unlink()
    elif torn:
        os.ftruncate(fd, size)
        os.fsync(fd)


def _header(fd: int, size: int, path: Path) -> EventId | None:
    record = records.parse(first_line(fd, size)) if size else None
    if record is not None and record["type"] == "log":
        if record.get("version") != records.VERSION:
            raise StorageFailed(
                f"The conversation's file is of version {record.get('version')}, and this release "
                f"reads version {records.VERSION}.",
                code="newer_version",
            )
        return EventId(record["id"])
    logger.warning("bad line", extra={"file": path.name, "offset": 0})
    return None


def _read(
    fd: int, size: int, path: Path, created: EventId | None, running: frozenset[EventId]
) -> FileState:
    inode = os.fstat(fd).st_ino
    last = next(lookup.records_back(fd, size), None)
    if last is None:
        created = created or EventId("0000000000000-0000")
        return FileState(created, size, place(created), inode=inode)
    data = last.data
    if last.end < size:
        logger.warning("bad line", extra={"file": path.name, "offset": last.end})
    return FileState(
        created=created or before(data["id"]),
        size=size,
        last=place(data["id"]),
        turns=int(data.get("turns", 0)),
        titled=data.get("titled"),
        orphans=_orphans(fd, size, path, data.get("running") or [], running),
        inode=inode,
    )


def _orphans(
    fd: int, size: int, path: Path, open_turns: list[EventId], running: frozenset[EventId]
) -> list[Orphan]:
    strays = {stray.name.split(".")[1]: stray for stray in live_files(path)}
    for started_id in running:
        strays.pop(started_id, None)
    found = []
    for started_id in filter(is_event_id, open_turns):
        if started_id in running:
            continue
        stray = strays.pop(started_id, path.with_suffix(f".{started_id}.live"))
        if (started := lookup.line_at(fd, size, started_id)) is not None:
            found.append(_orphan(fd, size, started, stray))
    for name, stray in sorted(strays.items()):
        started = lookup.line_at(fd, size, EventId(name)) if is_event_id(name) else None
        if started is not None and len(lookup.find_turn(fd, size, started["turn_id"])) == 1:
            # Its terminal line is damaged, and what it said is still here.
            found.append(_orphan(fd, size, started, stray))
        else:
            # Its terminal event was durable, and only the removal was cut short.
            stray.unlink(missing_ok=True)
    return found


def _orphan(fd: int, size: int, started: Json, live_path: Path) -> Orphan:
    text, reasoning, answering = [], [], {}
    try:
        data = read_file(live_path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.EINVAL):
            raise
        if error.errno != errno.ENOENT:
            extra = {"path": str(live_path), "cause": error.strerror}
            logger.warning("live file passed over", extra=extra)
        data = b""
    # No reader was ever shown what follows the last newline.
    for line in data.split(b"\n")[:-1]:
        record = records.parse(line)
        if record is None or record.get("turn_id") != started["turn_id"]:
            break  # damage, after a power cut: a text with a hole would be worse than a short one
        if record["type"] == "turn.answering":
            answering = record
        elif record["type"] != "delta":
            break
        elif record.get("kind") == "reasoning":
            reasoning.append(record["text"])
        else:
            text.append(record["text"])
    if not text and started.get("kind") == "continue":
        # It died before its first delta: the text that it was to go on from is its text.
        text = [_last_text(fd, size, str(started.get("replaces")))]
    return Orphan(started, "".join(text), "".join(reasoning), answering, live_path)


def _last_text(fd: int, size: int, turn_id: str) -> str:
    for record in lookup.find_turn(fd, size, turn_id)[:1]:
        if isinstance(text := record.data.get("text"), str):
            return text
    return ""
