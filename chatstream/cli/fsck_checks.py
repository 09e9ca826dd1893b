"""
What is wrong with one file of a data folder, line by line. It only reads.

A server may write the file meanwhile: what is found may be a change under way (see `fsck`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from chatstream.events import TERMINAL_TYPES, Json
from chatstream.log.files import records
from chatstream.log.files.names import file_name
from chatstream.log.files.opening import opener
from chatstream.log.files.paths import FEEDBACK

TORN = "torn line: it was never acknowledged"


class Problem(NamedTuple):
    """One thing that is wrong. `bad` lines are what a repair moves."""

    file: str
    line: int | None
    what: str
    bad: bool = False

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.what}"


def check_lines(path: Path, shown: str, kind: str, running: list[str]) -> Iterator[Problem]:
    """Yield what is wrong with a file, whose first line is of a kind; fills in what runs in it."""
    started: set[str] = set()
    ended: set[str] = set()
    last_id = ""
    number = 0
    for number, line in enumerate(read_lines(path), 1):
        record = records.parse(line)
        if not line.endswith(b"\n"):
            yield Problem(shown, number, TORN, bad=True)
        elif record is None or (number > 1 and record["type"] == kind):
            yield Problem(shown, number, "bad line", bad=True)
        else:
            if kind == "log" and record["id"] <= last_id:
                yield Problem(shown, number, "id out of order")
            last_id = record["id"]
            misplaced = _misplaced(path, record, kind) if number == 1 else None
            if what := _of_turn(record, started, ended) or misplaced:
                yield Problem(shown, number, what)
            running[:] = record.get("running") or ()
    if number == 0 and path.exists():
        yield Problem(shown, None, "empty file", bad=True)


def check_live(path: Path, shown: str) -> Iterator[Problem]:
    """Yield where the text of a running turn ends that a start would give it back."""
    for number, line in enumerate(read_lines(path), 1):
        record = records.parse(line)
        if not line.endswith(b"\n"):
            yield Problem(shown, number, TORN, bad=True)
        elif record is None or record["type"] not in ("delta", "turn.answering"):
            yield Problem(shown, number, "bad line: the text ends before it", bad=True)
            return


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their newlines; none where there is no file."""
    try:
        file = open(path, "rb", opener=opener)
    except FileNotFoundError:
        return
    with file:
        yield from file


def _misplaced(path: Path, header: Json, kind: str) -> str | None:
    if header["type"] != kind:
        return f"the first line is not of type {kind}"
    if header.get("version") != records.VERSION:
        return f"version {header.get('version')}: this release knows {records.VERSION}"
    name = FEEDBACK.removesuffix(".jsonl")
    if kind == "log":
        name = file_name(str(header.get("conversation_id")))
    if (file_name(str(header.get("user_id"))), name) != (path.parent.name, path.stem):
        return "of another user or conversation than its name says"
    return None


def _of_turn(record: Json, started: set[str], ended: set[str]) -> str | None:
    if record["type"] == "turn.started":
        started.add(record["id"])
    elif record["type"] in TERMINAL_TYPES:
        started_id = str(record.get("started_id"))
        if started_id in ended:
            return "duplicated terminal event"
        ended.add(started_id)
        if started_id not in started:
            return "terminal event without turn.started"
    return None
