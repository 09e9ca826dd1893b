"""
How events leave: SSE frames and JSON frames, and the control events. Pure codecs, no I/O.

SSE follows the WHATWG HTML standard, section 9.2: an event is sent unnamed, so that
`EventSource.onmessage` sees it, and its JSON holds no raw line break.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

import orjson

from chatstream.events import EventId

MAX_FRAME_BYTES = 1_000_000
"""No WebSocket frame that the server sends is larger (CONTRACT section 4)."""

RETRY_MS = 1000
"""What EventSource waits before it comes back, at least."""


def sse(identifier: str, json: bytes) -> bytes:
    r"""
    Write one event; its id becomes the client's last one.

    >>> sse("1764000000000-0007", b"{}")
    b'id: 1764000000000-0007\ndata: {}\n\n'
    """
    return b"id: %b\ndata: %b\n\n" % (identifier.encode(), json)


def sse_all(events: Iterable[tuple[str, bytes]]) -> bytes:
    """Write several events, to leave in one piece."""
    return b"".join([sse(identifier, json) for identifier, json in events])


def sse_control(json: bytes) -> bytes:
    """Write a control event without an id: the client's last one stays."""
    return b"data: %b\n\n" % json


def sse_retry() -> bytes:
    """Say when to come back: jittered, so that a restart does not call all clients back at once."""
    return b"retry: %d\n\n" % random.randint(RETRY_MS, 3 * RETRY_MS)


def ready(conversation_id: str, last_id: EventId, ref: object = None) -> bytes:
    """Open a stream: it starts just after `last_id`."""
    event = {
        "type": "ready",
        "id": last_id,
        "conversation_id": conversation_id,
        "last_id": last_id,
    }
    return kept(event if ref is None else {**event, "ref": ref})


def caught_up(conversation_id: str, last_id: EventId) -> bytes:
    """Say that everything up to `last_id` is sent."""
    return kept({"type": "caught_up", "conversation_id": conversation_id, "last_id": last_id})


def reset(conversation_id: str) -> bytes:
    """Tell a client to drop what it shows and to load the history."""
    return kept({"type": "reset", "conversation_id": conversation_id})


HEARTBEAT = b'{"type":"heartbeat"}'


def kept(event: Mapping[str, object]) -> bytes:
    """Write an event that waits in memory: what `orjson` returns takes 4 KiB at least, or 64."""
    return bytes(memoryview(orjson.dumps(event)))
