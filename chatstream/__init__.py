"""
chatstream: a streaming chat server that never loses or repeats a token.

A conversation is a log, and everything else is a view of it. A token travels::

    provider's bytes -> providers/ -> turns/ -> log/ -> views/ -> web/ -> browser

A request travels the other way: `web/` parses it, `turns/` starts the turn, `log/` makes its
message durable, and only then does `providers/` ask a model.

The map, from the top. A row imports rows below it and its own folder, without circles; the rows
inside `log/` and `providers/` are drawn in their own `__init__.py` (`tests/test_layers.py`)::

    cli/                commands of the terminal: serve, chat, import, export, fsck, bench
    server/ bench/      the process, its listener and protocols; measuring
    app                 builds the parts in one lifespan, closes them in reverse
    web/                what a client speaks to: routes, SSE, WebSocket, origins, limits
    turns/              start, run, end: one task for each running turn
    views/              what is read from a log: subscriber, history, versions, usage
    log/ providers/     the event log and its stores; the adapters to language models
    schemas metrics     bodies and queries of requests; counts for Prometheus
    patterns            what the description says of ids, for those who read it
    detached            work that goes on where its caller leaves
    settings events     what the operator sets; ids, times and event types
    errors              every error that a caller can handle
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatstream.app import Chatstream, create_app
    from chatstream.errors import ProviderError, ProviderTimeout
    from chatstream.providers import (
        Finish,
        Message,
        Piece,
        Provider,
        ProviderRequest,
        Reasoning,
        Text,
        Usage,
    )
    from chatstream.settings import Settings

    __version__: str

__all__ = [
    "Chatstream",
    "Finish",
    "Message",
    "Piece",
    "Provider",
    "ProviderError",
    "ProviderRequest",
    "ProviderTimeout",
    "Reasoning",
    "Settings",
    "Text",
    "Usage",
    "__version__",
    "create_app",
]

_HOMES = {  # the others are in `providers`
    "app": ("Chatstream", "create_app"),
    "errors": ("ProviderError", "ProviderTimeout"),
    "settings": ("Settings",),
}

if not TYPE_CHECKING:  # it would have every name that is asked for

    def __getattr__(name: str) -> object:
        # Imported when first asked for: the local model's worker needs nothing of the server.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            from importlib.metadata import version

            return version("chatstream")
        home = next((home for home, names in _HOMES.items() if name in names), "providers")
        return getattr(import_module(f"chatstream.{home}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
