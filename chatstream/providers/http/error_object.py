"""
What a provider's error says: an error body or payload as one object, and what can be read in it.

A provider's text may quote the key or the prompt: its words are read for their meaning alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from chatstream.providers import ProviderRequest
from chatstream.providers.http.quotes import LONGEST, without_quotes, words_of

_CODE = re.compile(r"\w+(?:\.\w+)*")


def error_object(said: bytes) -> dict[str, Any]:
    """Read an error body or payload in any of the forms in use; empty where it is none."""
    try:
        value = orjson.loads(bytes(said))
    except orjson.JSONDecodeError:
        text = bytes(said).decode(errors="replace").strip()
        # A page is a proxy's, and not what the provider says.
        return {} if text.startswith("<") else {"message": text}
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict) and "error" in value:
        value = value["error"]
    if isinstance(value, dict) and isinstance(base := value.get("base_resp"), dict):
        # MiniMax's, at status 200.
        value = {"message": base.get("status_msg"), "code": str(base.get("status_code"))}
    if isinstance(value, str):
        return {"message": value}
    return value if isinstance(value, dict) else {}


def unquoted(error: Mapping[str, Any], request: ProviderRequest) -> Mapping[str, Any]:
    """Return an error without what it quotes of the request: users' words mean nothing here."""
    text = error.get("message") or error.get("detail")
    if not isinstance(text, str):
        return error
    return {**error, "message": without_quotes(text, words_of(request))}


def words(error: Mapping[str, Any]) -> frozenset[str]:
    """Return the codes in an error: identifiers alone, safe to log."""
    found = [error.get(key) for key in ("type", "code", "status")]
    found += [detail.get("reason") for detail in details(error)]
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and "flagged_input" in metadata:
        # OpenRouter's, at status 403: it is the message that is refused, not the key.
        found.append("content_filter")
    return frozenset(
        word.lower()
        for word in found
        if isinstance(word, str) and len(word) <= 64 and _CODE.fullmatch(word)
    )


def sentence(error: Mapping[str, Any]) -> str:
    """Return the beginning of what it says in words: a search in all of it could take seconds."""
    text = error.get("message") or error.get("detail")
    return text[:LONGEST] if isinstance(text, str) else ""


def details(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the details of Google's errors; none for others."""
    details = error.get("details")
    return [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []


def status_in(error: Mapping[str, Any]) -> int | None:
    """Return the status that an error inside a stream holds, if any."""
    for key in ("code", "status"):
        value = error.get(key)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:4])
        if isinstance(value, int) and 400 <= value <= 599:
            return value
    return None
