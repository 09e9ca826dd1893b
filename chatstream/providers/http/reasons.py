"""
Why an answer ended: the words of all vendors, in one table, and what each means here.

One table for every wire form: gateways pass on the words of the model's own vendor.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

from chatstream.providers import FinishReason

Mark: TypeAlias = FinishReason | Literal["cut"]
"""What a finish reason says. `cut`: the provider itself says that it broke off."""

_WORDS: Final[dict[Mark, str]] = {
    "stop": "stop stopped stop_sequence stop_token end end_turn end_of_turn endoftext eos eos_token"
    " complete completed done finished normal success",
    "length": "length max_length max_tokens max_new_tokens max_output max_output_tokens"
    " max_completion_tokens model_length token_limit context_limit context_length"
    " context_length_exceeded context_window_exceeded model_context_window_exceeded error_limit"
    " truncated",
    "filter": "content_filter content_filtered content_filtering filtered guardrail_intervened"
    " moderation moderated flagged refusal refused sensitive safety recitation language blocklist"
    " prohibited_content spii model_armor image_safety image_prohibited_content image_recitation"
    " error_toxic",
    "tool": "tool_calls tool_call tool_use function_call function_calls unexpected_tool_call"
    " too_many_tool_calls",
    "cut": "incomplete insufficient_system_resource overloaded resource_exhausted time_limit"
    " unavailable user_cancel",
}
_MEANING: Final[dict[str, Mark]] = {
    word: mark for mark, words in _WORDS.items() for word in words.split()
}
_RUN_TOGETHER: Final = {word.replace("_", ""): mark for word, mark in _MEANING.items()}
_NONE: Final = frozenset(
    ("", "null", "none", "not_finished", "unspecified", "finish_reason_unspecified")
)
"""Said of an answer that goes on, on each of its chunks."""
_BROKEN: Final = re.compile(
    r"abort|cancel|crash|disconnect|dropped|error|evict|exception|fail|incomplete|interrupt|kill"
    r"|overload|partial|preempt|shut_?down|terminat|timed?_?out|unavailable|unfinished"
)


_PREFIX: Final = re.compile(r"^(?:finish|stop|done)_?reason[._ ]+(?=.)")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAMED: Final = ("type", "reason", "finish_reason", "stop_reason", "name", "value")
"""Where an object that is a reason holds its word."""


def mark_of(reason: object) -> Mark | None:
    """
    Return what a finish reason means; None where it is none. A word that nobody knows is `other`.

    >>> mark_of("MAX_TOKENS"), mark_of("network-error"), mark_of("load"), mark_of("null")
    ('length', 'cut', 'other', None)
    >>> mark_of("maxTokens"), mark_of("FINISH_REASON_STOP"), mark_of({"type": "stop"}), mark_of(2)
    ('length', 'stop', 'stop', 'other')
    """
    if not isinstance(reason, str):
        return _odd(reason)
    known = _MEANING.get(reason)
    if known is not None:
        return known
    word = _HUMP.sub("_", reason.strip()).lower().replace("-", "_").replace(" ", "_")
    word = _PREFIX.sub("", word)
    if word in _NONE:
        return None
    # Words in capitals have no humps: "MAXTOKENS".
    known = _MEANING.get(word) or _RUN_TOGETHER.get(word)
    return known or ("cut" if _BROKEN.search(word) else "other")


def _odd(reason: object) -> Mark | None:
    """Read a reason that is no text: the word in it, if it is an object; else it says only that."""
    if not reason:
        return None
    if isinstance(reason, list):
        reason = {"type": reason[0]}
    if isinstance(reason, dict):
        words = (reason.get(key) for key in _NAMED)
        word = next((word for word in words if isinstance(word, str) and word), None)
        return "other" if word is None else mark_of(word)
    return "other"
