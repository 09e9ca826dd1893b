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
from collections.abc import Mapping
from typing import Any, Final

import httpx

from chatstream.errors import ProviderError
from chatstream.providers import ProviderRequest
from chatstream.providers.http import failures, refusals
from chatstream.providers.http.error_object import error_object, unquoted, words

logger = logging.getLogger(__name__)

CONTENT: Final = logging.getLogger("chatstream.content")
"""What providers said, which may be users' text: off, unless the operator asks for it."""
CONTENT.disabled = True

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

    def __init__(self, name: str, pull: str = "", *secrets: str) -> None:
        """
        Args:
            pull: The command that gets a model that is not there.
            secrets: What is never told, wherever it stands.
        """
        self.name = name
        self._pull = pull
        self._secrets = [secret for secret in secrets if secret]

    def explained(
        self,
        status: int | None,
        body: bytes,
        response: httpx.Response,
        request: ProviderRequest | None = None,
    ) -> ProviderError:
        """
        Tell what an error body means, as `failures.explain` does.

        Args:
            status: None for an error that came within a stream.
            request: What was asked: none of its words are taken for the provider's.
        """
        error: Mapping[str, Any] = error_object(body)
        if request is not None:
            error = unquoted(error, request)
        model = "" if request is None else request.model
        failure = failures.explain(self.name, status, error, response.headers, model, self._pull)
        status = failure.upstream_status
        if request is not None and (failure.code == "provider_error" or status == 403):
            refused = refusals.refused(self.name, status, error_object(body), request)
            if refused is not None:
                return refused
        fields = self._kind_of(response, body, len(body))
        fields |= {"status": failure.upstream_status, "code": failure.code}
        if failure.code == "model_not_found":
            fields["model"] = model
        logger.warning("provider failed", extra={**fields, "said": _codes(error, request)})
        self._show(body)
        return failure

    def unreadable(self, response: httpx.Response, body: bytes, size: int = 0) -> ProviderError:
        """Take note of what is no answer. `size` is how long it is, where `body` is not all."""
        logger.warning("no answer", extra=self._kind_of(response, body, size or len(body)))
        self._show(body)
        return failures.unreadable(self.name)

    def _kind_of(self, response: httpx.Response, body: bytes, size: int) -> dict[str, Any]:
        declared = str(response.extensions.get("length"))
        media_type = _MEDIA_TYPE.match(response.headers.get("content-type", ""))
        kind: dict[str, Any] = {
            "provider": self.name,
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
            CONTENT.warning("provider said", extra={"provider": self.name, "body": shown})

    def _redacted(self, said: bytes) -> str:
        text = said[:MAX_LOOKED_AT].decode(errors="replace")
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return _SECRET.sub("[key]", text)


def _codes(error: Mapping[str, Any], request: ProviderRequest | None) -> str:
    """Return the codes in an error, but for those that are words of the request."""
    asked = " ".join(message.content for message in request.messages) if request else ""
    return " ".join(word for word in sorted(words(error)) if word not in asked.lower())
