"""The adapters of the four wire forms, asked over a real socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import pytest

from chatstream.errors import ProviderError
from chatstream.providers import Message, Piece, Provider, ProviderRequest, Text
from chatstream.providers.adapters import anthropic, gemini, ollama, openai
from chatstream.providers.http.provider import HttpProvider
from tests.upstream_forms import token

FORMS: Final = ("openai", "gemini", "anthropic", "ollama")
KEY: Final = "sk-very-secret"
Adapter: TypeAlias = HttpProvider


def make(form: str, url: str, **given: Any) -> Adapter:
    """Return the adapter of a wire form for the upstream at `url`."""
    options: dict[str, Any] = {"model": "m", "connect_timeout": 5, **given}
    if form == "ollama":
        return ollama.provider(base_url=url, **options)
    options |= {"api_key": KEY, "base_url": f"{url}/v1" if form == "openai" else url} | given
    makers: dict[str, Callable[..., HttpProvider]] = {
        "openai": openai.provider,
        "gemini": gemini.provider,
        "anthropic": anthropic.provider,
    }
    return makers[form](**options)


def ask(*said: str) -> ProviderRequest:
    """Return a request whose messages are the user's and the assistant's in turn."""
    roles = ("user", "assistant")
    messages = [Message(roles[n % 2], text) for n, text in enumerate(said)]  # type: ignore[arg-type]
    return ProviderRequest(messages=messages, model="m")


async def answer(provider: Provider, script: str) -> list[Piece]:
    """Return the pieces of a whole answer."""
    return [piece async for piece in provider.reply(ask(script))]


async def failure(provider: Provider, script: str = "hello") -> tuple[list[Piece], ProviderError]:
    """Return the pieces of an answer that fails, and its error."""
    pieces: list[Piece] = []
    with pytest.raises(ProviderError) as caught:
        async for piece in provider.reply(ask(script)):
            pieces.append(piece)
    return pieces, caught.value


def texts(count: int) -> list[Piece]:
    """Return the pieces of `tokens=N`."""
    return [Text(token(number)) for number in range(count)]
