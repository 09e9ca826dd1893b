"""
Find out which form an answer has, and decode it: what counts is what its first bytes are.

Labels are often wrong: streams come as `text/plain` or without any type, gateways send one whole
object where a stream was asked for. Whichever adapter asked, all forms are read.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from chatstream.providers.http.json_decoder import ValueDecoder
from chatstream.providers.http.sse_decoder import EventDecoder, says_nothing

# What may stand before an answer in any form: a byte order mark, blank lines, comments.
_BEFORE = re.compile(rb"(?:[ \t\r\n]+|\xef\xbb\xbf|:[^\r\n]*[\r\n])*")
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"[\r\n]")
# How a line may begin that is one value of JSON and no object: it says nothing.
_SCALAR = b'ntf"-0123456789'
MAX_SCALAR: Final = 1000


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
            if not self._head[:1].isalpha():
                return []
            self._decoder = EventDecoder()  # plain text, which may tell of a failure
            return [*self._decoder.feed(self._head), *self._decoder.close()]
        return self._decoder.close()

    def _look(self, data: bytes) -> list[bytes]:
        head = _without_what_says_nothing(self._head + data)
        if head.startswith(b":"):
            head = b":"  # a comment that goes on
        self._head = head
        first = head[:1]
        if head == b":" or _BOM.startswith(head):
            return []
        may_say_nothing = first in _SCALAR or (first.isalpha() and b":" not in head)
        if may_say_nothing and not _LINE_END.search(head) and len(head) < MAX_SCALAR:
            return []
        if first in b"{[":
            self._decoder = ValueDecoder()
        elif first == b"<" or not b"!" <= first <= b"~":
            raise NoAnswer(head)
        else:
            self._decoder = EventDecoder()
        self.feed = self._decoder.feed
        return self.feed(head)


def _without_what_says_nothing(head: bytes) -> bytes:
    while True:
        before = _BEFORE.match(head)
        head = head[before.end() :] if before is not None else head
        line = _LINE_END.search(head)
        if line is None or line.start() > MAX_SCALAR or not _is_nothing(head[: line.start()]):
            return head
        head = head[line.end() :]


def _is_nothing(line: bytes) -> bool:
    """Say whether a line is one value of JSON and no object, or a heartbeat: and no field."""
    if line[:1].isalpha() and b":" not in line and says_nothing(line):
        return True
    if line[:1] not in _SCALAR:
        return False
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
