"""
The two wire forms that the fake upstream writes, and the values that go in and out of it.
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
    def _frame(value: dict[str, Any]) -> bytes:
        return b"data: %s\n\n" % orjson.dumps({**value, "modelVersion": "fake", "responseId": "r"})

    @staticmethod
    def error(status: int, asked: dict[str, Any]) -> dict[str, Any]:
        """Make an error body."""
        return {"code": status, "message": "no", "status": "UNAVAILABLE", **asked}


Form: TypeAlias = type[OpenAIForm] | type[GeminiForm]
