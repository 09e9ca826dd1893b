"""What an adapter adds to `ProviderClient`: how payloads come, and how what is in them is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from chatstream.providers import FinishReason, Piece
from chatstream.providers.ndjson_decoder import LineDecoder
from chatstream.providers.sse_decoder import EventDecoder


class Wire(NamedTuple):
    """How an answer's payloads come: under which content type, and what finds them in the bytes."""

    media_type: str
    decoder: type[EventDecoder] | type[LineDecoder]


SSE: Final = Wire("text/event-stream", EventDecoder)
NDJSON: Final = Wire("application/x-ndjson", LineDecoder)


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
