"""What one answer's payloads add, from the first to whatever comes after its finish reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import orjson

from chatstream.errors import ProviderError
from chatstream.providers import Piece, failures
from chatstream.providers.answer import Answer
from chatstream.providers.settling import Settling
from chatstream.providers.sse_decoder import Failure

END_SECONDS: Final = 5.0
"""How long a silence after a finish reason that followed text is the answer's end."""


class Reading:
    """
    One answer's payloads. `done` once nothing more counts: after `[DONE]`, which is OpenAI's mark
    and nobody else's, or after an error that came too late to matter. `spoken` once there was text.
    """

    def __init__(
        self,
        name: str,
        told: Callable[[bytes], ProviderError],
        answer: Answer,
        seconds: float = math.inf,
        close: Callable[[], None] | None = None,
    ) -> None:
        """
        Read the answer of the provider of this name.

        Args:
            told: Reads an error that came within the stream.
            seconds: The longest silence behind an end mark, where it is less than `END_SECONDS`.
            close: Ends the stream.
        """
        self._name = name
        self._told = told
        self._answer = answer
        self._seconds = seconds
        self._close = close
        self._settling: Settling | None = None
        self.done = False
        self.spoken = False

    @property
    def whole(self) -> bool:
        """Whether the answer has its end mark, and nothing came behind that."""
        return self._settling is not None and self._settling.whole

    def pieces(self, payload: bytes) -> Sequence[Piece]:
        """Return what one payload adds. Raises ProviderError."""
        if self.done:
            return ()
        if type(payload) is Failure:
            return self._fail(self._told(payload))
        try:
            chunk = orjson.loads(payload)
            if not chunk.get("error"):
                if self._settling is not None:
                    return self._settling.take(chunk)
                pieces = self._answer.take(chunk)
                if self._answer.finish is not None:
                    self._settle(pieces)
                return pieces
        except (AttributeError, LookupError, TypeError, ValueError):
            # Looked for where JSON was not: a token does not pay for it.
            if payload.startswith(b"[DONE]"):
                self.done = True
                return ()
            if _is_no_object(payload):
                return ()
            return self._fail(failures.unreadable(self._name))
        return self._fail(self._told(payload))

    def _settle(self, pieces: Sequence[Piece]) -> None:
        self._settling = Settling(
            self._answer,
            pieces,
            spoken=self.spoken,
            seconds=min(END_SECONDS, self._seconds),
            close=self._close,
        )

    def _fail(self, failure: ProviderError) -> Sequence[Piece]:
        """Raise it, unless the answer is whole: then only its tail is odd."""
        if not self.whole:
            raise failure
        self.done = True
        return ()

    def leave(self) -> None:
        """Wait for nothing any more."""
        if self._settling is not None:
            self._settling.leave()


def _is_no_object(payload: bytes) -> bool:
    try:
        return not isinstance(orjson.loads(payload), dict)
    except orjson.JSONDecodeError:
        return False
