"""
What a start finds: intents that must be finished, files with a torn end, turns without an end.

Blocking, for a thread, before anybody reads or writes. Reads the intents and the ends of files;
whose turns are to be ended is returned, since that needs the clock.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from chatstream.events import Address, EventId, place
from chatstream.log import records
from chatstream.log.erase import (
    Intent,
    finish_intent,
    remove_conversation,
    remove_user,
)
from chatstream.log.folder import FEEDBACK, Folder, live_files
from chatstream.log.records import Record
from chatstream.log.syncer import sync_folder

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Findings:
    """`orphaned` conversations are to be opened; no id at or below `floor` may be given."""

    orphaned: list[Address] = field(default_factory=list)
    floor: int = 0


def survey(folder: Folder) -> Findings:
    """
    Finish the intents and look at every file's end.

    Raises:
        OSError: The data folder cannot be read.
    """
    findings = Findings()
    for path in sorted(folder.intents.iterdir()):
        _finish(folder, path, findings)
    for user in _entries(folder.users):
        if user.is_dir(follow_symlinks=False):
            _survey_user(Path(user.path), findings)
    return findings


def _entries(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


def _finish(folder: Folder, path: Path, findings: Findings) -> None:
    if path.suffix == ".erased":
        shutil.rmtree(path)
        return
    if path.suffix != ".json":
        path.unlink()  # an intent that was never durable: nothing was promised
        return
    try:
        intent: Intent = orjson.loads(path.read_bytes())
        address = Address(intent["user_id"], intent["conversation_id"])
        scope, identifier = intent["scope"], intent["id"]
    except (ValueError, KeyError, TypeError):
        logger.error("unreadable intent", extra={"file": path.name})
        return
    findings.floor = max(findings.floor, place(identifier))
    if scope == "user":
        if _older(folder.user(intent["user_id"]), identifier):
            remove_user(folder, intent)
    elif scope == "conversation":
        conversation = folder.conversation(address)
        created = _created(conversation)
        if created is not None and created <= identifier:
            remove_conversation(conversation)
    else:
        _clear(folder.conversation(address), address, identifier)
    finish_intent(folder, intent)
    logger.warning("finished an erasure", extra={"scope": scope})


def _older(user: Path, identifier: EventId) -> bool:
    """Say whether a user's folder is the one that the intent means, not one made after it."""
    if not user.exists():
        return False
    created = [_created(Path(entry.path)) for entry in _entries(user)]
    return all(first is None or first <= identifier for first in created)


def _created(path: Path) -> EventId | None:
    """Return a log's beginning; None where there is none that says."""
    try:
        with path.open("rb") as file:
            record = records.parse(file.readline())
    except FileNotFoundError:
        return None
    return record["id"] if record is not None else EventId("0000000000000-0000")


def _clear(path: Path, address: Address, upto: EventId) -> None:
    for live in live_files(path):
        if live.name.split(".")[1] <= upto:
            live.unlink(missing_ok=True)
    for name in (".aside", ".corrupt"):
        path.with_suffix(name).unlink(missing_ok=True)
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    parsed = [(line, records.parse(line)) for line in lines]
    kept = [line for line, record in parsed if record and record["id"] > upto]
    header = next((r for _, r in parsed if r and r["type"] == "log"), None)
    if len(kept) + 1 == len(lines) and header is not None:
        return
    created = header["id"] if header else upto
    data = records.header(address, created, header.get("created_at", "") if header else "")
    if not kept:
        # The clear had not told anybody yet: readers that come back learn of it here.
        event = {
            "type": "history.cleared",
            "id": upto,
            "conversation_id": address.conversation_id,
        }
        kept = [records.line(event, {"turns": 0, "running": []})[1][:-1]]
    aside = path.with_suffix(".aside")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data + b"".join(line + b"\n" for line in kept))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(aside, path)
    sync_folder(path.parent)


def _survey_user(folder: Path, findings: Findings) -> None:
    for entry in _entries(folder):
        name = entry.name
        if name.endswith(".aside"):
            os.unlink(entry.path)
        if not name.endswith(".jsonl") or name == FEEDBACK:
            continue
        path = Path(entry.path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            logger.error("unreadable file", extra={"file": name, "errno": error.errno})
            continue
        try:
            needs, last = _look(fd)
            if last is not None:
                findings.floor = max(findings.floor, place(last.data["id"]))
            if needs and (address := _address(fd)):
                findings.orphaned.append(address)
        finally:
            os.close(fd)


def _look(fd: int) -> tuple[bool, Record | None]:
    size = os.fstat(fd).st_size
    end = size if size and os.pread(fd, 1, size - 1) == b"\n" else records.committed_size(fd)
    last = next(records.records_back(fd, end, 4096), None)
    return end < size or (last is not None and bool(last.data.get("running"))), last


def _address(fd: int) -> Address | None:
    header = records.parse(records.first_line(fd, os.fstat(fd).st_size))
    if header is None or header["type"] != "log":
        return None
    return Address(header["user_id"], header["conversation_id"])
