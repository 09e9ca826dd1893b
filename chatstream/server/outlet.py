"""
Lines for a descriptor that may not be read: a thread writes them, and nothing else waits for it.

What reads a program's output may stop: a paused terminal, a log driver that is stuck. Then the
pipe is full, and a plain write waits for ever. The descriptor itself is left as it is: whether it
blocks is shared with every program that has it too.
"""

from __future__ import annotations

import io
import os
import select
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import NamedTuple

MOST_BYTES = 1024 * 1024
"""What waits in memory while nothing is read; what comes then is dropped."""
FLUSH_SECONDS = 1.0
"""How long an exit waits for the reader."""
AT_ONCE = 64 * 1024
"""Bytes of one write."""


class _Waiting(NamedTuple):
    """Text to be written: its lines, and how many dropped lines it reports."""

    data: bytes
    lines: int = 0
    tells: int = 0


class Outlet:
    """
    One descriptor's lines, in order. Any thread may put some, also one that is inside `put`.

    Attributes:
        dropped: Lines that were not written, so far.
    """

    def __init__(self, fd: int, told: Callable[[int], str]) -> None:
        """`told` returns the line that stands in place of so many dropped lines."""
        self._fd = fd
        self._told = told
        self._queue: SimpleQueue[_Waiting | threading.Event] = SimpleQueue()
        # Reentrant: what the collector frees may log, at any moment.
        self._lock = threading.RLock()
        self._size = 0
        self._untold = 0
        self._stuck = False
        self.dropped = 0
        threading.Thread(target=self._work, name="chatstream-outlet", daemon=True).start()

    def put(self, text: str, encoding: str = "utf-8") -> None:
        """Queue text, or drop it where too much waits; never blocks."""
        data = text.encode(encoding, "backslashreplace")
        waiting = _Waiting(data, max(1, data.count(b"\n")))
        with self._lock:
            if self._size and self._size + len(data) > MOST_BYTES:
                self._drop(waiting)
                return
            self._tell()
            self._add(waiting)

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """
        Wait until all lines are written; return whether that happened in time.

        After one wait that was too long there is no other: an exit asks several times.
        """
        written = threading.Event()
        self._queue.put(written)
        self._stuck = not written.wait(0 if self._stuck else seconds)
        return not self._stuck

    def _add(self, waiting: _Waiting) -> None:
        self._size += len(waiting.data)
        self._queue.put(waiting)

    def _drop(self, lost: _Waiting) -> None:
        self.dropped += lost.lines
        self._untold += lost.lines + lost.tells

    def _tell(self) -> None:
        """Queue the line that reports the lines dropped since the last such line."""
        if self._untold:
            line = self._told(self._untold).encode("utf-8", "backslashreplace")
            self._add(_Waiting(line, tells=self._untold))
            self._untold = 0

    def _work(self) -> None:
        while True:
            found = self._queue.get()
            if isinstance(found, threading.Event):
                found.set()
                continue
            taken, flushes = self._joined(found)
            lost = not self._write(taken.data)
            with self._lock:
                self._size -= len(taken.data)
                if lost:
                    self._drop(taken)
                elif not self._size:
                    self._tell()
            for written in flushes:
                written.set()

    def _joined(self, first: _Waiting) -> tuple[_Waiting, list[threading.Event]]:
        """Return what waits already, as one write, and what waits for it."""
        parts: list[_Waiting] = [first]
        flushes: list[threading.Event] = []
        size = len(first.data)
        while size < AT_ONCE:
            try:
                found = self._queue.get_nowait()
            except Empty:
                break
            if isinstance(found, threading.Event):
                flushes.append(found)
            else:
                parts.append(found)
                size += len(found.data)
        data, lines, tells = zip(*parts, strict=True)
        return _Waiting(b"".join(data), sum(lines), sum(tells)), flushes

    def _write(self, data: bytes) -> bool:
        """Write it whole, however long that takes; False where it can never be read."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Another program that has the descriptor made it so.
                waiting = select.poll()  # `select` takes no descriptor over 1023
                waiting.register(self._fd, select.POLLOUT)
                waiting.poll()
            except OSError:
                return False
        return True


class OutletStream(io.TextIOBase):
    """An outlet as `sys.stdout` or `sys.stderr`: printing never blocks."""

    def __init__(self, outlet: Outlet, fd: int, encoding: str) -> None:
        self._outlet = outlet
        self._fd = fd
        self._encoding = encoding
        self._lock = threading.RLock()
        self._rest = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream that this one stands for."""
        return self._encoding

    def fileno(self) -> int:
        """The descriptor, for what asks about it."""
        return self._fd

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._fd)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Take text; whole lines go on at once, the rest with its end."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            if lines:
                self._outlet.put("\n".join(lines) + "\n", self._encoding)
        return len(text)

    def flush(self) -> None:
        """Pass on a line without its end; never waits."""
        with self._lock:
            rest, self._rest = self._rest, ""
            if rest:
                self._outlet.put(rest, self._encoding)
