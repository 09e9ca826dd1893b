"""
The provider layer: one adapter a module, each an async generator of what the model says.

An adapter knows one wire form and nothing of turns, logs or HTTP clients of ours. It never
retries: one retry loop stands above it. It yields pieces as they come and ends with exactly one
`Finish`; an end without the provider's own end mark is a `ProviderError`, never a finish. From
the top, as in the package's own map::

    registry            which providers there are, and the way to each
    built_in            those that the settings open, and the one that answers by default
    adapters/ local/    one wire form a module; a model on this machine
    custom model_list   adapters of one's own; lists of models with their bounds
    route/              retries, breakers, concurrency, the cache of answers
    http/               the client, the decoders and the failures that adapters share
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

FinishReason = Literal["stop", "length", "filter", "tool", "other"]


@dataclass(frozen=True, slots=True)
class Message:
    """Role and text, as the model sees them."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRequest:
    """
    What a turn asks of a model.

    `messages` are oldest first and end with the user's new one, or with the beginning of the
    answer: then the model is to go on from there, and none of it comes again. `None` leaves a
    parameter to the provider's own default.
    """

    messages: Sequence[Message]
    model: str
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()


GO_ON = (
    "Your last message was cut off. Go on exactly where it stopped, in the middle of the word if "
    "need be. Repeat nothing, and say nothing about this."
)


def asked_to_go_on(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages for a model that always begins anew: it is asked to go on."""
    if messages and messages[-1].role == "assistant":
        return [*messages, Message("user", GO_ON)]
    return messages


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A reasoning model's thoughts; never empty, not part of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens so far; a later one replaces an earlier one."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider's own end mark, the last piece of every complete answer."""

    reason: FinishReason


Piece: TypeAlias = Text | Reasoning | Usage | Finish


class Provider(Protocol):
    """One LLM service. Safe to use from many turns at once. An attribute does as a property."""

    @property
    def name(self) -> str:
        """The name in settings, events and `/providers`."""
        ...

    @property
    def model(self) -> str:
        """The model that answers when a turn names none."""
        ...

    def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """
        Yield the answer's pieces in order, ending with one `Finish`.

        Closing the generator, or cancelling the task that iterates it, closes the connection to
        the provider at once. Promises no pace: timeouts are the caller's.

        Raises:
            ProviderError: The provider refused, broke off or sent what cannot be read.
            ProviderTimeout: It could not be reached in time.
        """
        ...


@runtime_checkable
class ListsModels(Protocol):
    """An adapter that can name its models; for `GET /providers`."""

    async def models(self) -> list[str]:
        """Return the names of its models, in any order."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """An adapter that answers so many requests at once at most; others wait, users in turn."""

    concurrency: int


@runtime_checkable
class Closes(Protocol):
    """An adapter that holds a client, a pool or a process."""

    async def aclose(self) -> None:
        """Release everything; running replies end with an error. Safe to call twice."""
        ...
