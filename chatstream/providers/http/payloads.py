"""
What a payload says: JSON as providers really write it, and characters that come in two halves.

The quick decoder is strict; what it refuses is read again here, at some ten times the cost and up
to a bound: `NaN` where no number is, control characters and bytes that are no UTF-8 in a string,
half a surrogate pair. A bad character never fails an answer; it becomes U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from chatstream.providers import Piece, Reasoning, Text

MAX_ODD_BYTES: Final = 256 * 1024
"""Of a payload that is read again: some ten milliseconds."""
MAX_DIGITS: Final = 400


def _nothing(_: str) -> None:
    """Read what is no number: as a field that is not there."""


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_DIGITS else None


MOST_NESTED: Final = 100
_STRING: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
_NO_NUMBER: Final = re.compile(
    rf"(?P<string>{_STRING})|[-+]?\b(?:nan|inf(?:inity)?)\b", re.IGNORECASE | re.DOTALL
)
_BRACKETS: Final = re.compile(rf"{_STRING}|(?P<bracket>[\[\]{{}}]+)", re.DOTALL)
_LENIENT: Final = json.JSONDecoder(strict=False, parse_constant=_nothing, parse_int=_integer)


def read(payload: bytes) -> Any:
    """Read JSON. Raises ValueError."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return read_again(payload)


def read_again(payload: bytes) -> Any:
    """
    Read JSON that the quick decoder refused; a text in it may hold half a surrogate pair.

    Raises:
        ValueError: It is no JSON, or too much of it.
    """
    if len(payload) > MAX_ODD_BYTES:
        raise ValueError("too long to be read again")
    text = payload.decode(errors="replace").lstrip("\ufeff")
    try:
        return _LENIENT.decode(text)
    except RecursionError:
        return _decoded(_with_numbers(_pruned(text)))
    except ValueError:
        return _decoded(_with_numbers(text))


def _decoded(text: str) -> Any:
    try:
        return _LENIENT.decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _with_numbers(text: str) -> str:
    """Return JSON with `null` for what other languages write where no number is."""
    return _NO_NUMBER.sub(lambda found: found["string"] or "null", text)


def _pruned(text: str) -> str:
    """Return JSON with `null` for what lies deeper than any field that is read."""
    kept: list[str] = []
    depth = place = 0
    for found in _BRACKETS.finditer(text):
        for at in range(*found.span("bracket")):
            if text[at] in "[{":
                depth += 1
                if depth == MOST_NESTED + 1:
                    kept += (text[place:at], "null")
            else:
                if depth == MOST_NESTED + 1:
                    place = at + 1
                depth -= 1
    # What is not closed stays no JSON.
    return "".join((*kept, text[place:])) if depth <= MOST_NESTED else ""


def whole(text: str) -> str:
    """
    Return a text that any encoding takes: pairs are joined, and half a pair is U+FFFD.

    >>> whole("a" + chr(0xD83D) + chr(0xDE42)), whole(chr(0xDE42) + "b" + chr(0xD83D))
    ('a🙂', '\ufffdb\ufffd')
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class Halves:
    """One answer's characters of which one half ends a text and the next text has the other."""

    def __init__(self) -> None:
        self._first: dict[type[Text] | type[Reasoning], str] = {}

    def join(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Return the pieces with whole characters; a half that may find its other one is kept."""
        joined: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Text | Reasoning):
                text = self._first.pop(type(piece), "") + piece.text
                if "\ud800" <= text[-1] <= "\udbff":
                    self._first[type(piece)] = text[-1]
                    text = text[:-1]
                if not text:
                    continue
                piece = replace(piece, text=whole(text))
            joined.append(piece)
        return joined

    def rest(self) -> list[Piece]:
        """Return what stayed half at the answer's end."""
        halves, self._first = self._first, {}
        return [kind("\ufffd") for kind in halves]
