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
    " context_length_exceeded context_window_exceeded model_context_window_exceeded error_limit",
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
_NONE: Final = frozenset(
    ("", "null", "none", "not_finished", "unspecified", "finish_reason_unspecified")
)
"""Said of an answer that goes on, on each of its chunks."""
_BROKEN: Final = re.compile(
    r"abort|cancel|crash|disconnect|error|fail|interrupt|timed?_?out|unavailable"
)


def mark_of(reason: str | None) -> Mark | None:
    """
    Return what a finish reason means; None where it is none. A word that nobody knows is `other`.

    >>> mark_of("MAX_TOKENS"), mark_of("network-error"), mark_of("load"), mark_of("null")
    ('length', 'cut', 'other', None)

    Raises:
        AttributeError, TypeError: It is no text.
    """
    if reason is None:
        return None
    known = _MEANING.get(reason)
    if known is not None:
        return known
    word = reason.strip().lower().replace("-", "_")
    if word in _NONE:
        return None
    return _MEANING.get(word) or ("cut" if _BROKEN.search(word) else "other")
