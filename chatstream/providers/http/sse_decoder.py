"""
Read `text/event-stream`: bytes in, cut anywhere, complete `data` payloads out. No I/O, no JSON.

It follows the EventSource standard (line ends, comments, joined `data` lines, the incomplete last
event dropped) with one exception: what a provider says of its own failure is never dropped. Gemini
breaks off with raw JSON over many lines, gateways with plain text, llama.cpp with an `error:`
field; each comes out as a `Failure`, in its place among the payloads. Heartbeats say nothing.
"""

from __future__ import annotations

import re
from typing import Final

from chatstream.errors import ProviderError

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""A frame of an answer is below 1 KiB; Gemini's may hold a whole answer."""

_BOM = b"\xef\xbb\xbf"
_CR = 13  # as a number: looked for in a fifth of the time
_FIELD_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_-]*")
# One that does not end goes to the line's end: searched for its end again and again from each of
# its quotation marks, a line of a hundred kilobytes would take minutes.
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?')


# Objects, wherever they stand, lists and markup: not what a heartbeat looks like.
_FORMED: Final = re.compile(rb'\A[\s"]*(?:<|\[\s*(?:[\["]|\Z))|\{')
_ERROR: Final = re.compile(
    rb"abort|cannot|closed|denied|disconnect|error|exceed|exception|fail|fault|forbidden|gateway"
    rb"|invalid|kill|limit|no healthy|not found|out of|overload|over capacity|panic|quota|refused"
    rb"|reset|terminat|timed?.?out|too many|traceback|try again|unable|unauthori|unavailable",
    re.IGNORECASE,
)


def says_nothing(stray: bytes) -> bool:
    """
    Say whether what stands where JSON should is a heartbeat: no object, and no error by name.

    >>> says_nothing(b"[HEARTBEAT]"), says_nothing(b"stream timeout"), says_nothing(b'[{"a"')
    (True, False, False)
    """
    return not (_FORMED.search(stray) or _ERROR.search(stray))


class Failure(bytes):
    """The data of an `event: error`, or text outside every field: nothing to take for an answer."""


class EventDecoder:
    """
    One stream's decoder; fed by one task at a time.

    Which payloads come, and whether an event is over the limit, depends on the bytes alone and not
    on where they were cut.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_depth",
        "_failed",
        "_head",
        "_held",
        "_idle",
        "_limit",
        "_line",
        "_line_size",
        "_stray",
        "_too_long",
    )

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._idle = False  # nothing is open, so that a chunk of whole events can be split at once
        self._head: bytes | None = b""  # the stream's first bytes while they may be a BOM
        self._line: list[bytes] = []  # the line that has not ended; joined once, when it does
        self._line_size = 0
        self._after_cr = False
        self._data: list[bytes] = []
        self._held = 0  # bytes in `_data` and `_stray`
        self._failed = False  # the open event is an `event: error`
        self._stray: list[bytes] = []
        self._depth = 0  # braces open in `_stray`
        self._too_long = False

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take the next bytes and return the payloads that they complete, in order.

        Raises:
            ProviderError: An event is longer than the limit. Payloads before it were returned.
        """
        if (
            self._idle
            and data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and _CR not in data
            and len(data) <= self._limit
        ):
            if data.find(b"\n") == len(data) - 2 > 6:
                return [data[6:-2]]
            payloads = data[6:-2].split(b"\n\ndata: ")
            # Two line ends for each and no other: every payload is one whole line.
            if data.count(b"\n") == 2 * len(payloads) and all(payloads):
                return payloads
        return self._feed_lines(data)

    def close(self) -> list[bytes]:
        """
        Say that the stream has ended; return what it still tells of a failure.

        An incomplete event is dropped, as the standard asks: it was cut.
        """
        if self._too_long:
            raise self._refusal()
        payloads: list[bytes] = []
        line = b"".join(self._line)
        # A name without its colon may be a field cut short; other text is nobody's field.
        if line and not _FIELD_NAME.fullmatch(line):
            self._take(line, payloads)
        self._hand_out_stray(payloads)
        if self._failed:
            payloads.append(Failure(b"\n".join(self._data)))
        return payloads

    def _feed_lines(self, data: bytes) -> list[bytes]:
        if self._too_long:
            raise self._refusal()
        payloads: list[bytes] = []
        data = self._without_line_rest(self._without_bom(data))
        if not data:
            return payloads
        lines = data.splitlines()
        rest = b"" if data.endswith((b"\n", b"\r")) else lines.pop()
        self._after_cr = data.endswith(b"\r")
        if lines and self._line:
            lines[0] = b"".join((*self._line, lines[0]))
            self._line.clear()
            self._line_size = 0
        for line in lines:
            if self._over(len(line)):
                return self._refuse(payloads)
            self._take(line, payloads)
        if rest:
            self._line.append(rest)
            self._line_size += len(rest)
            if self._over(self._line_size):
                return self._refuse(payloads)
        self._idle = not (self._line or self._data or self._stray or self._failed or self._after_cr)
        return payloads

    def _without_bom(self, data: bytes) -> bytes:
        if self._head is None:
            return data
        head = self._head + data
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _without_line_rest(self, data: bytes) -> bytes:
        """Drop the LF of a CRLF that was cut in two: its line ended at the CR."""
        if self._after_cr and data:
            self._after_cr = False
            return data.removeprefix(b"\n")
        return data

    def _over(self, line_size: int) -> bool:
        return self._held + line_size > self._limit

    def _refuse(self, payloads: list[bytes]) -> list[bytes]:
        """Raise at once, or after the payloads that came before the long event."""
        self._idle = False
        self._too_long = True
        if not payloads:
            raise self._refusal()
        return payloads

    def _refusal(self) -> ProviderError:
        return ProviderError(f"The provider sent an event of more than {self._limit:,} bytes.")

    def _take(self, line: bytes, payloads: list[bytes]) -> None:
        if not line:
            self._dispatch(payloads)
            return
        name, colon, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._held += len(line)
        elif name == b"event":
            self._failed = value.removeprefix(b" ") == b"error"
        elif colon and name.lower() == b"error":
            self._take_stray(value.removeprefix(b" "), payloads)
        elif name in (b"", b"id", b"retry") or (colon and _FIELD_NAME.fullmatch(name)):
            pass  # a comment, a field that means nothing here, one of a later standard
        elif self._stray or not says_nothing(line):
            self._take_stray(line, payloads)

    def _take_stray(self, line: bytes, payloads: list[bytes]) -> None:
        self._stray.append(line)
        self._held += len(line)
        # No JSON string spans lines, so that braces can be counted line by line.
        bare = _JSON_STRING.sub(b"", line)
        self._depth += bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")
        if self._depth <= 0:
            self._hand_out_stray(payloads)

    def _hand_out_stray(self, payloads: list[bytes]) -> None:
        if self._stray:
            payloads.append(Failure(b"\n".join(self._stray)))
            self._held -= sum(map(len, self._stray))
            self._stray.clear()
            self._depth = 0

    def _dispatch(self, payloads: list[bytes]) -> None:
        self._hand_out_stray(payloads)
        payload = b"\n".join(self._data)
        if self._failed and payload.strip() != b"null":
            payloads.append(Failure(payload))
        elif payload:
            payloads.append(payload)
        self._data.clear()
        self._failed = False
        self._held = 0
