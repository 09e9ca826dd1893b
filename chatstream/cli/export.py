"""
Writes out what a user has: for other programs as JSON lines, for people as Markdown.

It only reads and takes no lock, so it may run beside a server: what it shows of a conversation is
a state that it had. A running turn has its message only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from chatstream.errors import NotFound, StorageFailed
from chatstream.events import Address, Json
from chatstream.log.files import lookup, records
from chatstream.log.files.copies import is_copy
from chatstream.log.files.line_io import committed_size
from chatstream.log.files.listing import read_entry
from chatstream.log.files.opening import open_file, opener
from chatstream.log.files.paths import Folder, conversation_files, is_folder
from chatstream.schemas import Addressed, parse
from chatstream.views.history import messages

Format = Literal["jsonl", "markdown"]
_LINE_END = re.compile(r"\r\n?|\n")


def export(
    root: Path, user_id: str, conversation_id: str | None, format: Format
) -> Iterator[bytes]:
    """
    Yield one conversation, or all that a user has: the conversations, oldest first.

    As `jsonl` each begins with its line of type `log`; its permanent events follow, in order, as
    clients get them, and after all conversations the user's feedback. As `markdown`: the messages
    in view, each quoted, so that nothing in one reaches out of it.

    Raises:
        NotFound: There is nothing of that name.
        InvalidRequest: It cannot be a name.
        StorageFailed: Something of it cannot be read; also while it is iterated.
    """
    parse(Addressed, {"user_id": user_id, "conversation_id": conversation_id})
    folder = Folder(root)
    with _readable():
        return _found(folder, user_id, conversation_id, format)


def _found(
    folder: Folder, user_id: str, conversation_id: str | None, format: Format
) -> Iterator[bytes]:
    if conversation_id is None:
        files = conversation_files(folder.user(user_id))
        paths = sorted(filter(_is_own, files), key=_created)
    else:
        path = folder.conversation(Address(user_id, conversation_id))
        paths = [path] if is_folder(path.parent) and _is_own(path) else []
    feedback = folder.feedback(user_id)
    whole = conversation_id is None and format == "jsonl"
    if not any(path.exists() for path in [*paths, *([feedback] if whole else [])]):
        raise NotFound("There is no such user or conversation.")
    return _parts(paths, feedback if whole else None, format)


def _parts(paths: list[Path], feedback: Path | None, format: Format) -> Iterator[bytes]:
    with _readable():
        for path in paths:
            yield from _events(path) if format == "jsonl" else _markdown(path)
        if feedback is not None:
            yield from _events(feedback)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = os.path.basename(str(error.filename or ""))
        raise StorageFailed(f"{name} cannot be read: {error.strerror}") from error


def _is_own(path: Path) -> bool:
    """Return whether there is a file, and it is of the conversation that its name says."""
    try:
        return not is_copy(path)
    except FileNotFoundError:
        return False


def _created(path: Path) -> str:
    try:
        with open(path, "rb", opener=opener) as file:
            record = records.parse(file.readline())
    except FileNotFoundError:
        record = None
    return record["id"] if record else ""


def _events(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without our bookkeeping; one that is not yet whole is left out."""
    try:
        file = open(path, "rb", opener=opener)
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if line.endswith(b"\n") and records.parse(line) is not None:
                yield records.public_json(line[:-1]) + b"\n"


def _markdown(path: Path) -> Iterator[bytes]:
    try:
        entry = read_entry(path, path.stat().st_size)
        fd = open_file(path)
    except FileNotFoundError:
        return
    try:
        size = committed_size(fd)
        last = next(lookup.records_back(fd, size), None)
        running = frozenset(last.data.get("running") or ()) if last else frozenset()
        newest_first = [item for _, item in messages(fd, size, None, running)]
    finally:
        os.close(fd)
    title = entry.title or entry.conversation_id if entry else path.stem
    yield f"# {title}\n\n".encode()
    for item in reversed(newest_first):
        yield _section(item).encode()


def _section(item: Json) -> str:
    facts = [item["timestamp"]]
    if item["role"] == "assistant":
        facts += [item["model"]]
    # A reply says how it ended; a message says it where there is no reply.
    if item["status"] != "completed":
        facts.append(item["status"])
    told = ", ".join(" ".join(fact.split()) for fact in facts if fact)
    # Quoted, no fence, comment or heading in a message reaches what follows it.
    lines = _LINE_END.split(item["message"])
    quoted = "\n".join(f"> {line}" if line else ">" for line in lines)
    return f"## {item['role'].capitalize()} ({told})\n\n{quoted}\n\n"
