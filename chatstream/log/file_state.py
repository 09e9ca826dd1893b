"""
What a conversation's file says when it is opened, and how a new one is made. Blocking: for threads.

Opening reads the end only: a torn last line is cut off, and the last record names the turns that
were running when the process died; their text is read from their live files.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from chatstream.errors import StorageFailed
from chatstream.events import Address, EventId, before, place, timestamp
from chatstream.log import records
from chatstream.log.folder import live_files
from chatstream.log.records import Json
from chatstream.log.syncer import sync_folder

logger = logging.getLogger(__name__)


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
        size = _cut_torn_end(fd, path)
        if size == 0:
            path.unlink()
            return FileState()
        return _read(fd, size, path)
    except OSError as error:
        raise StorageFailed("The conversation's file cannot be read.") from error
    finally:
        os.close(fd)


def _cut_torn_end(fd: int, path: Path) -> int:
    size = records.committed_size(fd)
    torn = os.fstat(fd).st_size - size
    if torn:
        logger.warning("torn end cut off", extra={"file": path.name, "bytes": torn})
        os.ftruncate(fd, size)
        os.fsync(fd)
    return size


def _read(fd: int, size: int, path: Path) -> FileState:
    header = records.first_line(fd, size)
    record = records.parse(header)
    created: EventId | None = None
    if record is not None and record["type"] == "log":
        if record.get("version") != records.VERSION:
            raise StorageFailed(
                f"The conversation's file is of version {record.get('version')}, and this release "
                f"reads version {records.VERSION}.",
                code="newer_version",
            )
        created = record["id"]
    else:
        logger.warning("bad line", extra={"file": path.name, "offset": 0})
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
    found = []
    for started_id in running:
        live_path = path.with_suffix(f".{started_id}.live")
        line = records.line_at(fd, size, started_id)
        if line is not None:
            found.append(_orphan(line, live_path))
    known = {orphan.live_path for orphan in found}
    for stray in live_files(path):
        if stray not in known:
            # Its terminal event was durable, and only the removal was cut short.
            stray.unlink(missing_ok=True)
    return found


def _orphan(started: Json, live_path: Path) -> Orphan:
    text, reasoning, answering = [], [], {}
    try:
        data = live_path.read_bytes()
    except FileNotFoundError:
        data = b""
    # What follows the last newline was never shown to anybody.
    for line in data.split(b"\n")[:-1]:
        record = records.parse(line)
        if record is None or record.get("turn_id") != started["turn_id"]:
            continue
        if record["type"] == "turn.answering":
            answering = record
        elif record.get("kind") == "reasoning":
            reasoning.append(record["text"])
        else:
            text.append(record["text"])
    return Orphan(started, "".join(text), "".join(reasoning), answering, live_path)


def create(path: Path, address: Address, identifier: EventId, *, durable: bool) -> int:
    """
    Make a new file with its header; returns its size. Durable by name and content, if asked.

    Raises:
        OSError: It could not be made.
    """
    new_user = not path.parent.exists()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    header = records.header(address, identifier, timestamp(place(identifier) // 10_000))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        if os.write(fd, header) < len(header):
            raise OSError(28, "no space for a new file")
        if durable:
            os.fsync(fd)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
    if durable:
        sync_folder(path.parent)
        if new_user:
            sync_folder(path.parent.parent)
    return len(header)


def reopen(path: Path, size: int) -> int:
    """
    Open a file for appending at `size`; what lies behind it was never acknowledged, and is cut.

    Raises:
        OSError: It cannot be opened, or has lost what was acknowledged.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = os.fstat(fd).st_size
        if found < size:
            raise OSError(5, f"{found} bytes where {size} were written")
        if found > size:
            os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def interrupted(orphan: Orphan) -> Json:
    """Return what is known of an orphan's end, besides its text."""
    request = orphan.started.get("request") or {}
    return {
        "usage": None,
        "provider": orphan.answering.get("provider", request.get("provider")),
        "model": orphan.answering.get("model", request.get("model")),
        "ended_at": timestamp(time.time_ns() // 1_000_000),
        "ttft_ms": None,
        "duration_ms": None,
    }
