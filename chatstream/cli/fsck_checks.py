"""
What is wrong with one file of a data folder, line by line. It only reads.

A server may write the file meanwhile: what is found may be a change under way (see `fsck`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


class Report:
    """
    What one file holds.

    Attributes:
        problems: What is wrong with it, line by line.
        running: The starts of the turns that run, as its last record says.
    """

    def __init__(self, shown: str) -> None:
        """`shown` is the file's path in the data folder, for people."""
        self.problems: list[Problem] = []
        self.running: list[str] = []
        self._shown = shown

    def add(self, line: int | None, what: str, *, bad: bool = False) -> None:
        """Add something that is wrong."""
        self.problems.append(Problem(self._shown, line, what, bad))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Report a file that cannot be read, or not to its end: the others still are."""
        try:
            yield
        except OSError as error:
            self.add(None, f"cannot be read: {error.strerror}")


def check_lines(path: Path, shown: str, kind: str) -> Report:
    """Check a file whose first line is of a kind."""
    report = Report(shown)
    with report.reading():
        lines = _Lines(report, path, kind)
        number = 0
        for number, line in enumerate(read_lines(path), 1):
            lines.check(number, line)
        if number == 0 and path.exists():
            report.add(None, "empty file", bad=True)
    return report


def check_live(path: Path, shown: str) -> Report:
    """Find where the text of a running turn ends that a start would give it back."""
    report = Report(shown)
    with report.reading():
        for number, line in enumerate(read_lines(path), 1):
            record = records.parse(line)
            if not line.endswith(b"\n"):
                report.add(number, TORN, bad=True)
            elif record is None or record["type"] not in ("delta", "turn.answering"):
                report.add(number, "bad line: the text ends before it", bad=True)
                break
    return report


class _Lines:
    """The lines of one file, each compared with those before it."""

    def __init__(self, report: Report, path: Path, kind: str) -> None:
        self._report = report
        self._path = path
        self._kind = kind
        self._last_id = ""
        self._started: set[str] = set()
        self._ended: set[str] = set()

    def check(self, number: int, line: bytes) -> None:
        """Report what is wrong with the next line."""
        record = records.parse(line)
        if not line.endswith(b"\n"):
            self._report.add(number, TORN, bad=True)
        elif record is None or (number > 1 and record["type"] == self._kind):
            self._report.add(number, "bad line", bad=True)
        else:
            self._check_record(number, record)

    def _check_record(self, number: int, record: Json) -> None:
        if self._kind == "log" and record["id"] <= self._last_id:
            self._report.add(number, "id out of order")
        self._last_id = record["id"]
        misplaced = _misplaced(self._path, record, self._kind) if number == 1 else None
        if what := self._of_turn(record) or misplaced:
            self._report.add(number, what)
        self._report.running = list(record.get("running") or ())

    def _of_turn(self, record: Json) -> str | None:
        if record["type"] == "turn.started":
            self._started.add(record["id"])
        elif record["type"] in TERMINAL_TYPES:
            started_id = str(record.get("started_id"))
            if started_id in self._ended:
                return "duplicated terminal event"
            self._ended.add(started_id)
            if started_id not in self._started:
                return "terminal event without turn.started"
        return None


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
