"""
What callers may send, as JSON Schema says it: for those who read the description.

The checks themselves are in `validation`; a test holds the two to each other.
"""

from __future__ import annotations

from typing import Any

EVENT_ID = r"^[0-8][0-9]{12}-[0-9]{4}$"
PLACE = r"^[0-8][0-9]{12}-[0-9]{4}[mr][0-9]{13}-[0-9]{4}$"
"""Where a page of history ends."""

ID = r"^(?!\.\.?$)[^\u0000-\u001f\u007f-\u009f]*$"
"""No control characters, and neither `.` nor `..`."""

_SPACE = r"\t-\r\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
MESSAGE = rf"[^{_SPACE}]"
"""Something that is no white space."""

TITLE = (
    rf"^[{_SPACE}]*[^{_SPACE}\u0000-\u0008\u000e-\u001b\u007f-\u009f]"
    r"[^\u0000-\u0008\u000e-\u001b\u007f-\u0084\u0086-\u009f]*$"
)
"""The same, without control characters that are no white space."""


def say_null(schema: dict[str, Any]) -> None:
    """Describe each field that may be absent as one that may be null: the two mean the same."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        for choice in field.pop("anyOf", ()):
            if choice != {"type": "null"}:
                field |= choice
        if name not in required:
            field["type"] = [field["type"], "null"]
            if field.get("default", ...) is None:
                del field["default"]
