"""
How a model wants to be asked, learned from what its server refuses: once for each model.

What can be mended is, and asked again: nothing that a user said is dropped. No I/O.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from chatstream.providers import Message, ProviderRequest, asked_to_go_on
from chatstream.providers.http.parser import Asking
from chatstream.providers.http.refusals import FieldRefused

logger = logging.getLogger(__name__)

MOST_MODELS: Final = 1000
"""Of how many it is remembered."""
_TOKENS_NAME: Final = re.compile(r"\b(?:max\w*tokens\w*|num_predict)\b", re.IGNORECASE)
_OTHER_NAME: Final = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}


@dataclass(frozen=True, slots=True)
class Ways:
    """
    How a model wants to be asked, as far as its refusals told.

    Attributes:
        without: What it refuses: temperature, stream_options, system, prefill.
        max_tokens: What it calls this field; empty for the name that its protocol has.
    """

    without: frozenset[str] = frozenset()
    max_tokens: str = ""

    def applied(self, request: ProviderRequest) -> ProviderRequest:
        """Return a request that says the same in this way."""
        if "temperature" in self.without:
            request = replace(request, temperature=None)
        if "prefill" in self.without:
            request = replace(request, messages=asked_to_go_on(request.messages))
        if "system" in self.without and request.system:
            request = _with_system_in_a_message(request, request.system)
        return request

    def after(self, refused: FieldRefused, asking: Asking) -> Ways:
        """Return the ways that a refusal of this request leaves; the same if it leaves none."""
        left_out = refused.names & {"stream_options", "system", "prefill"}
        if not refused.bounds:
            left_out |= refused.names & {"temperature"}
        ways = replace(self, without=self.without | left_out)
        if "max_tokens" in refused.names:
            told = (n for n in _TOKENS_NAME.findall(refused.text) if n not in asking.body)
            now = next((name for name in _OTHER_NAME if name in asking.body), "")
            guess = "" if refused.bounds or self.max_tokens else _OTHER_NAME.get(now, "")
            ways = replace(ways, max_tokens=next(told, guess) or self.max_tokens)
        return ways


PLAIN: Final = Ways()
Ask = Callable[[ProviderRequest, Ways], Asking]
"""Puts a request in a provider's form, in these ways."""


class Manners:
    """What is known of one provider's models."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ways: dict[str, Ways] = {}

    def asking(self, request: ProviderRequest, ask: Ask) -> Asking:
        """Return the request in its model's ways."""
        ways = self._ways.get(request.model, PLAIN)
        return ask(ways.applied(request), ways)

    def mended(
        self, refused: FieldRefused, request: ProviderRequest, asking: Asking, ask: Ask
    ) -> Asking:
        """
        Return what to ask in place of what was refused, and remember it. Tells the log, once.

        Raises:
            FieldRefused: It cannot be mended.
        """
        ways = self._ways.get(request.model, PLAIN).after(refused, asking)
        mended = ask(ways.applied(request), ways)
        fields = {"provider": self._name, "model": request.model}
        fields["fields"] = " ".join(sorted(refused.names))
        if mended.body == asking.body:
            logger.warning("provider failed", extra={**fields, "status": refused.upstream_status})
            raise refused
        if ways.max_tokens:
            fields["max_tokens"] = ways.max_tokens
        logger.warning("provider refuses a field, and is asked without it", extra=fields)
        self._ways.pop(request.model, None)
        if len(self._ways) >= MOST_MODELS:
            del self._ways[next(iter(self._ways))]
        self._ways[request.model] = ways
        return mended


def _with_system_in_a_message(request: ProviderRequest, system: str) -> ProviderRequest:
    """Move the system prompt to the head of the first message of a user."""
    messages = list(request.messages)
    for number, message in enumerate(messages):
        if message.role == "user":
            messages[number] = Message("user", f"{system}\n\n{message.content}")
            break
    else:
        messages.insert(0, Message("user", system))
    return replace(request, messages=messages, system=None)
