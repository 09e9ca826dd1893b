"""What an adapter adds to `ProviderClient`: the form it asks for, and how payloads are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

from chatstream.providers import Piece, Reasoning, Usage
from chatstream.providers.http.reasons import Mark
from chatstream.providers.http.thinking import Thoughts

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
"""Forms that an answer is asked for in; whatever form comes is read."""

MAX_NAME_CHARS: Final = 200
MOST_TOKENS: Final = 1_000_000_000
"""A count above it is none."""
MOST_NESTED: Final = 8
"""How deep the lists of a content may lie in one another."""
_FIRST: Final = (None, 0, "", "0")
_TEXT_PARTS: Final = frozenset(("text", "output_text", "summary_text", "text_delta"))
_THOUGHT_PARTS: Final = frozenset(
    (
        "thinking",
        "thinking_delta",
        "reasoning",
        "reasoning_text",
        "reasoning.text",
        "reasoning.summary",
        "thought",
    )
)
_SAID: Final = (
    ("reasoning", ("thinking", "reasoning_content", "reasoning", "summary")),
    ("", ("text", "value", "content")),
    ("refusal", ("refusal",)),
)
"""Where an object holds what it says, by what that is; "" is what the object itself is."""


class Answer(Protocol):
    """
    One answer, told event by event. The pure part of an adapter.

    Attributes:
        finish: The provider's own end mark, once it was seen; the last one that was. What stands
            beside it, or comes after it, counts all the same.
    """

    finish: Mark | None

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """
        Return what one event adds, without the `Finish`.

        May raise AttributeError, LookupError, TypeError or ValueError for what it cannot read.
        """
        ...

    def end(self) -> Sequence[Piece]:
        """Say that no event comes any more; return what was held of those that came."""
        ...


class Asking(NamedTuple):
    """One request to a provider, and what reads the answer to it."""

    path: str
    body: dict[str, Any]
    answer: Answer
    unsaid: Mark | None = None
    """What `[DONE]` means where no finish reason came before it; None: a cut."""


def text_in(value: object) -> str:
    """Return what must be a text. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError
    return value


def first_of(listed: Sequence[dict[str, Any] | None] | None) -> dict[str, Any] | None:
    """
    Return the one answer that counts among several, the one of index 0, wherever it stands.

    May raise AttributeError or LookupError for what is no list of objects.
    """
    if not listed:
        return None
    first = listed[0]
    if first is not None and not first.get("index"):
        return first
    there = (choice for choice in listed if choice is not None)
    return next((choice for choice in there if choice.get("index") in _FIRST), None)


def parts_in(content: object, kind: str = "text", depth: int = 0) -> Iterator[tuple[str, str]]:
    """
    Yield what a content says, as ("text", "reasoning" or "refusal", a text that is not empty).

    A content is a text, or an object that holds one, or a list of them, which may hold lists
    themselves, as Mistral's thoughts do. Parts of a kind that is not known here say nothing. Raises
    TypeError or ValueError for what is no part, or lies too deep.
    """
    if isinstance(content, str):
        if content:
            yield kind, content
    elif depth > MOST_NESTED:
        raise ValueError
    elif isinstance(content, list):
        for part in content:
            yield from parts_in(part, kind, depth + 1)
    elif isinstance(content, dict):
        yield from _parts_of(content, kind, depth)
    elif content is not None:
        raise TypeError


def _parts_of(part: dict[str, Any], kind: str, depth: int) -> Iterator[tuple[str, str]]:
    named = part.get("type")
    if named is not None and not isinstance(named, str):
        raise TypeError
    if named in _THOUGHT_PARTS or part.get("thought") is True:
        said = next((found for _, keys in _SAID if (found := _first_in(part, keys))), None)
        yield from parts_in(said, "reasoning", depth + 1)
    elif named in _TEXT_PARTS:
        yield from parts_in(part.get("text"), kind, depth + 1)
    elif not named or named == "refusal":
        for other, keys in _SAID:
            yield from parts_in(_first_in(part, keys), other or kind, depth + 1)


def _first_in(part: dict[str, Any], keys: Sequence[str]) -> object:
    """Return what one of the keys holds; where several do, they repeat one another."""
    return next((part[key] for key in keys if part.get(key)), None)


def pieces_in(content: object, thoughts: Thoughts, kind: str = "text") -> Sequence[Piece]:
    """Return what a content says, as pieces: `thoughts` parts its text. Raises as `parts_in`."""
    pieces: list[Piece] = []
    for part, text in parts_in(content, kind):
        pieces += (Reasoning(text),) if part == "reasoning" else thoughts.take(text)
    return pieces


def count_in(value: object) -> int | None:
    """
    Read a number of tokens, in whichever form it is written; None where it cannot be one.

    >>> count_in(3.0), count_in("3"), count_in(None), count_in(-3), count_in(True)
    (3, 3, None, None, None)
    """
    if isinstance(value, str) and value.isascii() and len(value) <= 12:
        value = value.strip().removesuffix(".0")
        value = int(value) if value.isdigit() else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
        return value
    return None


def usage_of(read: Sequence[object], written: Sequence[object]) -> Sequence[Usage]:
    """Return the usage that these counts add up to; none where one of them cannot be a count."""
    counts = [[count_in(value) for value in values] for values in (read, written)]
    if any(count is None for values in counts for count in values):
        return ()
    return (Usage(*(sum(filter(None, values)) for values in counts)),)


def is_a_name(name: str) -> bool:
    """
    Say whether a model can be shown and asked for by what its provider calls it.

    >>> is_a_name("llama 3.2:1b"), is_a_name("a" + chr(10)), is_a_name(""), is_a_name("x" * 201)
    (True, False, False, False)
    """
    return 0 < len(name) <= MAX_NAME_CHARS and name.isprintable()


def names_in(
    value: object, within: str, key: str, where: Callable[[dict[str, Any]], bool] | None = None
) -> list[str]:
    """Read the names in a list of models; what is none is passed over."""
    listed = value.get(within) if isinstance(value, dict) else None
    return [
        entry[key]
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get(key), str)
        and is_a_name(entry[key])
        and (where is None or where(entry))
    ]
