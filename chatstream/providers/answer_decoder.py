"""
Find out which form an answer has, and decode it: what counts is what its first bytes are.

Labels are often wrong: streams come as `text/plain` or without any type, gateways send one whole
object where a stream was asked for. Whichever adapter asked, all forms are read.
"""

from __future__ import annotations

import re

from chatstream.providers.json_decoder import ValueDecoder
from chatstream.providers.sse_decoder import EventDecoder

# What may stand before an answer in any form: a byte order mark, blank lines, comments.
_BEFORE = re.compile(rb"(?:[ \t\r\n]++|\xef\xbb\xbf|:[^\r\n]*+[\r\n])*+")
_BOM = b"\xef\xbb\xbf"


class NoAnswer(Exception):
    """What came begins as no answer does: a page, or bytes that are no text."""

    def __init__(self, beginning: bytes) -> None:
        super().__init__("no answer")
        self.beginning = beginning


class AnswerDecoder:
    """
    One answer's decoder; fed by one task at a time.

    `feed` is the found decoder's own once the form is known, so that no chunk pays for the look.

    Attributes:
        feed: Takes the next bytes, and returns the payloads that they complete. Raises `NoAnswer`,
            and ProviderError for a payload that is too long.
    """

    __slots__ = ("_decoder", "_head", "feed")

    def __init__(self) -> None:
        self.feed = self._look
        self._head = b""
        self._decoder: EventDecoder | ValueDecoder | None = None

    @property
    def whole(self) -> bool:
        """Whether an end here cuts nothing: what came is JSON that is whole."""
        return isinstance(self._decoder, ValueDecoder) and self._decoder.whole

    def close(self) -> list[bytes]:
        """Say that the stream has ended; return what it still tells. Raises as `feed`."""
        if self._decoder is None:
            return []
        return self._decoder.close()

    def _look(self, data: bytes) -> list[bytes]:
        head = self._head + data
        before = _BEFORE.match(head)
        head = head[before.end() :] if before is not None else head
        if head.startswith(b":"):
            head = b":"  # a comment that goes on; it says nothing
        self._head = head
        if head == b":" or _BOM.startswith(head):
            return []
        first = head[:1]
        if first in b"{[":
            self._decoder = ValueDecoder()
        elif first == b"<" or not b"!" <= first <= b"~":
            raise NoAnswer(head)
        else:
            self._decoder = EventDecoder()
        self.feed = self._decoder.feed
        return self.feed(head)
