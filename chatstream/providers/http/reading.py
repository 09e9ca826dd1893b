"""What one answer's payloads add, from the first to whatever comes after its finish reason."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import httpx
import orjson

from chatstream.errors import ProviderError
from chatstream.providers import Piece, ProviderRequest, Reasoning, Text
from chatstream.providers.http import failures, payloads
from chatstream.providers.http.parser import Answer
from chatstream.providers.http.said import Report
from chatstream.providers.http.settling import Settling, Stream
from chatstream.providers.http.sse_decoder import Failure, says_nothing

END_SECONDS: Final = 5.0
"""How long a silence after a finish reason that followed text is the answer's end."""
MARGIN_SECONDS: Final = 0.5
"""How long before the caller's timer a wait behind an end mark is over."""


class Reading:
    """
    One answer's payloads. `done` once nothing more counts: after `[DONE]`, which is OpenAI's mark
    and nobody else's, or after an error that came too late to matter. `spoken` once there was text.
    """

    def __init__(
        self,
        report: Report,
        response: httpx.Response,
        answer: Answer,
        request: ProviderRequest | None = None,
        token_timeout: float = math.inf,
        stream: Stream | None = None,
    ) -> None:
        """
        Read the answer that a response holds.

        Args:
            report: Told what is no answer in it.
            token_timeout: Of the caller: a wait behind an end mark is over before it.
            stream: What the answer comes by.
        """
        self.answer = answer
        self._report = report
        self._response = response
        self._request = request
        self._most = max(token_timeout / 2, token_timeout - MARGIN_SECONDS)
        self._stream = stream
        self._settling: Settling | None = None
        self._halves: payloads.Halves | None = None
        self._plain = False  # text has come, all characters whole: pieces pass as they are
        self._begun = False
        self._strayed = False  # something came that says nothing
        self._before: Sequence[Piece] = ()
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
        except orjson.JSONDecodeError:
            # Looked for where JSON was not: a token does not pay for it.
            if payload.lstrip().startswith(b"[DONE]"):
                self.done = True
                return ()
            chunk = self._read_again(payload)
        try:
            if not chunk.get("error"):
                if self._settling is not None:
                    pieces = self._settling.take(chunk)
                else:
                    pieces = self.answer.take(chunk)
                    if self.answer.finish is not None:
                        self._settle(pieces)
                return pieces if self._plain else self._looked_at(pieces)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            if not isinstance(chunk, dict):
                return self._take_stray(chunk, payload)
            return self._fail(self._report.unreadable(self._response, payload))
        return self._fail(self._told(payload))

    def end(self) -> Sequence[Piece]:
        """Say that no payload comes any more; return what was kept of those that came."""
        pieces = self.answer.end()
        return (
            pieces if self._halves is None else [*self._halves.join(pieces), *self._halves.rest()]
        )

    def ended_early(self, size: int, *, whole: bool) -> ProviderError:
        """
        Tell why there is no end mark.

        Args:
            size: How many bytes came.
            whole: They are JSON that is not cut.
        """
        if self._begun:
            return failures.cut(self._report.name)
        unreadable = self._report.unreadable(self._response, b"", size)
        return unreadable if whole or self._strayed else failures.cut(self._report.name)

    def _take_stray(self, value: object, payload: bytes) -> Sequence[Piece]:
        """Read what is no object: chunks in a list, an error in plain text, or a heartbeat."""
        if isinstance(value, list):
            chunks = [json.dumps(chunk).encode() for chunk in value if isinstance(chunk, dict)]
            return [piece for chunk in chunks for piece in self.pieces(chunk)]
        if says_nothing(payload):
            self._strayed = True
            return ()
        if payload.lstrip()[:1] in (b"{", b"["):
            return self._fail(self._report.unreadable(self._response, payload))
        return self._fail(self._told(payload))

    def _told(self, payload: bytes) -> ProviderError:
        return self._report.explained(None, payload, self._response, self._request)

    def _read_again(self, payload: bytes) -> Any:
        self._halves = self._halves or payloads.Halves()
        self._plain = False
        try:
            return payloads.read_again(payload)
        except ValueError:
            return payload  # which no answer takes

    def _looked_at(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Join halves, and keep what comes before any content: only the last of it counts."""
        if self._halves is not None:
            pieces = self._halves.join(pieces)
        for piece in pieces:
            if type(piece) is Text:
                self.spoken = True
        if self._begun:
            self._plain = self.spoken and self._halves is None
            return pieces
        content = any(isinstance(piece, Text | Reasoning) for piece in pieces)
        if not content and self.answer.finish is None:
            self._before = pieces[-1:] or self._before
            return ()
        self._begun = True
        return [*self._before, *pieces]

    def _settle(self, pieces: Sequence[Piece]) -> None:
        self._settling = Settling(
            self.answer,
            pieces,
            spoken=self.spoken,
            seconds=END_SECONDS,
            most=self._most,
            stream=self._stream,
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
