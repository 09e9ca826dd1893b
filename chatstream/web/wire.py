"""
How events leave: SSE frames and JSON frames, and the control events. Pure codecs, no I/O.

SSE follows the WHATWG HTML standard, section 9.2: an event is sent unnamed, so that
`EventSource.onmessage` sees it, and its JSON holds no raw line break.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from chatstream.events import EventId, kept

MAX_FRAME_BYTES = 1_000_000
"""No WebSocket frame that the server sends is larger (`protocol.md`, section 4)."""

RETRY_MS = 1000
"""What EventSource waits before it comes back, at least."""


def sse(identifier: str, json: bytes) -> bytes:
    r"""
    Write one event; its id becomes the client's last one.

    >>> sse("1764000000000-0007", b"{}")
    b'id: 1764000000000-0007\ndata: {}\n\n'
    """
    return _lines(b"id: %b\ndata: %b\n\n" % (identifier.encode(), json))


def sse_all(events: Iterable[tuple[str, bytes]]) -> bytes:
    """Write several events, to leave in one piece."""
    return _lines(
        b"".join([b"id: %b\ndata: %b\n\n" % (name.encode(), json) for name, json in events])
    )


def sse_control(json: bytes) -> bytes:
    """Write a control event without an id: the client's last one stays."""
    return _lines(b"data: %b\n\n" % json)


def _lines(frames: bytes) -> bytes:
    """
    Escape what some readers take for the end of a line: U+0085, U+2028 and U+2029.

    The standard knows only LF and CR, but `str.splitlines`, which httpx and older readers built
    on it use, knows them too. They stand in JSON's strings alone.
    """
    if frames.isascii():
        return frames
    # Looked for by single bytes first, which costs a tenth: nearly no text has both of them.
    if 0xC2 in frames and 0x85 in frames:
        frames = frames.replace(b"\xc2\x85", b"\\u0085")
    if 0xE2 in frames and (0xA8 in frames or 0xA9 in frames):
        frames = frames.replace(b"\xe2\x80\xa8", b"\\u2028")
        frames = frames.replace(b"\xe2\x80\xa9", b"\\u2029")
    return frames


def sse_retry() -> bytes:
    """Say when to come back: jittered, so that a restart does not call all clients back at once."""
    return b"retry: %d\n\n" % random.randint(RETRY_MS, 3 * RETRY_MS)


def ready(
    conversation_id: str, last_id: EventId, ref: object = None, *, reset: bool = False
) -> bytes:
    """
    Open a stream: it starts just after `last_id`.

    Where a `reset` follows it has no id: who is cut off between the two comes back with the
    cursor that was no good, and is reset then.
    """
    event: dict[str, object] = {"type": "ready"}
    if not reset:
        event["id"] = last_id
    event |= {"conversation_id": conversation_id, "last_id": last_id}
    return kept(event if ref is None else {**event, "ref": ref})


def caught_up(conversation_id: str, last_id: EventId) -> bytes:
    """Say that everything up to `last_id` is sent."""
    return kept({"type": "caught_up", "conversation_id": conversation_id, "last_id": last_id})


def reset(conversation_id: str) -> bytes:
    """Tell a client to drop what it shows and to load the history."""
    return kept({"type": "reset", "conversation_id": conversation_id})


HEARTBEAT = b'{"type":"heartbeat"}'
