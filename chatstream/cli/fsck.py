"""
Checks a data folder, and moves damaged lines aside.

Checking only reads and takes no lock, so it may run beside a server: what looks wrong is looked
at a second time, since it may be a change under way. Repairing needs the folder to itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import orjson

from chatstream.cli.fsck_checks import Problem, check_lines, check_live, read_lines
from chatstream.errors import DataFolderError
from chatstream.events import Address, EventId, before, time_of
from chatstream.log.files import records
from chatstream.log.files.names import file_name
from chatstream.log.files.paths import FEEDBACK, Folder
from chatstream.log.files.recovery import refuse_newer
from chatstream.log.files.syncer import sync_folder

__all__ = ["Problem", "check", "repair"]

SETTLE_SECONDS = 0.5
"""How long a change by a running server has to be over."""
AT_THE_TOP = frozenset(("users", "intents", "clock", "reserve", "lock"))


def check(root: Path) -> list[Problem]:
    """
    Return what is wrong in a data folder, in the order of its files.

    Raises:
        DataFolderError: It is none, or cannot be read.
    """
    try:
        found = {part: _part(root, part) for part in _parts(root)}
        wrong = [part for part, problems in found.items() if problems]
        if wrong:
            time.sleep(SETTLE_SECONDS)
        for part in wrong:
            again = set(_part(root, part))
            found[part] = [problem for problem in found[part] if problem in again]
    except OSError as error:
        raise DataFolderError(f"{root} cannot be checked: {error.strerror}") from error
    return [problem for problems in found.values() for problem in problems]


def repair(root: Path) -> list[Problem]:
    """
    Move the bad lines of every file to `<name>.corrupt` beside it; returns what was wrong before.
    What holds nothing else is removed.

    Clearing and erasing take that file along. A lost first line is written anew where the names
    of the folder and the file tell what it said. Dying in the middle loses nothing: a line may then
    be in `.corrupt` twice.

    Raises:
        DataFolderError: Another process owns it, a newer release wrote it, it is none, or it
            cannot be changed.
    """
    if not (root / "users").is_dir():
        raise DataFolderError(f"{root} is no data folder")
    folder = Folder(root)
    folder.own()
    try:
        refuse_newer(folder)
        found = [problem for part in _parts(root) for problem in _part(root, part)]
        for file in dict.fromkeys(problem.file for problem in found if problem.bad):
            bad = {p.line for p in found if p.bad and p.file == file}
            _move_aside(root / file, {number for number in bad if number is not None})
    except OSError as error:
        raise DataFolderError(f"{root} cannot be repaired: {error.strerror}") from error
    finally:
        folder.release()
    return found


# ---- checking


def _parts(root: Path) -> list[str]:
    """Name what is checked at a time: the top (empty), and every user's folder."""
    users = root / "users"
    if not users.is_dir():
        raise DataFolderError(f"{root} is no data folder")
    if users.is_symlink():
        return [""]
    return ["", *sorted(entry.name for entry in _entries(root / "users") if _is_folder(entry))]


def _part(root: Path, name: str) -> list[Problem]:
    return list(_check_user(root / "users" / name) if name else _check_top(root))


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _check_top(root: Path) -> Iterator[Problem]:
    links = set()
    for entry in _entries(root):
        if entry.is_symlink():
            links.add(entry.name)
            yield Problem(entry.name, None, "symbolic link: it is not followed")
        elif entry.name not in AT_THE_TOP:
            yield Problem(entry.name, None, "unknown file")
    for entry in _entries(root / "intents") if "intents" not in links else ():
        yield Problem(f"intents/{entry.name}", None, "stale intent: the next start finishes it")
    for entry in _entries(root / "users") if "users" not in links else ():
        if not _is_folder(entry):
            yield Problem(f"users/{entry.name}", None, "unknown file")


def _check_user(folder: Path) -> Iterator[Problem]:
    # The live files before the conversations: a turn begins in its conversation's file.
    entries = _entries(folder)
    names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    for other in sorted({entry.name for entry in entries}.difference(names)):
        yield Problem(f"users/{folder.name}/{other}", None, "no regular file")
    running: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(".jsonl"):
            kind = "feedback_log" if name == FEEDBACK else "log"
            report = check_lines(folder / name, f"users/{folder.name}/{name}", kind)
            running[name.removesuffix(".jsonl")] = report.running
            yield from report.problems
        else:
            yield from _check_beside(folder, name, names)
    for name in names:
        stem, _, kind = name.partition(".")
        if stem in running and kind.endswith(".live"):
            yield from _check_live(folder, name, kind.removesuffix(".live") in running[stem])


def _check_beside(folder: Path, name: str, names: list[str]) -> Iterator[Problem]:
    """Report what may not lie beside the conversations."""
    stem, _, kind = name.partition(".")
    shown = f"users/{folder.name}/{name}"
    if kind == "aside":
        yield Problem(shown, None, "left by a rewrite that was cut off")
    elif kind != "corrupt" and not (kind.endswith(".live") and f"{stem}.jsonl" in names):
        yield Problem(shown, None, "unknown file")


def _check_live(folder: Path, name: str, runs: bool) -> list[Problem]:
    shown = f"users/{folder.name}/{name}"
    if not runs:
        return [Problem(shown, None, "live file without a turn")]
    return check_live(folder / name, shown).problems


# ---- repairing


def _move_aside(path: Path, numbers: set[int]) -> None:
    kept: list[bytes] = []
    moved: list[bytes] = []
    is_live = path.suffix == ".live"
    for number, line in enumerate(read_lines(path), 1):
        # A running turn's text ends at the first: it must not get a hole.
        (moved if number in numbers or (is_live and moved) else kept).append(line)
    if 1 in numbers and kept:
        # Where nothing tells what it said, the damaged one stays.
        kept.insert(0, _header(path, kept[0]) or moved.pop(0))
    if moved:
        corrupt = path.with_name(path.name.partition(".")[0] + ".corrupt")
        _write(corrupt, moved, os.O_APPEND)
        sync_folder(path.parent)
    if kept:
        aside = path.with_suffix(".aside")
        _write(aside, kept, os.O_TRUNC)
        os.replace(aside, path)
    else:
        path.unlink()
    sync_folder(path.parent)


def _header(path: Path, first: bytes) -> bytes | None:
    """Return a first line for what has lost it; None where the names do not tell whose it is."""
    record = records.parse(first)
    user_id = unquote(path.parent.name)
    if record is None or file_name(user_id) != path.parent.name:
        return None
    created: EventId = before(record["id"])
    if path.name == FEEDBACK:
        header = {"type": "feedback_log", "version": records.VERSION, "id": created}
        return orjson.dumps(header | {"user_id": user_id}) + b"\n"
    address = Address(user_id, str(record.get("conversation_id")))
    return records.header(address, created, time_of(created))


def _write(path: Path, lines: list[bytes], mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | mode
    with open(path, "wb", opener=lambda name, _: os.open(name, flags, 0o600)) as file:
        for line in lines:
            file.write(line if line.endswith(b"\n") else line + b"\n")
        file.flush()
        os.fsync(file.fileno())
