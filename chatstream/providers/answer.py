"""What an adapter adds to `ProviderClient`: the form it asks for, and how payloads are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from chatstream.providers import FinishReason, Piece

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
"""Forms that an answer is asked for in; whatever form comes is read."""


class Answer(Protocol):
    """
    One answer, told event by event. The pure part of an adapter.

    Attributes:
        finish: Set once the provider's own end mark was seen.
    """

    finish: FinishReason | None

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """
        Return what one event adds, without the `Finish`.

        May raise AttributeError, LookupError, TypeError or ValueError for what it cannot read.
        """
        ...


def text_in(value: object) -> str:
    """Return what must be a text. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError
    return value


def names_in(
    value: object, within: str, key: str, where: Callable[[dict[str, Any]], bool] | None = None
) -> list[str]:
    """Read the names in a list of models; entries of another form are passed over."""
    listed = value.get(within) if isinstance(value, dict) else None
    return [
        entry[key]
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get(key), str)
        and (where is None or where(entry))
    ]
