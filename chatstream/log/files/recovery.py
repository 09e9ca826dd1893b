"""
What a start finds: intents that must be finished, files with a torn end, turns without an end.

Blocking, for a thread, before anybody reads or writes. Reads the intents and the ends of files;
it returns the conversations whose turns have no end, since ending them needs the clock.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chatstream.errors import DataFolderError
from chatstream.events import Address, place
from chatstream.log.files import bulk_import, lookup, records
from chatstream.log.files.line_io import committed_size, first_line
from chatstream.log.files.lookup import Record
from chatstream.log.files.opening import open_file
from chatstream.log.files.ownership import OTHERS_WRITE
from chatstream.log.files.paths import FEEDBACK, Folder
from chatstream.log.files.unfinished import carry_out, read_intent

logger = logging.getLogger(__name__)

_HEADERS = ("log", "feedback_log")
_LOG_HEADER, _FEEDBACK_HEADER = (
    b'{"type":"%b","version":%d,' % (kind.encode(), records.VERSION) for kind in _HEADERS
)


@dataclass(slots=True)
class Findings:
    """`orphaned` conversations are to be opened; no id at or below `floor` may be given."""

    orphaned: list[Address] = field(default_factory=list)
    floor: int = 0


def survey(folder: Folder) -> Findings:
    """
    Finish the intents and look at every file's end. A file that cannot be read is passed over.

    Raises:
        OSError: The data folder cannot be read.
        DataFolderError: A newer release has written in it; nothing is changed.
    """
    refuse_newer(folder)
    findings = Findings()
    for path in sorted(folder.intents.iterdir()):
        try:
            _finish(folder, path, findings)
        except OSError as error:
            if path.suffix == bulk_import.DECIDED:
                raise  # nothing may be written where the rest of an import is to go
            # It was never answered: better the other conversations now, and this at the next start.
            logger.error("erasure not finished", extra={"file": path.name, "errno": error.errno})
    others_write: list[str] = []
    for user in _entries(folder.users):
        if user.is_dir(follow_symlinks=False):
            if user.stat(follow_symlinks=False).st_mode & OTHERS_WRITE:
                others_write.append(user.path)
            try:
                _survey_user(Path(user.path), findings)
            except OSError as error:
                logger.error("unreadable folder", extra={"file": user.name, "errno": error.errno})
        elif user.is_symlink():
            logger.warning("symbolic link passed over", extra={"path": user.path})
    if others_write:
        extra = {"path": others_write[0], "count": len(others_write)}
        logger.warning("others may write in users' folders: chmod 700 them", extra=extra)
    return findings


def refuse_newer(folder: Folder) -> None:
    """
    Look at every file's first line, before anything is changed.

    Raises:
        OSError: The data folder cannot be read.
        DataFolderError: One is of a newer version than this release knows.
    """
    for user in _entries(folder.users):
        entries: list[os.DirEntry[str]] = []
        if user.is_dir(follow_symlinks=False):
            with suppress(OSError):  # the survey reports it
                entries = _entries(Path(user.path))
        for entry in entries:
            if entry.name.endswith(".jsonl"):
                with suppress(OSError):
                    _refuse_newer(folder, Path(entry.path))


def _refuse_newer(folder: Folder, path: Path) -> None:
    fd = open_file(path)
    try:
        beginning = os.pread(fd, len(_FEEDBACK_HEADER), 0)
        if beginning.startswith((_LOG_HEADER, _FEEDBACK_HEADER)) or not beginning:
            return
        header = records.parse(first_line(fd, os.fstat(fd).st_size))
    finally:
        os.close(fd)
    version = header.get("version") if header and header["type"] in _HEADERS else None
    if isinstance(version, int) and version > records.VERSION:
        raise DataFolderError(
            f"CHATSTREAM_DATA_DIR: {path.relative_to(folder.root)} is of version {version}, "
            f"from a newer release of chatstream; this one reads version {records.VERSION}, "
            "and has changed nothing"
        )


def _entries(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


def _finish(folder: Folder, path: Path, findings: Findings) -> None:
    if path.is_symlink():
        logger.warning("symbolic link passed over", extra={"path": str(path)})
        return
    if path.suffix in (".erased", bulk_import.STAGED):
        shutil.rmtree(path)
        return
    if path.suffix == bulk_import.DECIDED:
        bulk_import.finish(folder, path)
        logger.warning("finished an import")
        return
    if path.suffix != ".json":
        path.unlink()  # an intent that was never durable: nothing was promised
        return
    if (intent := read_intent(path)) is not None:
        findings.floor = max(findings.floor, place(intent["id"]))
        carry_out(folder, intent)


def _survey_user(folder: Path, findings: Findings) -> None:
    entries = _entries(folder)
    # Those with a live file are opened: that ends its turn, or removes it.
    live = {entry.name.split(".")[0] for entry in entries if entry.name.endswith(".live")}
    files = {entry.name.removesuffix(".jsonl") for entry in entries}
    for entry in entries:
        name = entry.name
        if name.endswith(".live") and name.split(".")[0] not in files:
            os.unlink(entry.path)  # its conversation was erased
        if name.endswith(".aside"):
            os.unlink(entry.path)
        if not name.endswith(".jsonl") or name == FEEDBACK:
            continue
        try:
            _survey_file(Path(entry.path), name.removesuffix(".jsonl") in live, findings)
        except OSError as error:
            told = {"file": name, "path": entry.path, "errno": error.errno}
            logger.error("unreadable file", extra=told | {"cause": error.strerror})


def _survey_file(path: Path, has_live: bool, findings: Findings) -> None:
    fd = open_file(path)
    try:
        needs, last = _look(fd)
        if last is not None:
            findings.floor = max(findings.floor, place(last.data["id"]))
        if (needs or has_live) and (address := _address(fd)):
            findings.orphaned.append(address)
    finally:
        os.close(fd)


def _look(fd: int) -> tuple[bool, Record | None]:
    size = os.fstat(fd).st_size
    end = size if size and os.pread(fd, 1, size - 1) == b"\n" else committed_size(fd)
    last = next(lookup.records_back(fd, end, 4096), None)
    return end < size or (last is not None and bool(last.data.get("running"))), last


def _address(fd: int) -> Address | None:
    header = records.parse(first_line(fd, os.fstat(fd).st_size))
    if header is None or header["type"] != "log":
        return None
    return Address(header["user_id"], header["conversation_id"])
