"""
What others write against chatstream, typed: mypy checks it and `test_library.py` runs it.

Everything comes from the package itself, and nothing needs a cast.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount

import chatstream
from chatstream import (
    Chatstream,
    Finish,
    Message,
    Piece,
    Provider,
    ProviderError,
    ProviderRequest,
    ProviderTimeout,
    Reasoning,
    Settings,
    Text,
    Usage,
    create_app,
)


class Echo:
    """A provider with all that it may say and raise."""

    name = "echo"
    model = "echo-1"

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Say the last message again."""
        last: Message = request.messages[-1]
        if last.content == "refuse":
            raise ProviderError("No.", code="provider_rate_limited", retryable=True, retry_after=1)
        if last.content == "wait":
            raise ProviderTimeout("Too slow.", retryable=True)
        yield Reasoning(f"{last.role} said so")
        yield Text(last.content)
        yield Usage(input_tokens=1, output_tokens=1)
        yield Finish("stop")


@dataclass(frozen=True)
class Fixed:
    """A provider that is a frozen value, and closes what it holds."""

    says: str
    closed: list[str]
    name: str = "fixed"
    model: str = "fixed-1"

    async def reply(self, request: ProviderRequest) -> AsyncGenerator[Text | Finish, None]:
        """Say what it always says."""
        yield Text(self.says)
        yield Finish("stop")

    async def aclose(self) -> None:
        """Note that it is closed."""
        self.closed.append(self.name)


def settings(folder: Path) -> tuple[Settings, Settings]:
    """Return settings that read nothing, and ones that the environment gives."""
    return Settings(data_dir=folder, max_turns=7), Settings.from_environment(data_dir=folder)


def providers(closed: list[str]) -> Sequence[Provider]:
    """Return providers of one's own."""
    return [Echo(), Fixed("Hello", closed)]


def app(folder: Path, providers: Sequence[Provider]) -> Chatstream:
    """Return an application that has providers of one's own."""
    return create_app(Settings(data_dir=folder), providers=providers)


def of_the_environment() -> Chatstream:
    """Return an application that the environment and `.env` describe."""
    return create_app()


def mounted(chat: Chatstream) -> Starlette:
    """Return another application with a chat in it."""
    return Starlette(routes=[Mount("/chat", chat)], lifespan=chat.lifespan)


def version() -> str:
    """Return the version of the package that is installed."""
    return chatstream.__version__


def wrong_names() -> None:
    """Name what there is not: mypy says so, and so does Python."""
    chatstream.create_server  # type: ignore[attr-defined]  # noqa: B018
    Settings(date_dir="chats")  # type: ignore[call-arg]
