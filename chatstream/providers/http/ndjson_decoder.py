"""Read lines of JSON: bytes in, cut anywhere, complete lines out. No I/O."""

from __future__ import annotations

from typing import Final

from chatstream.errors import ProviderError
from chatstream.providers.http import payloads

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""A line of an answer is below 1 KiB."""


class LineDecoder:
    """
    One stream's decoder; fed by one task at a time. Empty lines are passed over.

    Which lines come, and whether one is over the limit, depends on the bytes alone and not on where
    they were cut.
    """

    __slots__ = ("_limit", "_open", "_size", "_too_long")

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._open: list[bytes] = []  # the line that has not ended; joined once, when it does
        self._size = 0
        self._too_long = False

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take the next bytes and return the lines that they complete, in order.

        Raises:
            ProviderError: A line is longer than the limit. Lines before it were returned.
        """
        if self._too_long:
            raise self._refusal()
        *lines, rest = data.split(b"\n")
        if lines and self._open:
            lines[0] = b"".join((*self._open, lines[0]))
            self._open.clear()
            self._size = 0
        if rest:
            self._open.append(rest)
            self._size += len(rest)
        whole: list[bytes] = []
        for line in lines:
            if len(line) > self._limit:
                return self._refuse(whole)
            if line.strip():
                whole.append(line)
        return self._refuse(whole) if self._size > self._limit else whole

    def close(self) -> list[bytes]:
        """Say that the stream has ended; return a last line that ends with it, if it is whole."""
        if self._too_long:
            raise self._refusal()
        line = b"".join(self._open).strip()
        try:
            return [line] if line and isinstance(payloads.read(line), dict) else []
        except ValueError:
            return []  # it was cut

    def _refuse(self, before: list[bytes]) -> list[bytes]:
        """Raise at once, or after the lines that came before the long one."""
        self._too_long = True
        if not before:
            raise self._refusal()
        return before

    def _refusal(self) -> ProviderError:
        return ProviderError(f"The provider sent a line of more than {self._limit:,} bytes.")
