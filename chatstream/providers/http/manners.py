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

    def after(self, refused: FieldRefused, names: frozenset[str], asking: Asking) -> Ways:
        """Return the ways that the refusal of these fields leaves; the same if it leaves none."""
        left_out = names & {"stream_options", "system", "prefill"}
        if not refused.bounds:
            left_out |= names & {"temperature"}
        ways = replace(self, without=self.without | left_out)
        if "max_tokens" in names:
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
        self.name = name
        self._ways: dict[str, Ways] = {}

    def of(self, model: str) -> Ways:
        """Return how a model wants to be asked, as far as that is known."""
        return self._ways.get(model, PLAIN)

    def learn(self, model: str, ways: Ways) -> None:
        """Remember how a model took a request."""
        self._ways.pop(model, None)
        if len(self._ways) >= MOST_MODELS:
            del self._ways[next(iter(self._ways))]
        self._ways[model] = ways


class Mending:
    """
    One request's way through its server's refusals.

    Nothing is remembered before the mended request was taken: a refusal that was misread, or that
    quotes a user, changes nothing for others.

    Attributes:
        asking: What to ask.
    """

    def __init__(self, manners: Manners, request: ProviderRequest, ask: Ask) -> None:
        self._manners = manners
        self._request = request
        self._ask = ask
        self._ways = manners.of(request.model)
        self._refused: list[frozenset[str]] = []
        self.asking = ask(self._ways.applied(request), self._ways)

    def mend(self, refused: FieldRefused, *, late: bool = False) -> None:
        """
        Put in place of what was refused what to ask once more.

        Args:
            late: A part of the answer was told already: nothing is asked again.

        Raises:
            FieldRefused: It cannot be mended, or was, and is refused all the same.
        """
        new = refused.names.difference(*self._refused)
        self._ways = self._ways.after(refused, new, self.asking)
        mended = self._ask(self._ways.applied(self._request), self._ways)
        if late or mended.body == self.asking.body:
            fields = self._fields(refused.names) | {"status": refused.upstream_status}
            logger.warning("provider failed", extra=fields)
            raise refused
        self._refused.append(new)
        self.asking = mended

    def taken(self) -> None:
        """Remember the ways in which the request was taken. Tells the log of each refusal."""
        for names in self._refused:
            fields = self._fields(names)
            if self._ways.max_tokens and "max_tokens" in names:
                fields["max_tokens"] = self._ways.max_tokens
            logger.warning("provider refuses a field, and is asked without it", extra=fields)
        if self._refused:
            self._manners.learn(self._request.model, self._ways)
            self._refused.clear()

    def _fields(self, names: frozenset[str]) -> dict[str, object]:
        fields = {"provider": self._manners.name, "model": self._request.model}
        return {**fields, "fields": " ".join(sorted(names))}


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
