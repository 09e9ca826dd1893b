"""The `anthropic` provider: Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from typing import Any, Final, Unpack

from chatstream.providers import Message, Piece, ProviderRequest, Text
from chatstream.providers.http.manners import Ways
from chatstream.providers.http.parser import Asking, names_in, pieces_in, usage_of
from chatstream.providers.http.provider import Access, Form, HttpProvider
from chatstream.providers.http.reasons import Mark, mark_of
from chatstream.providers.http.thinking import Thoughts

DEFAULT_MAX_TOKENS: Final = 4096
"""Anthropic answers no request that does not say how long the answer may be."""


def provider(version: str = "2023-06-01", **access: Unpack[Access]) -> HttpProvider:
    """Return the Anthropic API of a version behind a `base_url` (without one)."""
    form = Form(
        name="anthropic",
        ask=_asking,
        models_at="v1/models?limit=1000",
        names=lambda listed: names_in(listed, "data", "id"),
        key_header="x-api-key",
        headers={"anthropic-version": version},
    )
    return HttpProvider(form, **access)


class AnthropicAnswer:
    """
    One answer, from the events of a message. Whole once `message_stop` was seen.

    `tail` is white space that the answer may repeat at its beginning, where none is wanted.
    """

    def __init__(self, tail: str = "") -> None:
        self.finish: Mark | None = None
        self._reason: Mark = "other"
        self._input_tokens = 0
        self._tail = tail
        self._thoughts = Thoughts()

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """Return what one event adds; as `Answer.take` promises. Unknown events add nothing."""
        match chunk.get("type"):
            case "content_block_delta":
                return self._delta(chunk["delta"])
            case "content_block_start":
                return self._delta(chunk["content_block"])
            case "message_start":
                return self._usage(chunk["message"].get("usage"))
            case "message_delta":
                self._reason = mark_of(chunk["delta"].get("stop_reason")) or self._reason
                return self._usage(chunk.get("usage"))
            case "message_stop":
                self.finish = self._reason
            case "message":
                return self._whole(chunk)
        return ()

    def _whole(self, message: dict[str, Any]) -> Sequence[Piece]:
        """Read a whole message, which some send although a stream was asked for."""
        # After deltas it repeats what they have said.
        content = [] if self._thoughts.begun else message["content"] or []
        blocks = content if isinstance(content, list) else [{"text": content}]
        pieces = [piece for block in blocks if block is not None for piece in self._delta(block)]
        self.finish = mark_of(message.get("stop_reason"))
        return [*pieces, *self._usage(message.get("usage"))]

    def _delta(self, delta: dict[str, Any]) -> Sequence[Piece]:
        """Read a delta, or the block that begins: each names what it holds."""
        if text := delta.get("text"):
            if self._tail and type(text) is str:
                text = self._without_tail(text)
            if self._thoughts.over and type(text) is str:
                return [Text(text)] if text else ()
            return pieces_in(text, self._thoughts)
        if thought := delta.get("thinking"):
            return pieces_in(thought, self._thoughts, "reasoning")
        if refusal := delta.get("refusal"):
            return pieces_in(refusal, self._thoughts)
        return ()

    def _without_tail(self, text: str) -> str:
        repeated = commonprefix((self._tail, text))
        self._tail = self._tail.removeprefix(repeated) if repeated == text else ""
        return text[len(repeated) :]

    def _usage(self, usage: dict[str, Any] | None) -> Sequence[Piece]:
        if not usage:
            return ()
        # What was read from a cache, or written to one, was read all the same.
        read = [
            usage.get(name) or 0
            for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        ]
        # Counts are of the whole message so far; the last event may leave the input's out.
        if not any(read):
            read = [self._input_tokens]
        told = usage_of(read, (usage.get("output_tokens") or 0,))
        for piece in told:
            self._input_tokens = piece.input_tokens
        return told

    def end(self) -> Sequence[Piece]:
        """Return what was held; as `Answer.end` promises."""
        return self._thoughts.end()


def _asking(request: ProviderRequest, _: Ways) -> Asking:
    messages, tail = _messages(request.messages)
    return Asking("v1/messages", _body(request, messages), AnthropicAnswer(tail))


def _messages(messages: Sequence[Message]) -> tuple[list[dict[str, str]], str]:
    """
    Put the history in Anthropic's form: no blank messages, no white space at the very end.

    The beginning of an answer stays last: Anthropic goes on from it. Also returned is the white
    space that was taken from its end, for the answer to go without.
    """
    asked = [{"role": m.role, "content": m.content} for m in messages if m.content.strip()]
    tail = ""
    if messages and messages[-1].role == "assistant":
        text = messages[-1].content
        tail = text[len(text.rstrip()) :]
        if text.strip():
            asked[-1]["content"] = text.rstrip()
    return asked, tail


def _body(request: ProviderRequest, messages: list[dict[str, str]]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
        "stream": True,
    }
    if request.system:
        body["system"] = request.system
    if request.temperature is not None:
        # Others go up to 2; Anthropic refuses what is above 1.
        body["temperature"] = min(request.temperature, 1.0)
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    return body
