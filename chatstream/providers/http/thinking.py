"""
Thoughts that stand in an answer's text: `<think>…</think>` at its beginning, in any cut and case.

Servers that do not part a model's thoughts from its answer send them so. Elsewhere in an answer the
tags are text: an answer may be about them. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from chatstream.providers import Piece, Reasoning, Text

_TAGS: Final = ("think", "thinking", "seed:think")
"""DeepSeek's, Qwen's and most others'; Nova's; Seed's."""
_OPENING: Final = {f"<{tag}>": f"</{tag}>" for tag in _TAGS}
_CLOSING: Final = {
    tag: re.compile(re.escape(tag), re.IGNORECASE | re.ASCII) for tag in _OPENING.values()
}
MOST_HELD: Final = 1000
"""Characters of white space that are waited behind for what they belong to."""
_BLANK_LINES: Final = re.compile(r"(?:[^\S\r\n]*(?:\r\n|\r|\n))+")


class Thoughts:
    """
    Parts one answer's text from the thoughts at its beginning.

    A block that is never closed is all thoughts. Thoughts of white space alone are none.

    Attributes:
        over: The rest is text as it comes, and nothing is held.
    """

    __slots__ = ("_bare", "_closing", "_held", "over")

    def __init__(self) -> None:
        self.over = False
        self._closing: str | None = None  # what ends the open block; "" behind it
        self._held = ""
        self._bare = True  # of the block, nothing but white space has come

    @property
    def begun(self) -> bool:
        """Whether there was any text, be it held."""
        return self.over or bool(self._held) or self._closing is not None

    def take(self, text: str) -> Sequence[Piece]:
        """Return what the next text, which is not empty, adds, as far as it can be told."""
        if self.over:
            return (Text(text),)
        if self._closing is None:
            return self._begin(text)
        return self._think(text) if self._closing else self._rest(text)

    def end(self) -> Sequence[Piece]:
        """Say that no more comes; return what was held."""
        held, self._held = self._held, ""
        self.over = True
        if not held or self._closing == "":
            return ()  # blank lines before a text that never came
        if self._closing is None:
            return (Text(held),)
        return (Reasoning(held),) if held.strip() else ()

    def _begin(self, text: str) -> Sequence[Piece]:
        held = self._held + text
        head = held.lstrip()
        for opening, closing in _OPENING.items():
            if (begun := head[: len(opening)].lower()) == opening:
                self._held, self._closing = "", closing
                return self._think(head[len(opening) :])
            if len(head) < len(opening) and opening.startswith(begun) and len(held) < MOST_HELD:
                self._held = held
                return ()
        self._held, self.over = "", True
        return (Text(held),)

    def _think(self, text: str) -> Sequence[Piece]:
        closing, thoughts = self._closing or "", self._held + text
        closed, rest, end = None, "", len(thoughts)
        if "<" in thoughts:  # which few thoughts hold
            closed = _CLOSING[closing].search(thoughts)
            if closed is not None:
                thoughts, rest = thoughts[: closed.start()], thoughts[closed.end() :]
                end = len(thoughts)
            else:
                end -= _beginning_at_the_end(thoughts, closing)
        self._held = thoughts[end:]
        told = self._thought(thoughts[:end])
        if closed is None:
            return told
        self._held, self._closing = "", ""
        return [*told, *self._rest(rest)]

    def _thought(self, thoughts: str) -> Sequence[Piece]:
        if self._bare and len(thoughts) < MOST_HELD and not thoughts.strip():
            self._held = thoughts + self._held
            return ()
        self._bare = False
        return (Reasoning(thoughts),) if thoughts else ()

    def _rest(self, text: str) -> Sequence[Piece]:
        held = self._held + text
        if len(held) < MOST_HELD and not held.strip():
            self._held = held
            return ()
        self._held, self.over = "", True
        blank = _BLANK_LINES.match(held)
        rest = held[blank.end() :] if blank else held
        return (Text(rest),) if rest else ()


def _beginning_at_the_end(text: str, tag: str) -> int:
    """
    Return how many characters at a text's end may be a tag's beginning.

    >>> _beginning_at_the_end("hm </th", "</think>"), _beginning_at_the_end("hm", "</think>")
    (4, 0)
    """
    return next((n for n in range(len(tag) - 1, 0, -1) if text[-n:].lower() == tag[:n]), 0)
