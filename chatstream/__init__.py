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

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatstream.app import Chatstream, create_app
    from chatstream.settings import Settings

__all__ = ["Chatstream", "Settings", "create_app"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: the local model's worker needs nothing of the server.
    if name in ("Chatstream", "create_app"):
        from chatstream import app

        return getattr(app, name)
    if name == "Settings":
        from chatstream.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
