"""
chatstream: a streaming chat server that never loses or repeats a token.

A conversation is a log, and everything else is a view of it. The flow, in reading order::

    http/ websocket -> validation (+ guards) -> turns -> providers/ -> log -> subscriber -> wire

Layers, imports point down only (`tests/test_layers.py`)::

    composition  app, cli
    edge         http/, websocket
    guards       auth, limits
    work         turns, subscriber, history         (they meet only at the log)
    parts        log/, providers/
    values       events, wire, validation, errors, settings
"""
