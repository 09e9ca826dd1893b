"""
The lines of a file, found from its end, from its beginning and around a place.

Nothing here knows what a line says. Every function reads a file descriptor at places that it is
given; a line of any length costs a few reads, and no more than its bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

BLOCK = 64 * 1024
_STEP = 4096


def lines_back(fd: int, end: int, block: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """
    Yield (offset, line without newline) from `end` back to the beginning.

    `end` lies behind a newline. Reads blocks: the newest lines of a long file cost what they are.
    """
    # The beginning of a line that is not yet whole, in the order in which it was read: backwards.
    partial: list[bytes] = []
    while end > 0:
        start = max(0, end - block)
        data = os.pread(fd, end - start, start)
        if len(data) < end - start:
            return
        stop = len(data)
        while (cut := data.rfind(b"\n", 0, stop)) >= 0:
            whole = data[cut + 1 : stop] + b"".join(reversed(partial))
            partial.clear()
            if whole:
                yield start + cut + 1, whole
            stop = cut
        partial.append(data[:stop])
        end = start
    if whole := b"".join(reversed(partial)):
        yield 0, whole


def committed_size(fd: int, upto: int | None = None) -> int:
    """
    Return where the last whole line ends (before `upto`, if given).

    What lies behind the last line of a file was never acknowledged.
    """
    end = os.fstat(fd).st_size if upto is None else upto
    while end > 0:
        start = max(0, end - BLOCK)
        cut = os.pread(fd, end - start, start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


def line_around(fd: int, offset: int, size: int) -> tuple[int, bytes]:
    """Return the line that the byte at `offset` belongs to, without newline, and its start."""
    start = offset
    head: list[bytes] = []
    step = _STEP
    while start > 0:
        begin = max(0, start - step)
        data = os.pread(fd, start - begin, begin)
        cut = data.rfind(b"\n")
        head.append(data[cut + 1 :])
        start = begin + cut + 1
        if cut >= 0:
            break
        step *= 2
    head.reverse()
    step = _STEP
    while offset < size:
        data = os.pread(fd, step, offset)
        cut = data.find(b"\n")
        head.append(data if cut < 0 else data[:cut])
        if cut >= 0 or not data:
            break
        offset += len(data)
        step *= 2
    return start, b"".join(head)


def first_line(fd: int, size: int) -> bytes:
    """Return the first line, without its newline."""
    return line_around(fd, 0, size)[1]
