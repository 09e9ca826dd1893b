"""
The four wire forms that the fake upstream writes, and the values that go in and out of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

import orjson

EMOJI = "é 👩‍👩‍👧 \u2028\u2029 \x7f ☃"


def token(number: int) -> str:
    """Return the text of one token; each is told from its neighbours."""
    return f"t{number} "


def text_of(tokens: int) -> str:
    """Return the whole text of `tokens=N`."""
    return "".join(map(token, range(tokens)))


@dataclass
class Asked:
    """One request as it came. Header names are in lower case."""

    method: str = ""
    path: str = ""
    query: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


class OpenAIForm:
    """Chat Completions, as a server writes it."""

    default_reason = "stop"
    media_type = b"text/event-stream; charset=utf-8"
    keep_alive = b": keep-alive\n\n"

    @staticmethod
    def payload(value: str) -> bytes:
        """Encode one event as it stands."""
        return b"data: %s\n\n" % value.encode()

    @staticmethod
    @lru_cache(100_000)
    def frame(kind: str, value: str) -> bytes:
        """Encode one frame; cached, so that a benchmark pays for bytes alone."""
        delta: dict[str, str] = {}
        reason = None
        if kind == "text":
            delta = {"content": value}
        elif kind == "reasoning":
            delta = {"reasoning_content": value}
        elif kind == "role":
            delta = {"role": "assistant", "content": ""}
        elif kind == "finish":
            reason = value
        elif kind in ("refusal",):
            delta = {kind: value}
        return OpenAIForm._chunk(
            [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
            if kind != "empty"
            else []
        )

    @staticmethod
    def usage(counts: tuple[int, int]) -> bytes:
        """Encode the usage frame, whose `choices` are empty."""
        return OpenAIForm._chunk(
            [], {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": 0}
        )

    @staticmethod
    def end(reason: str, counts: tuple[int, int], options: dict[str, Any]) -> bytes:
        """Encode a whole end; the usage if it was asked for."""
        usage = OpenAIForm.usage(counts) if options.get("include_usage") else b""
        return OpenAIForm.frame("finish", reason) + usage + OpenAIForm.done()

    @staticmethod
    def done() -> bytes:
        """Encode the end mark."""
        return b"data: [DONE]\n\n"

    @staticmethod
    def whole(text: str, counts: tuple[int, int]) -> dict[str, Any]:
        """Make the answer that is no stream."""
        message = {"role": "assistant", "content": text}
        return {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": counts[0], "completion_tokens": counts[1]},
        }

    @staticmethod
    def error_frame(status: int, asked: dict[str, Any]) -> bytes:
        """Encode an error in the stream."""
        body = OpenAIForm.error(status or 503, asked)
        if status:
            body["code"] = status
        return b"data: %s\n\n" % orjson.dumps({"error": body})

    @staticmethod
    def _chunk(choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        return b"data: %s\n\n" % orjson.dumps(
            {
                "id": "chatcmpl-0123456789abcdefghijklmnopqrs",
                "object": "chat.completion.chunk",
                "created": 1764000000,
                "model": "fake-small-2026-11-01",
                "system_fingerprint": "fp_0123456789",
                "choices": choices,
                "usage": usage,
            }
        )

    @staticmethod
    def error(status: int, asked: dict[str, Any]) -> dict[str, Any]:
        """Make an error body."""
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return {"message": "no", "type": kind, "param": None, "code": None, **asked}


class GeminiForm:
    """streamGenerateContent with `alt=sse`, as a server writes it."""

    default_reason = "STOP"
    media_type = b"text/event-stream; charset=utf-8"
    keep_alive = b": keep-alive\n\n"

    @staticmethod
    def payload(value: str) -> bytes:
        """Encode one event as it stands."""
        return b"data: %s\n\n" % value.encode()

    @staticmethod
    @lru_cache(100_000)
    def frame(kind: str, value: str) -> bytes:
        """Encode one frame."""
        if kind == "empty":
            return GeminiForm._frame({})
        candidate: dict[str, Any] = {"index": 0}
        if kind == "text":
            candidate["content"] = {"parts": [{"text": value}], "role": "model"}
        elif kind == "reasoning":
            candidate["content"] = {"parts": [{"text": value, "thought": True}], "role": "model"}
        elif kind == "finish":
            candidate["finishReason"] = value
        elif kind == "block":
            return GeminiForm._frame({"promptFeedback": {"blockReason": value}})
        return GeminiForm._frame({"candidates": [candidate]})

    @staticmethod
    def usage(counts: tuple[int, int]) -> bytes:
        """Encode a frame of counts; one of the output's is a thought."""
        return GeminiForm._frame(
            {
                "usageMetadata": {
                    "promptTokenCount": counts[0],
                    "candidatesTokenCount": counts[1] - 1,
                    "thoughtsTokenCount": 1,
                }
            }
        )

    @staticmethod
    def end(reason: str, counts: tuple[int, int], _: dict[str, Any]) -> bytes:
        """Encode a whole end."""
        return GeminiForm.frame("finish", reason) + GeminiForm.usage(counts)

    @staticmethod
    def done() -> bytes:
        """Encode OpenAI's end mark, which is none here."""
        return OpenAIForm.done()

    @staticmethod
    def whole(text: str, counts: tuple[int, int]) -> dict[str, Any]:
        """Make the answer that is no stream."""
        content = {"parts": [{"text": text}], "role": "model"}
        return {
            "candidates": [{"index": 0, "content": content, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": counts[0], "candidatesTokenCount": counts[1]},
        }

    @staticmethod
    def error_frame(status: int, asked: dict[str, Any]) -> bytes:
        """Encode an error in the stream."""
        return b"data: %s\n\n" % orjson.dumps({"error": GeminiForm.error(status or 503, asked)})

    @staticmethod
    def _frame(value: dict[str, Any]) -> bytes:
        return b"data: %s\n\n" % orjson.dumps({**value, "modelVersion": "fake", "responseId": "r"})

    @staticmethod
    def error(status: int, asked: dict[str, Any]) -> dict[str, Any]:
        """Make an error body."""
        return {"code": status, "message": "no", "status": "UNAVAILABLE", **asked}


class AnthropicForm:
    """Messages, as a server writes them: the event's name stands on a line of its own too."""

    default_reason = "end_turn"
    media_type = b"text/event-stream; charset=utf-8"
    keep_alive = b'event: ping\ndata: {"type": "ping"}\n\n'

    @staticmethod
    def payload(value: str) -> bytes:
        """Encode one event as it stands."""
        return b"data: %s\n\n" % value.encode()

    @staticmethod
    @lru_cache(100_000)
    def frame(kind: str, value: str) -> bytes:
        """Encode one event."""
        if kind == "text":
            return AnthropicForm._delta({"type": "text_delta", "text": value})
        if kind == "reasoning":
            return AnthropicForm._delta({"type": "thinking_delta", "thinking": value})
        if kind == "finish":
            delta = {"stop_reason": value, "stop_sequence": None}
            return AnthropicForm._event("message_delta", delta=delta)
        if kind == "role":
            message = {"id": "msg_0", "type": "message", "role": "assistant", "content": []}
            usage = {"input_tokens": 4, "cache_read_input_tokens": 3, "output_tokens": 1}
            block = {"type": "text", "text": ""}
            return AnthropicForm._event(
                "message_start", message={**message, "usage": usage}
            ) + AnthropicForm._event("content_block_start", index=0, content_block=block)
        return AnthropicForm._event("something_new", index=0)

    @staticmethod
    def usage(counts: tuple[int, int]) -> bytes:
        """Encode the cumulative count."""
        return AnthropicForm._event("message_delta", delta={}, usage={"output_tokens": counts[1]})

    @staticmethod
    def end(reason: str, counts: tuple[int, int], _: dict[str, Any]) -> bytes:
        """Encode a whole end."""
        return (
            AnthropicForm._event("content_block_stop", index=0)
            + AnthropicForm.frame("finish", reason)
            + AnthropicForm.usage(counts)
            + AnthropicForm.done()
        )

    @staticmethod
    def done() -> bytes:
        """Encode the end mark."""
        return AnthropicForm._event("message_stop")

    @staticmethod
    def _delta(delta: dict[str, str]) -> bytes:
        return AnthropicForm._event("content_block_delta", index=0, delta=delta)

    @staticmethod
    def _event(kind: str, **fields: Any) -> bytes:
        data = orjson.dumps({"type": kind, **fields})
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)

    @staticmethod
    def error(status: int, asked: dict[str, Any]) -> dict[str, Any]:
        """Make an error body."""
        kinds = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
        return {"type": kinds.get(status, "overloaded_error"), "message": "no", **asked}

    @staticmethod
    def whole(text: str, counts: tuple[int, int]) -> dict[str, Any]:
        """Make the answer that is no stream."""
        return {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": counts[0], "output_tokens": counts[1]},
        }

    @staticmethod
    def error_frame(status: int, asked: dict[str, Any]) -> bytes:
        """Encode an error in the stream."""
        return AnthropicForm._event("error", error=AnthropicForm.error(status, asked))


class OllamaForm:
    """Lines of JSON, as an Ollama writes them."""

    default_reason = "stop"
    media_type = b"application/x-ndjson"
    keep_alive = b"\n"

    @staticmethod
    def payload(value: str) -> bytes:
        """Encode one line as it stands."""
        return value.encode() + b"\n"

    @staticmethod
    @lru_cache(100_000)
    def frame(kind: str, value: str) -> bytes:
        """Encode one line."""
        if kind == "finish":
            return OllamaForm._line(message={"role": "assistant", "content": ""}, done_reason=value)
        names = {"text": "content", "reasoning": "thinking"}
        message = {"role": "assistant", "content": ""}
        return OllamaForm._line(message=message | ({names[kind]: value} if kind in names else {}))

    @staticmethod
    def usage(counts: tuple[int, int]) -> bytes:
        """An Ollama tells it at the end alone."""
        return b""

    @staticmethod
    def end(reason: str, counts: tuple[int, int], _: dict[str, Any]) -> bytes:
        """Encode a whole end."""
        return OllamaForm._line(
            message={"role": "assistant", "content": ""},
            done_reason=reason,
            total_duration=4883583458,
            prompt_eval_count=counts[0],
            eval_count=counts[1],
        )

    @staticmethod
    def done() -> bytes:
        """There is no end mark but the last line."""
        return b""

    @staticmethod
    def _line(**fields: Any) -> bytes:
        head = {"model": "fake", "created_at": "2026-11-01T00:00:00.000000Z"}
        return orjson.dumps({**head, **fields, "done": "done_reason" in fields}) + b"\n"

    @staticmethod
    def error(status: int, asked: dict[str, Any]) -> Any:
        """Make an error body: a sentence, or what a gateway before it says."""
        return {"message": "no", **asked} if asked else "no"

    @staticmethod
    def whole(text: str, counts: tuple[int, int]) -> dict[str, Any]:
        """Make the answer that is no stream."""
        return {
            "message": {"role": "assistant", "content": text},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": counts[0],
            "eval_count": counts[1],
        }

    @staticmethod
    def error_frame(status: int, asked: dict[str, Any]) -> bytes:
        """Encode an error in the stream."""
        return orjson.dumps({"error": OllamaForm.error(status, asked)}) + b"\n"


Form: TypeAlias = type[OpenAIForm] | type[GeminiForm] | type[AnthropicForm] | type[OllamaForm]
