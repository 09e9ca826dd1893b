"""
What came from a provider, as the log may tell it: its kind, never its words.

An error body may quote the prompt, and an answer that cannot be read may be the reply. What they
say is logged only where the operator asked for it: by the logger `CONTENT`, which is off unless
`CHATSTREAM_LOG_CONTENT` is true.
"""

from __future__ import annotations

import html
import logging
import re
from typing import Any, Final

import httpx

from chatstream.errors import ProviderError
from chatstream.logs import CONTENT
from chatstream.providers import failures

logger = logging.getLogger(__name__)

MAX_LOGGED: Final = 1000
"""Characters of a body that the log shows where it may."""
MAX_TITLE: Final = 100
MAX_LOOKED_AT: Final = 64 * 1024

# What looks like a credential, whoever's it is.
_SECRET = re.compile(r"(?:\b(?:sk|pk|gsk|xai)-|AIza|Bearer +)[\w.*-]+")
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{1,400})", re.IGNORECASE)


class Report:
    """Tells the log what one provider sent that is no answer, and makes our error of it."""

    def __init__(self, name: str, *secrets: str) -> None:
        """`secrets` are never told, wherever they stand."""
        self._name = name
        self._secrets = [secret for secret in secrets if secret]

    def explained(self, status: int | None, body: bytes, response: httpx.Response) -> ProviderError:
        """Read an error body; `status` is None for an error that came within a stream."""
        error = failures.error_object(body)
        failure = failures.explain(self._name, status, error, response.headers)
        fields = self._kind_of(response, body, len(body))
        fields |= {"status": failure.upstream_status, "code": failure.code}
        words = " ".join(sorted(failures.words(error)))
        logger.warning("provider failed", extra={**fields, "said": words})
        self._show(body)
        return failure

    def unreadable(self, response: httpx.Response, body: bytes, size: int = 0) -> ProviderError:
        """Take note of what is no answer. `size` is how long it is, where `body` is not all."""
        logger.warning("no answer", extra=self._kind_of(response, body, size or len(body)))
        self._show(body)
        return failures.unreadable(self._name)

    def _kind_of(self, response: httpx.Response, body: bytes, size: int) -> dict[str, Any]:
        declared = str(response.extensions.get("length"))
        media_type = _MEDIA_TYPE.match(response.headers.get("content-type", ""))
        kind: dict[str, Any] = {
            "provider": self._name,
            "status": response.status_code,
            "content_type": media_type[0].lower() if media_type else "none",
            "length": int(declared[:18]) if declared.isdecimal() else size,
        }
        if body.lstrip().startswith(b"<") and (title := _TITLE.search(self._redacted(body))):
            kind["title"] = " ".join(html.unescape(title[1]).split())[:MAX_TITLE]
        return kind

    def _show(self, body: bytes) -> None:
        if body and not CONTENT.disabled:
            shown = self._redacted(body)[:MAX_LOGGED]
            CONTENT.warning("provider said", extra={"provider": self._name, "body": shown})

    def _redacted(self, said: bytes) -> str:
        text = said[:MAX_LOOKED_AT].decode(errors="replace")
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return _SECRET.sub("[key]", text)
