"""
Read values of JSON: bytes in, cut anywhere, whole objects out. No I/O, no JSON is made of them.

One object that is the whole answer, on one line or many; objects in an array that grows (Gemini
without `alt=sse`); or objects on lines of their own, as an Ollama sends them, which are left to the
quicker decoder from the second line on.
"""

from __future__ import annotations

import re
from typing import Final

from chatstream.errors import ProviderError
from chatstream.providers.http.ndjson_decoder import LineDecoder

MAX_VALUE_BYTES: Final = 4 * 1024 * 1024
"""A whole answer with what a provider tells beside it is below 1 MiB."""

_IN_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_OUTSIDE = re.compile(rb'["{}\[\]]')


class ValueDecoder:
    """
    One stream's decoder; fed by one task at a time. What is no object, and in none, is left out.

    Which values come, and whether one is over the limit, depends on the bytes alone and not on
    where they were cut.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_limit",
        "_lines",
        "_listed",
        "_may_be_lines",
        "_open",
        "_quoted",
        "_size",
        "_too_long",
    )

    def __init__(self, limit: int = MAX_VALUE_BYTES) -> None:
        self._limit = limit
        self._lines: LineDecoder | None = None
        self._may_be_lines: bool | None = None  # True after a first value that was one line
        self._listed = False
        self._depth = 0
        self._quoted = self._escaped = False
        self._open: list[bytes] = []  # the value that has not ended; joined once, when it does
        self._size = 0
        self._too_long = False

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take the next bytes and return the values that they complete, in order.

        Raises:
            ProviderError: A value is longer than the limit. Values before it were returned.
        """
        if self._lines is not None:
            return self._lines.feed(data)
        if self._too_long:
            raise self._refusal()
        values: list[bytes] = []
        start = place = 0
        while place < len(data):
            if self._may_be_lines and self._goes_on_in_lines(data[place]):
                self._lines = LineDecoder(self._limit)
                return values + self._lines.feed(data[place:])
            was_open = self._depth
            if self._quoted:
                place = self._past_string(data, place)
                continue
            token = _OUTSIDE.search(data, place)
            if token is None:
                break
            place = token.end()
            self._take(token[0])
            if self._depth and not was_open:
                start = place - 1
            elif was_open and not self._depth:
                values.append(self._joined(data[start:place]))
                if len(values[-1]) > self._limit:
                    values.pop()
                    return self._refuse(values)
        if self._depth:
            self._open.append(data[start:])
            self._size += len(data) - start
            if self._size > self._limit:
                return self._refuse(values)
        return values

    def close(self) -> list[bytes]:
        """Say that the stream has ended; an incomplete value is dropped: it was cut."""
        if self._too_long:
            raise self._refusal()
        return self._lines.close() if self._lines is not None else []

    @property
    def whole(self) -> bool:
        """Whether what came is values that are whole, and no stream of lines."""
        return self._lines is None and not self._depth

    def _goes_on_in_lines(self, next_byte: int) -> bool:
        self._may_be_lines = False
        return next_byte in b"\r\n"

    def _past_string(self, data: bytes, place: int) -> int:
        """Return the place after what is there of a string."""
        if self._escaped:
            self._escaped = False
            place += 1
        match = _IN_STRING.match(data, place)
        end = match.end() if match is not None else place
        if end < len(data):
            # A quotation mark, or a backslash whose character is still to come.
            self._escaped = data[end] == ord("\\")
            self._quoted = self._escaped
            end += 1
        return end

    def _take(self, token: bytes) -> None:
        if token == b'"':
            self._quoted = self._depth > 0
        elif token in b"{[":
            if token == b"[" and not self._depth and not self._listed:
                self._listed = True
            else:
                self._depth += 1
        elif self._depth:
            self._depth -= 1
        else:
            self._listed = False

    def _joined(self, end: bytes) -> bytes:
        value = b"".join((*self._open, end))
        self._open.clear()
        self._size = 0
        if self._may_be_lines is None:
            self._may_be_lines = not (self._listed or b"\n" in value or b"\r" in value)
        return value

    def _refuse(self, before: list[bytes]) -> list[bytes]:
        """Raise at once, or after the values that came before the long one."""
        self._too_long = True
        if not before:
            raise self._refusal()
        return before

    def _refusal(self) -> ProviderError:
        return ProviderError(f"The provider sent a value of more than {self._limit:,} bytes.")
