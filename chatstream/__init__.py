"""
chatstream: a streaming chat server that never loses or repeats a token.

A conversation is a log, and everything else is a view of it. The flow, in reading order::

    http/ websocket -> validation (+ guards) -> turns -> providers/ -> log -> subscriber -> wire

Layers, imports point down only (`tests/test_layers.py`)::

    composition  app, cli, importing, exporting, fsck
    edge         http/, websocket
    guards       auth, limits
    work         turns, admission, subscriber, history   (they meet only at the log)
    parts        log/, providers/
    values       events, wire, validation, errors, settings
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
