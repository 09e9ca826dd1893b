"""
One prompt of the `local` provider, in its worker process: what fits, and what the engine answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

# What a cut history leaves free for the answer: a quarter of the context, or what is asked for if
# that is less. A message that stands alone need leave only a few tokens.
ROOM_FRACTION = 4
LEAST_ROOM = 64

REASONS = {"stop": "stop", "length": "length", "content_filter": "filter", "tool_calls": "tool"}

Message: TypeAlias = dict[str, str]
# Kind and value of an event of the turn.
Tell: TypeAlias = Callable[[str, object], None]


class Refusal(Exception):
    """An answer that cannot be; told to the server as an `error`."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.value = {"code": code, "message": message, "retryable": retryable}


def failed(what: str) -> Refusal:
    """Return the error of a turn that the engine gave up; the next one may do better."""
    return Refusal("local_model_failed", f"the local model failed: {what}", retryable=True)


def history(talk: list[Message]) -> int:
    """Return how many messages stand before the user's last one."""
    return max((at for at, message in enumerate(talk) if message["role"] == "user"), default=0)


def allowance(messages: list[Message], context: int, max_tokens: int) -> int:
    """Return how many tokens of the context a prompt may take."""
    talk = [message for message in messages if message["role"] != "system"]
    room = context // ROOM_FRACTION if history(talk) else LEAST_ROOM
    return context - min(room, max_tokens)


def shorten(messages: list[Message], tokens: int, allowed: int) -> list[Message]:
    """
    Drop the oldest messages of a prompt that takes `tokens`, so that `allowed` may do.

    At least one goes. The system prompt and all from the user's last message on stay.

    Raises:
        Refusal: Nothing is left to drop.
    """
    system = [message for message in messages if message["role"] == "system"]
    talk = [message for message in messages if message["role"] != "system"]
    last = history(talk)
    if last == 0:
        raise Refusal(
            "context_too_long",
            f"the message is too long for this model: {tokens} tokens, and {allowed} fit",
        )
    surplus = sum(len(message["content"]) for message in messages) * (1 - allowed / tokens)
    at = 0
    # A history begins with the user: an answer to nothing confuses a model.
    while at < last and (at == 0 or surplus > 0 or talk[at]["role"] != "user"):
        surplus -= len(talk[at]["content"])
        at += 1
    return system + talk[at:]


class Attempt:
    """One run of the engine over one prompt: its chunks in, events out."""

    def __init__(self, tell: Tell, stopped: Callable[[], bool], allowed: int) -> None:
        """`allowed` is how many tokens the prompt may take."""
        self._tell = tell
        self._stopped = stopped
        self._allowed = allowed
        self.cut: tuple[int, int] | None = None
        self.reason: str | None = None
        self.refusal: Refusal | None = None

    def take(self, chunks: Any) -> bool:
        """Pass on what the engine says; True stops it."""
        for chunk in chunks if isinstance(chunks, list) else [chunks]:
            self._take(chunk)
        return self._stopped() or self.cut is not None

    def _take(self, chunk: dict[str, Any]) -> None:
        if self._stopped() or self.cut:
            return
        if error := chunk.get("error"):
            self._fail(error)
        elif (tokens := chunk.get("prompt_progress", {}).get("total", 0)) > self._allowed:
            self.cut = tokens, self._allowed
        for choice in chunk.get("choices", ()):
            if text := choice["delta"].get("reasoning_content"):
                self._tell("reasoning", text)
            if text := choice["delta"].get("content"):
                self._tell("text", text)
            if reason := choice["finish_reason"]:
                self.reason = REASONS.get(reason, "other")
        if usage := chunk.get("usage"):
            self._tell("usage", [usage["prompt_tokens"], usage["completion_tokens"]])

    def _fail(self, error: dict[str, Any]) -> None:
        if error.get("type") == "exceed_context_size_error":
            # The engine's context is smaller than asked for where the model knows no more.
            self.cut = error["n_prompt_tokens"], min(self._allowed, error["n_ctx"] - LEAST_ROOM)
        else:
            self.refusal = failed(str(error.get("type", "unknown error")))
