"""The `openai` provider: Chat Completions, of OpenAI and of the many servers that speak it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Unpack

from chatstream.providers import Piece, ProviderRequest, Reasoning, Text, asked_to_go_on
from chatstream.providers.http.address import Address
from chatstream.providers.http.manners import Ways
from chatstream.providers.http.parser import Asking, first_of, names_in, parts_in, text_in, usage_of
from chatstream.providers.http.provider import Access, Form, HttpProvider
from chatstream.providers.http.reasons import Mark, mark_of
from chatstream.providers.http.thinking import Thoughts

NAME: Final = "openai"


def provider(
    *, prefill: bool = False, finish_optional: bool = False, **access: Unpack[Access]
) -> HttpProvider:
    """
    Return an OpenAI API behind a `base_url` (with its `/v1`); without a key where none is asked.

    Args:
        prefill: The server goes on from an assistant message at the end, as vLLM does.
        finish_optional: It ends an answer with `[DONE]` alone.
    """
    host = Address(access.get("name", NAME), access["base_url"]).host
    form = Form(
        name=NAME,
        # OpenAI's newer models refuse the old name; other servers know only that one.
        ask=Asks(
            "max_completion_tokens" if host == "api.openai.com" else "max_tokens",
            prefill=prefill,
            unsaid="other" if finish_optional else None,
        ),
        models_at="models",
        names=lambda listed: names_in(listed, "data", "id"),
        key_prefix="Bearer ",
    )
    return HttpProvider(form, **access)


@dataclass(frozen=True, slots=True)
class Asks:
    """
    Puts requests in OpenAI's form, for one server.

    Attributes:
        max_tokens: What it calls this field.
        prefill: It goes on from an assistant message at the end.
        unsaid: What `[DONE]` means where no finish reason came before it.
    """

    max_tokens: str
    prefill: bool = False
    unsaid: Mark | None = None

    def __call__(self, request: ProviderRequest, ways: Ways) -> Asking:
        """Return a request to the server, and what reads the answer to it."""
        return Asking("chat/completions", self._body(request, ways), OpenAIAnswer(), self.unsaid)

    def _body(self, request: ProviderRequest, ways: Ways) -> dict[str, Any]:
        prefill = self.prefill and request.messages[-1].role == "assistant"
        asked = request.messages if prefill else asked_to_go_on(request.messages)
        messages = [{"role": m.role, "content": m.content} for m in asked]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": request.system})
        body: dict[str, Any] = {
            "model": request.model,
            "messages": messages,
            "stream": True,
        }
        if "stream_options" not in ways.without:
            body["stream_options"] = {"include_usage": True}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:
            body[ways.max_tokens or self.max_tokens] = request.max_tokens
        if request.stop:
            body["stop"] = list(request.stop)
        if prefill:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body


class OpenAIAnswer:
    """
    One answer, from `chat.completion.chunk` events. Whole once a finish reason was seen.

    A refusal is told as text, and ends with "stop" as any answer: it is one that was filtered.
    """

    def __init__(self) -> None:
        self.finish: Mark | None = None
        self._refused = False
        self._thought = False
        self._thoughts = Thoughts()
        self._whole = Whole()

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """Return what one chunk adds; as `Answer.take` promises."""
        pieces: list[Piece] = []
        usage = chunk.get("usage")
        choices = chunk.get("choices")
        choice = None
        if choices:
            choice = choices[0]
            if choice is None or choice.get("index"):
                choice = first_of(choices)
                if choice is None:
                    return ()  # all of it is of answers that nobody asked for, the usage too
        if choice is not None:
            delta = choice.get("delta")
            if delta:
                self._take_delta(delta, pieces)
            if "message" in choice or not pieces:
                self._take_whole(choice, pieces)
            reason = choice.get("finish_reason")
            if reason:
                self._take_reason(reason)
                usage = usage or (chunk.get("x_groq") or {}).get("usage")
            if usage is None:
                usage = choice.get("usage")
        if usage:
            pieces += usage_of((usage.get("prompt_tokens"),), (usage.get("completion_tokens"),))
        return pieces

    def end(self) -> Sequence[Piece]:
        """Return what was held; as `Answer.end` promises."""
        return self._thoughts.end()

    def _take_delta(self, delta: dict[str, Any], pieces: list[Piece]) -> None:
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            self._say(thought, pieces, "reasoning")
        text = delta.get("content")
        if text:
            if self._thoughts.over and type(text) is str:
                pieces.append(Text(text))  # nearly all of an answer
            else:
                self._say(text, pieces)
        refusal = delta.get("refusal")
        if refusal:
            self._say(refusal, pieces, "refusal")

    def _take_whole(self, choice: dict[str, Any], pieces: list[Piece]) -> None:
        """
        Read one whole message, which some send although a stream was asked for, or its text.

        Others repeat in it what the deltas have said: that is no new text.
        """
        said = choice.get("message") or {"content": choice.get("text")}
        new = self._whole.new(
            {
                "reasoning": said.get("reasoning_content") or said.get("reasoning"),
                "text": said.get("content"),
                "refusal": said.get("refusal"),
            },
            {"reasoning": self._thought, "text": self._thoughts.begun, "refusal": self._refused},
            grows="delta" in choice and bool(choice.get("message")),
        )
        for kind, content in new.items():
            self._say(content, pieces, kind)

    def _say(self, said: object, pieces: list[Piece], kind: str = "text") -> None:
        """Add what a field says: a text, or a list of parts, as Mistral sends them."""
        parts = parts_in(said, kind) if isinstance(said, list | dict) else ((kind, text_in(said)),)
        for part, text in parts:
            if part == "reasoning":
                self._thought = True
                pieces.append(Reasoning(text))
            elif part == "refusal":
                self._refused = True
                pieces.append(Text(text))
            else:
                pieces += self._thoughts.take(text)

    def _take_reason(self, reason: str) -> None:
        mark = mark_of(reason)
        if mark is not None:
            self.finish = "filter" if self._refused and mark != "cut" else mark


class Whole:
    """What the whole messages within one stream have said, apart from its deltas."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def new(
        self, message: dict[str, object], said: dict[str, bool], *, grows: bool
    ) -> dict[str, object]:
        """
        Return what a message says that was not said before.

        Args:
            message: What it says, by kind.
            said: The kinds of which something was said, by deltas or messages.
            grows: A message holds what those before it said.
        """
        new: dict[str, object] = {}
        for kind, content in message.items():
            before = self._said.get(kind)
            if not content or (said[kind] and before is None):
                continue
            self._said[kind] = before or ""
            if grows and isinstance(content, str):
                self._said[kind] = content
                content = content.removeprefix(before or "")
            if content:
                new[kind] = content
        return new
