"""
What a provider's error says by itself: without the words of the request that it quotes.

Whoever asks could otherwise say what a provider's refusal means for everybody else. Quotes come
escaped, shortened, or as a part; each of these is taken out. No I/O.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import Final

from chatstream.providers import ProviderRequest
from chatstream.providers.http.payloads import whole

LONGEST: Final = 4000
"""Characters of a sentence that are looked at: a search in all of it could take long."""
SHORTEST: Final = 3
"""Characters; a shorter text is found in any other."""
_STEP: Final = 12
"""Every run of twice as many characters that a text shares with the request is a quote."""
_WORDS: Final = 24
"""Characters; a shorter text counts as a quote where it stands alone, not within a word."""

_ESCAPES: Final = {"n": " ", "r": " ", "t": " ", "b": " ", "f": " "}
_ESCAPED: Final = re.compile(
    r"\\+(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([nrtbf])|(?=[\"'/`]))"
)
_EDGE: Final = re.compile(r"(\.{2,}|…|[\"'`“”‘’]+)")


def plain(text: str) -> str:
    r"""
    Return a text without escapes, with one space for each blank: equal for all forms of a quote.

    >>> plain("a \\\"b\\\"\\n\\u00e9 &amp; c")
    'a "b" é & c'
    """
    if "\\" in text:
        text = whole(_ESCAPED.sub(_unescaped, text))
    if "&" in text:
        text = html.unescape(text)
    return " ".join(text.split())


def without_name(text: str, name: str) -> str:
    """Return a text without a name, such as a model's, in whichever case and form."""
    for form in {name, plain(name)} - {""}:
        text = re.sub(rf"(?<![\w-]){re.escape(form)}(?![\w-])", "", text, flags=re.IGNORECASE)
    return text


def words_of(request: ProviderRequest) -> list[str]:
    """Return the texts of a request in their plain form, the longest first."""
    asked = [message.content for message in request.messages]
    asked += [request.system or "", *request.stop]
    said = {plain(each) for each in asked}
    return sorted((each for each in said if len(each) > SHORTEST), key=len, reverse=True)


def without_quotes(text: str, asked: Iterable[str]) -> str:
    """Return an error's sentence, in its plain form, without what it quotes of `words_of`."""
    text = plain(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")
    for said in asked:
        if len(said) < _WORDS:
            text = re.sub(rf"(?<!\w){re.escape(said)}(?!\w)", "", text)
        else:
            text = _without_runs(text.replace(said, ""), said)
        text = _without_parts(text, said)
    return text


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code is None:
        return _ESCAPES.get(match[4], "")
    return chr(int(code, 16)) if int(code, 16) <= 0x10FFFF else ""


def _without_runs(text: str, said: str) -> str:
    """Cut out each long run that is one of `said` too; finds it by every n-th place of `said`."""
    places = {text[at : at + _STEP]: at for at in range(len(text) - _STEP + 1)}
    quoted = bytearray(len(text))
    for there in range(0, len(said) - _STEP + 1, _STEP):
        here = places.get(said[there : there + _STEP])
        if here is not None and not quoted[here]:
            start, end = _run(text, said, here, there)
            if end - start >= 2 * _STEP:
                quoted[start:end] = b"\1" * (end - start)
    return "".join(char for char, out in zip(text, quoted, strict=True) if not out)


def _run(text: str, said: str, here: int, there: int) -> tuple[int, int]:
    """Return the whole run that two texts share around these places."""
    start, end = here, here + _STEP
    while start and there + start - here and text[start - 1] == said[there + start - here - 1]:
        start -= 1
    room = min(len(text), len(said) - there + here)
    while end < room and text[end] == said[there + end - here]:
        end += 1
    return start, end


def _without_parts(text: str, said: str) -> str:
    """Cut out what stands in quotation marks, or beside dots that shorten, and is of `said`."""
    return "".join(_kept(_EDGE.split(text), said))


def _kept(pieces: list[str], said: str) -> Iterator[str]:
    for number, piece in enumerate(pieces):
        part = piece.strip()
        if number % 2 or len(part) <= SHORTEST:
            yield piece
            continue
        edges = [edge for edge in (pieces[max(number - 1, 0)], *pieces[number + 1 : number + 2])]
        dotted = any(edge[:1] in (".", "…") for edge in edges if edge != piece)
        quoted = 0 < number < len(pieces) - 1 and " " in part
        yield "" if (dotted or quoted) and part in said else piece
