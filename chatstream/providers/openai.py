"""The `openai` provider: Chat Completions, of OpenAI and of the many servers that speak it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from chatstream.providers import (
    FinishReason,
    Piece,
    ProviderRequest,
    Reasoning,
    Text,
    Usage,
    asked_to_go_on,
)
from chatstream.providers.answer import names_in, text_in
from chatstream.providers.http import ProviderClient

FINISH: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "filter",
    "tool_calls": "tool",
    "function_call": "tool",
}


class OpenAIProvider:
    """An OpenAI API behind `base_url` (with its `/v1`); without a key for servers that ask none."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        model: str,
        connect_timeout: float,
        name: str = "openai",
        prefill: bool = False,
    ) -> None:
        """`prefill`: the server goes on from an assistant message at the end, as vLLM does."""
        self.name = name
        self.model = model
        self._prefill = prefill
        self._client = ProviderClient(
            name,
            base_url,
            api_key=api_key,
            key_header="Authorization",
            key_prefix="Bearer ",
            connect_timeout=connect_timeout,
        )
        # OpenAI's newer models refuse the old name; other servers know only that one.
        self._max_tokens = (
            "max_completion_tokens" if self._client.host == "api.openai.com" else "max_tokens"
        )

    def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer's pieces; as `Provider.reply` promises."""
        return self._client.reply("chat/completions", self._body(request), OpenAIAnswer())

    async def models(self) -> list[str]:
        """Return the names of its models."""
        return names_in(await self._client.get("models"), "data", "id")

    async def aclose(self) -> None:
        """Close the connections; running replies end with an error. Safe to call twice."""
        await self._client.aclose()

    def _body(self, request: ProviderRequest) -> dict[str, Any]:
        prefill = self._prefill and request.messages[-1].role == "assistant"
        asked = request.messages if prefill else asked_to_go_on(request.messages)
        messages = [{"role": m.role, "content": m.content} for m in asked]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": request.system})
        body: dict[str, Any] = {
            "model": request.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:
            body[self._max_tokens] = request.max_tokens
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
        self.finish: FinishReason | None = None
        self._refused = False

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """Return what one chunk adds; as `Answer.take` promises."""
        pieces: list[Piece] = []
        choices = chunk.get("choices")
        if choices:
            choice = choices[0]
            # Some answer with one whole message, although a stream was asked for.
            delta = choice["delta"] if "delta" in choice else choice.get("message")
            if delta:
                thought = delta.get("reasoning_content") or delta.get("reasoning")
                if thought:
                    pieces.append(Reasoning(text_in(thought)))
                text = delta.get("content")
                if text:
                    pieces.append(Text(text_in(text)))
                refusal = delta.get("refusal")
                if refusal:
                    self._refused = True
                    pieces.append(Text(text_in(refusal)))
            reason = choice.get("finish_reason")
            # "error" is said of an answer that broke off: no end mark.
            if reason and reason != "error":
                self.finish = "filter" if self._refused else FINISH.get(reason, "other")
        usage = chunk.get("usage")
        if usage:
            counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if isinstance(counts[0], int) and isinstance(counts[1], int):
                pieces.append(Usage(*counts))
        return pieces
