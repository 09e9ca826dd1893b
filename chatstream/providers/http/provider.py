"""A provider that is asked over HTTP: a wire form, which is data, and a client that speaks it."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict, Unpack

from chatstream.providers import Piece, ProviderRequest
from chatstream.providers.http.client import ProviderClient
from chatstream.providers.http.manners import Ask
from chatstream.providers.http.parser import SSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """
    One wire form: how a provider takes its key, is asked, and lists its models.

    Attributes:
        name: Of the provider, where it is given no other.
        ask: Puts a request in this form; what it returns has the answer's parser.
        models_at: The path of the list of models.
        names: Reads the names in that list.
        headers: Sent with every request.
        wire: The media type that an answer is asked for in.
        pull: The command that gets a model that is not there.
    """

    name: str
    ask: Ask
    models_at: str
    names: Callable[[dict[str, Any]], list[str]]
    key_header: str = "Authorization"
    key_prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    wire: str = SSE
    pull: str = ""


class Access(TypedDict):
    """
    What an operator says of a provider.

    `token_timeout` is the caller's: silence after the end mark is the end well before it.
    """

    base_url: str
    model: str
    connect_timeout: float
    token_timeout: NotRequired[float]
    api_key: NotRequired[str]
    name: NotRequired[str]


class HttpProvider:
    """
    A `Provider` of one wire form behind a `base_url`.

    Raises:
        SettingsError: The address or the key cannot be used.
    """

    def __init__(self, form: Form, **access: Unpack[Access]) -> None:
        self.name = access.get("name", form.name)
        self.model = access["model"]
        self._form = form
        self._client = ProviderClient(
            self.name,
            access["base_url"],
            api_key=access.get("api_key", ""),
            key_header=form.key_header,
            key_prefix=form.key_prefix,
            headers=form.headers,
            wire=form.wire,
            connect_timeout=access["connect_timeout"],
            token_timeout=access.get("token_timeout", math.inf),
            pull=form.pull,
        )

    def reply(self, request: ProviderRequest) -> AsyncGenerator[Piece, None]:
        """Yield the answer's pieces; as `Provider.reply` promises."""
        return self._client.reply(request, self._form.ask)

    async def models(self) -> list[str]:
        """Return the names of the models that can answer."""
        return self._form.names(await self._client.get(self._form.models_at))

    async def aclose(self) -> None:
        """Close the connections; running replies end with an error. Safe to call twice."""
        await self._client.aclose()
