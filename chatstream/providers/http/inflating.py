"""
A response body that its server compressed, although it was asked not to: undone bit by bit.

A few hundred kilobytes may hold gigabytes. Nothing here makes more of them at once than a reader
takes in a moment, and a body that goes on and on is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from typing import Final

SLICE_BYTES: Final = 8192
"""The most that one read returns: what a reader does with it takes a few milliseconds at most."""
MAX_INFLATED_BYTES: Final = 64 * 1024 * 1024
"""Of one body: many times the longest answer."""

_GZIP = ("gzip", "x-gzip")
_PACKED: Final = frozenset(
    "br bzip2 compress dcb dcz deflate gzip lz4 lzma snappy x-compress x-gzip xz zstd".split()
)
"""Labels of bodies that must be undone; any other ("utf-8", "none") says nothing of that."""
_AUTO = 32 + zlib.MAX_WBITS  # a header of gzip or of zlib


class Unreadable(Exception):
    """A body's encoding is not one that is undone here, or what it holds is broken or too much."""


def encoding_of(header: str) -> str:
    """
    Return the one encoding that a `Content-Encoding` names; empty where there is none.

    >>> encoding_of("GZIP"), encoding_of("identity, gzip"), encoding_of("identity")
    ('gzip', 'gzip', '')
    >>> encoding_of("none"), encoding_of("UTF-8")
    ('', '')
    """
    named = [name for part in header.split(",") if (name := part.strip().lower())]
    return ", ".join(name for name in named if name in _PACKED)


class Inflated:
    """A compressed body, read as it was meant; by one task at a time."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], encoding: str) -> None:
        """`read` returns the next bytes. Raises Unreadable for all but gzip and deflate."""
        if encoding not in (*_GZIP, "deflate"):
            raise Unreadable
        self._read = read
        self._deflate = encoding == "deflate"
        self._member: zlib._Decompress | None = None
        self._left = b""  # compressed, and not looked at yet
        self._full = False  # the last slice was: the member may hold more without any new byte
        self._members = 0  # that have ended
        self._size = 0

    async def read(self) -> bytes:
        """
        Return the next bytes, `SLICE_BYTES` at most; empty at the end.

        Raises:
            Unreadable: The body is broken, ends too early, or holds too much.
        """
        while True:
            if not self._full and (not self._left or (self._member is None and self._short())):
                came = await self._read()
                if not came:
                    return self._end()
                self._left += came
                continue
            if data := self._undo():
                return data

    def _short(self) -> bool:
        """Say whether there is too little to tell what a member begins with."""
        return len(self._left) < 2

    def _end(self) -> bytes:
        if self._member is not None or (self._left and not self._members):
            raise Unreadable
        return b""

    def _undo(self) -> bytes:
        if self._member is None:
            self._member = zlib.decompressobj(self._window())
        member = self._member
        try:
            data = member.decompress(self._left, SLICE_BYTES)
        except zlib.error:
            if not self._members:
                raise Unreadable from None
            # Padding after the last member says nothing.
            self._member, self._left = None, b""
            return b""
        self._left = member.unconsumed_tail or member.unused_data
        self._full = len(data) == SLICE_BYTES and not member.eof
        if member.eof:
            self._member = None
            self._members += 1
        self._size += len(data)
        if self._size > MAX_INFLATED_BYTES:
            raise Unreadable
        return data

    def _window(self) -> int:
        """Some servers send deflate without the header that its name promises."""
        first, second = self._left[:2]
        bare = first & 15 != 8 or (first << 8 | second) % 31
        return -zlib.MAX_WBITS if self._deflate and bare else _AUTO
