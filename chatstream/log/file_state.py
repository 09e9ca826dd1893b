"""
What a conversation's file says when it is opened, and how a new one is made. Blocking: for threads.

Opening reads the end only: a torn last line is cut off, and the last record names the turns that
were running when the process died; their text is read from their live files.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from chatstream.errors import StorageFailed
from chatstream.events import EventId, before, is_event_id, place
from chatstream.log import records
from chatstream.log.folder import live_files
from chatstream.log.lines import committed_size, first_line
from chatstream.log.records import Json

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
    """What is known of a file without reading it whole. `created` is None where there is none."""

    created: EventId | None = None
    size: int = 0
    last: int = 0
    turns: int = 0
    titled: EventId | None = None
    orphans: list[Orphan] = field(default_factory=list)


def load(path: Path) -> FileState:
    """
    Read a conversation's file, repairing its end.

    Raises:
        StorageFailed: It cannot be read, or a newer version of chatstream wrote it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return FileState()
    except OSError as error:
        raise StorageFailed("The conversation's file cannot be opened.") from error
    try:
        size = committed_size(fd)
        created = _header(fd, size, path)
        _cut_torn_end(fd, size, path)
        return _read(fd, size, path, created) if size else FileState()
    except OSError as error:
        raise StorageFailed("The conversation's file cannot be read.") from error
    finally:
        os.close(fd)


def _cut_torn_end(fd: int, size: int, path: Path) -> None:
    torn = os.fstat(fd).st_size - size
    if torn:
        logger.warning("torn end cut off", extra={"file": path.name, "bytes": torn})
    if size == 0 and torn > MAX_HEADER:
        # Not a torn header: whatever it is, it is not ours to throw away.
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


def _read(fd: int, size: int, path: Path, created: EventId | None) -> FileState:
    last = next(records.records_back(fd, size), None)
    if last is None:
        return FileState(created or EventId("0000000000000-0000"), size, place(created or "0"))
    data = last.data
    if last.end < size:
        logger.warning("bad line", extra={"file": path.name, "offset": last.end})
    return FileState(
        created=created or before(data["id"]),
        size=size,
        last=place(data["id"]),
        turns=int(data.get("turns", 0)),
        titled=data.get("titled"),
        orphans=_orphans(fd, size, path, data.get("running") or []),
    )


def _orphans(fd: int, size: int, path: Path, running: list[EventId]) -> list[Orphan]:
    strays = {stray.name.split(".")[1]: stray for stray in live_files(path)}
    found = []
    for started_id in filter(is_event_id, running):
        stray = strays.pop(started_id, path.with_suffix(f".{started_id}.live"))
        if (started := records.line_at(fd, size, started_id)) is not None:
            found.append(_orphan(fd, size, started, stray))
    for name, stray in sorted(strays.items()):
        started = records.line_at(fd, size, EventId(name)) if is_event_id(name) else None
        if started is not None and len(records.find_turn(fd, size, started["turn_id"])) == 1:
            # Its terminal line is damaged, and what it said is still here.
            found.append(_orphan(fd, size, started, stray))
        else:
            # Its terminal event was durable, and only the removal was cut short.
            stray.unlink(missing_ok=True)
    return found


def _orphan(fd: int, size: int, started: Json, live_path: Path) -> Orphan:
    text, reasoning, answering = [], [], {}
    try:
        data = live_path.read_bytes()
    except FileNotFoundError:
        data = b""
    # What follows the last newline was never shown to anybody.
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
        # It died before its first delta, which is what the turn had that it took out of view.
        continued = records.find_turn(fd, size, started.get("replaces", ""))
        text = [record.data.get("text", "") for record in continued[:1]]
    return Orphan(started, "".join(text), "".join(reasoning), answering, live_path)
