"""
What the turns of one conversation took, counted from its file; of one that has grown, the rest.

The file is the truth: what was cleared is counted no more. A line's text is never decoded: what is
counted stands behind it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import NamedTuple

import orjson

from chatstream.events import TERMINAL_TYPES, Json, time_of
from chatstream.log.files import lookup, records
from chatstream.log.files.copies import first_record, is_foreign
from chatstream.log.files.opening import open_file

BLOCK = 256 * 1024
SLICE = 16 * 1024 * 1024
"""Bytes that are read before others have the thread."""

_ENDS = tuple(b'{"type":"%b"' % name.encode() for name in TERMINAL_TYPES)
# In a string every quote is escaped, so these bytes stand only between two fields.
_USAGE = b',"usage":'
_RECORD = b'{"type":"'
_TOKENS = ("input_tokens", "output_tokens")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}T", re.ASCII)


class Kind(NamedTuple):
    """What is counted together: turns that ended on one day (UTC), of one provider and model."""

    day: str
    provider: str | None
    model: str | None


@dataclass(slots=True)
class Count:
    """
    What some turns took. Every turn that ended is one of `turns`.

    Attributes:
        unknown: Turns whose provider gave no usage: they add nothing to the tokens.
        cached: Turns that were answered from the cache: nobody was asked, so no tokens either.
    """

    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unknown: int = 0
    cached: int = 0

    def add(self, other: Count) -> None:
        """Take another count in."""
        self.turns += other.turns
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.unknown += other.unknown
        self.cached += other.cached


Counts = dict[Kind, Count]
State = tuple[int, int, int]
"""A file's identity, its time of change and how much of it is to be counted."""


@dataclass(slots=True)
class UsageFile:
    """
    One conversation's file, as far as it was counted. For one thread at a time.

    Attributes:
        state: The file's identity and size when it was counted to its end; None before.
        offset: Up to where it was counted.
        last: Where the last line that was counted begins.
        mark: How that line begins: with its id, which is never given twice.
        foreign: It is a copy of another conversation's: it counts for nothing.
    """

    state: State | None = None
    offset: int = 0
    last: int = 0
    mark: bytes = b""
    counts: Counts = field(default_factory=dict)
    foreign: bool = False

    def read_on(self, path: str, state: State) -> int:
        """Count what follows, as far as a slice goes; returns how many bytes that were."""
        size = state[2]
        fd = open_file(path)
        try:
            if not self._is_same(fd, size):
                self.offset, self.mark, self.counts = 0, b"", {}
                self.foreign = is_foreign(first_record(fd, size), Path(path))
            if self.foreign:
                self.state = state
                return 0
            began = self.offset
            stop = min(size, began + SLICE)
            self._read(fd, stop)
            if self.offset == began and stop < size:
                stop = size  # one line is longer than a slice
                self._read(fd, stop)
            self.state = state if stop == size else None
            return stop - began
        finally:
            os.close(fd)

    def _is_same(self, fd: int, size: int) -> bool:
        """Return whether the counted file is still there: a clear puts another in its place."""
        if not self.mark or size < self.offset:
            return False
        return os.pread(fd, len(self.mark), self.last) == self.mark

    def _read(self, fd: int, stop: int) -> None:
        for start, line in _lines(fd, self.offset, stop):
            if line.startswith(_ENDS):
                if (end := _end(line)) is None:
                    lookup.damaged(fd, start)
                else:
                    self._add(end)
            if line.startswith(_RECORD):
                self.last, self.mark = start, line[:64]
            self.offset = start + len(line) + 1

    def _add(self, end: Json) -> None:
        kind = Kind(intern(_day(end)), _name(end.get("provider")), _name(end.get("model")))
        count = self.counts.get(kind)
        if count is None:
            count = self.counts[kind] = Count()
        count.turns += 1
        usage = end.get("usage")
        if end.get("cached") is True:
            count.cached += 1
        elif isinstance(usage, dict) and all(map(_is_count, map(usage.get, _TOKENS))):
            count.input_tokens += usage["input_tokens"]
            count.output_tokens += usage["output_tokens"]
        else:
            count.unknown += 1


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _name(value: object) -> str | None:
    return intern(value) if isinstance(value, str) else None


def _day(end: Json) -> str:
    at = end.get("ended_at")
    if not isinstance(at, str) or not _DAY.match(at):
        at = time_of(end["id"])
    return at[:10]


def _end(line: bytes) -> Json | None:
    """Return what a terminal record says from `usage` on, or all of it; None where it is bad."""
    cut = line.rfind(_USAGE)
    if cut > 0:
        try:
            end: Json = orjson.loads(b"{" + line[cut + 1 :])
        except orjson.JSONDecodeError:
            return records.parse(line)
        at = end.get("ended_at")
        if isinstance(at, str) and _DAY.match(at):
            return end
    return records.parse(line)


def _lines(fd: int, offset: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line without newline) of the whole lines between two places."""
    rest = b""
    upto = offset
    while upto < stop and (data := os.pread(fd, min(BLOCK, stop - upto), upto)):
        upto += len(data)
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            yield offset, line
            offset += len(line) + 1
