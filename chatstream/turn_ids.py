"""New turn ids: UUIDv7 (RFC 9562, section 5.7), so that they sort by time."""

from __future__ import annotations

import os
import time
import uuid


def new_turn_id() -> str:
    """Return an id that nobody else has."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    number &= ~(0xF << 76) & ~(0x3 << 62)
    return str(uuid.UUID(int=number | 0x7 << 76 | 0x2 << 62))
