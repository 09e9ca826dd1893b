"""The `openai` provider: Chat Completions, of OpenAI and of the many servers that speak it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from math import inf
from typing import Any

from chatstream.providers import Piece, ProviderRequest, Reasoning, Text, asked_to_go_on
from chatstream.providers.http.client import ProviderClient
from chatstream.providers.http.manners import PLAIN, Ways
from chatstream.providers.http.parser import Asking, first_of, names_in, parts_in, text_in, usage_of
from chatstream.providers.http.reasons import Mark, mark_of
from chatstream.providers.http.thinking import Thoughts


class OpenAIProvider:
    """An OpenAI API behind `base_url` (with its `/v1`); without a key for servers that ask none."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        model: str,
        connect_timeout: float,
        token_timeout: float = inf,
        name: str = "openai",
        prefill: bool = False,
        finish_optional: bool = False,
    ) -> None:
        """
        `prefill`: the server goes on from an assistant message at the end, as vLLM does.
        `finish_optional`: it ends an answer with `[DONE]` alone.
        """
        self.name = name
        self.model = model
        self._prefill = prefill
        self._finish_optional = finish_optional
        self._client = ProviderClient(
            name,
            base_url,
            api_key=api_key,
            key_header="Authorization",
            key_prefix="Bearer ",
            connect_timeout=connect_timeout,
            token_timeout=token_timeout,
        )
        # OpenAI's newer models refuse the old name; other servers know only that one.
        self._max_tokens = (
            "max_completion_tokens" if self._client.host == "api.openai.com" else "max_tokens"
        )

    def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer's pieces; as `Provider.reply` promises."""
        return self._client.reply(request, self._asking)

    async def models(self) -> list[str]:
        """Return the names of its models."""
        return names_in(await self._client.get("models"), "data", "id")

    async def aclose(self) -> None:
        """Close the connections; running replies end with an error. Safe to call twice."""
        await self._client.aclose()

    def _asking(self, request: ProviderRequest, ways: Ways) -> Asking:
        body = self._body(request, ways)
        unsaid: Mark | None = "other" if self._finish_optional else None
        return Asking("chat/completions", body, OpenAIAnswer(), unsaid)

    def _body(self, request: ProviderRequest, ways: Ways = PLAIN) -> dict[str, Any]:
        prefill = self._prefill and request.messages[-1].role == "assistant"
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
            body[ways.max_tokens or self._max_tokens] = request.max_tokens
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
        self._thoughts = Thoughts()

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """Return what one chunk adds; as `Answer.take` promises."""
        pieces: list[Piece] = []
        usage = chunk.get("usage")
        choices = chunk.get("choices")
        choice = None
        if choices:
            choice = choices[0]
            if choice.get("index"):
                choice = first_of(choices)
                if choice is None:
                    return ()  # all of it is of answers that nobody asked for, the usage too
        if choice is not None:
            # Some answer with one whole message, although a stream was asked for.
            delta = choice["delta"] if "delta" in choice else choice.get("message")
            if delta:
                self._take_delta(delta, pieces)
            reason = choice.get("finish_reason")
            if reason:
                self._take_reason(reason)
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
            self._refused = True
            pieces.append(Text(text_in(refusal)))

    def _say(self, said: object, pieces: list[Piece], kind: str = "text") -> None:
        """Add what a field says: a text, or a list of parts, as Mistral sends them."""
        parts = parts_in(said, kind) if isinstance(said, list | dict) else ((kind, text_in(said)),)
        for part, text in parts:
            if part == "reasoning":
                pieces.append(Reasoning(text))
            else:
                pieces += self._thoughts.take(text)

    def _take_reason(self, reason: str) -> None:
        mark = mark_of(reason)
        if mark is not None:
            self.finish = "filter" if self._refused and mark != "cut" else mark
