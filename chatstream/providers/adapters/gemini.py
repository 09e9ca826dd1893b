"""The `gemini` provider: Google's `streamGenerateContent`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Unpack
from urllib.parse import quote

from chatstream.providers import Message, Piece, ProviderRequest, Reasoning, Text, asked_to_go_on
from chatstream.providers.http.manners import Ways
from chatstream.providers.http.parser import Asking, first_of, names_in, pieces_in, usage_of
from chatstream.providers.http.provider import Access, Form, HttpProvider
from chatstream.providers.http.reasons import Mark, mark_of
from chatstream.providers.http.thinking import Thoughts


def provider(**access: Unpack[Access]) -> HttpProvider:
    """Return the Gemini API behind a `base_url` (without a version)."""
    return HttpProvider(FORM, **access)


class GeminiAnswer:
    """One answer, from `GenerateContentResponse` frames. Whole once a finish reason was seen."""

    def __init__(self) -> None:
        self.finish: Mark | None = None
        self._thoughts = Thoughts()

    def take(self, chunk: dict[str, Any]) -> Sequence[Piece]:
        """Return what one frame adds; as `Answer.take` promises."""
        pieces: list[Piece] = []
        candidate = first_of(chunk.get("candidates"))
        if candidate is not None:
            content = candidate.get("content")
            if content:
                self._take_parts(content.get("parts"), pieces)
            self.finish = mark_of(candidate.get("finishReason")) or self.finish
        elif (chunk.get("promptFeedback") or {}).get("blockReason"):
            self.finish = "filter"
        usage = chunk.get("usageMetadata")
        if usage:
            # A count of nothing is left out; thoughts are paid for as output.
            written = usage.get("candidatesTokenCount") or 0, usage.get("thoughtsTokenCount") or 0
            pieces += usage_of((usage.get("promptTokenCount") or 0,), written)
        return pieces

    def end(self) -> Sequence[Piece]:
        """Return what was held; as `Answer.end` promises."""
        return self._thoughts.end()

    def _take_parts(self, parts: object, pieces: list[Piece]) -> None:
        for part in parts if isinstance(parts, list) else [parts]:
            text = part.get("text") if isinstance(part, dict) else part
            if type(text) is str and type(part) is dict:
                if not text:
                    continue
                if part.get("thought"):
                    pieces.append(Reasoning(text))
                elif self._thoughts.over:
                    pieces.append(Text(text))  # nearly all of an answer
                else:
                    pieces += self._thoughts.take(text)
            elif part:
                pieces += pieces_in(part, self._thoughts)


def _asking(request: ProviderRequest, _: Ways) -> Asking:
    model = quote(request.model.removeprefix("models/"), safe="")
    path = f"v1beta/models/{model}:streamGenerateContent?alt=sse"
    return Asking(path, _body(request), GeminiAnswer())


def _names(listed: dict[str, Any]) -> list[str]:
    names = names_in(listed, "models", "name", _can_answer)
    return [name.removeprefix("models/") for name in names]


def _can_answer(model: dict[str, Any]) -> bool:
    methods = model.get("supportedGenerationMethods")
    return isinstance(methods, list) and "generateContent" in methods


def _body(request: ProviderRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"contents": _contents(asked_to_go_on(request.messages))}
    if request.system is not None:
        body["systemInstruction"] = {"parts": [{"text": request.system}]}
    config: dict[str, Any] = {}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.max_tokens is not None:
        config["maxOutputTokens"] = request.max_tokens
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if config:
        body["generationConfig"] = config
    return body


def _contents(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Put the history in Gemini's form: roles alternate, neighbours of one role are one."""
    contents: list[dict[str, Any]] = []
    for message in messages:
        role = "model" if message.role == "assistant" else "user"
        if not contents or contents[-1]["role"] != role:
            contents.append({"role": role, "parts": []})
        contents[-1]["parts"].append({"text": message.content})
    return contents


FORM: Final = Form(
    name="gemini",
    ask=_asking,
    models_at="v1beta/models?pageSize=1000",
    names=_names,
    key_header="x-goog-api-key",
)
