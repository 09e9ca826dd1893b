"""
chatstream: a streaming chat server that never loses or repeats a token.

A conversation is a log, and everything else is a view of it. The flow, in reading order::

    http/ websocket -> validation (+ guards) -> turns -> reply -> providers/ -> log/
    log/ -> subscriber -> http/sse, subscription -> wire

Layers, imports point down only (`tests/test_layers.py`)::

    composition  app, cli, server (listener, descriptors), terminal, bench/, importing,
                 old_files, left_out, exporting, fsck, damage
    edge         http/ (a module per resource), websocket, subscription, frames,
                 http_protocol and socket_protocol (connections, heads, cycles, flow, mailbox,
                 overload, refusals)
    guards       auth, limits, services
    work         turns, starting, reply, deadlines, ending, admission, lag, versions,
                 context, subscriber, history, pulse, usage
                 (writers and readers meet only at the log)
    parts        log/, providers/ (an adapter a module, routing, resilience)
    values       events, wire, validation, patterns, errors, settings, metrics, logs, outlet,
                 repeats, prices
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
