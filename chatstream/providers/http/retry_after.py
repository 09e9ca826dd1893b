"""When a provider wants to be asked again: from headers, an error's details or its words."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

from chatstream.providers.http.error_object import details

MAX_RETRY_AFTER: Final = 120.0
"""Seconds; a provider that asks for more is asked again after this."""

_RETRY_TEXT = re.compile(
    r"(?:retry|try again) (?:in|after) ((?:[\d.]+ ?(?:ms|s|m|h)[a-z]* ?)+)", re.I
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def retry_after(headers: Mapping[str, str], error: Mapping[str, Any], text: str) -> float | None:
    """Return the seconds to wait, from the most exact form that is there; `text` is its words."""
    seconds = _number(headers.get("retry-after-ms"), 0.001)
    if seconds is None:
        seconds = _number(headers.get("retry-after"))
    if seconds is None:
        seconds = _until(headers.get("retry-after"))
    for detail in details(error):
        if seconds is None:
            seconds = _duration(detail.get("retryDelay"))
    if seconds is None:
        match = _RETRY_TEXT.search(text)
        seconds = _duration(match[1]) if match else None
    return None if seconds is None else min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _number(text: str | None, unit: float = 1.0) -> float | None:
    try:
        value = float(text or "") * unit
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _until(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp() - time.time()
    except ValueError:
        return None


def _duration(text: object) -> float | None:
    parts = _DURATION.findall(text[:100]) if isinstance(text, str) else []
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else None
