"""
What a provider's failure means: from a status, an error body or a broken connection to one error.

The messages are our own sentences. A provider's text may quote the key or the prompt: its words
are read for their meaning, and only its codes are logged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import httpx

from chatstream.errors import ProviderError, ProviderTimeout
from chatstream.providers.http.causes import account_is_empty, model_is_missing
from chatstream.providers.http.error_object import details, sentence, status_in, words
from chatstream.providers.http.quotes import without_name
from chatstream.providers.http.retry_after import retry_after

# Of the request, whatever is sent again: the same answer would come.
_PERMANENT_STATUSES = frozenset(range(300, 500)) - {408, 409, 425, 429}
_AUTH_WORDS = frozenset(
    (
        "api_key_invalid",
        "authentication_error",
        "invalid_api_key",
        "permission_denied",
        "permission_error",
        "unauthenticated",
    )
)
_LIMIT_WORDS = frozenset(
    ("insufficient_quota", "rate_limit_error", "rate_limit_exceeded", "resource_exhausted")
)
_CODE = re.compile(r"\w+(?:\.\w+)*")
# The part of a quota's name that says that it is only a while's.
_WHILE = re.compile(r"per_?(?:second|minute|hour|day)", re.IGNORECASE)
_REFUSAL_WORDS = frozenset(
    (
        "failed_precondition",
        "invalid_argument",
        "invalid_request_error",
        "not_found",
        "not_found_error",
    )
)
_CONTEXT_WORDS = frozenset(("context_length_exceeded", "exceed_context_size_error"))
_POLICY_WORDS = frozenset(
    ("content_filter", "content_policy_violation", "responsibleaipolicyviolation")
)
_CONTEXT_TEXT = re.compile(
    r"maximum context length|context (?:length|size|window)|prompt is too long"
    r"|input token count .* exceeds|too many (?:input )?tokens in",
    re.IGNORECASE,
)


def unreachable(name: str, error: httpx.TransportError) -> ProviderError:
    """Tell that no response came."""
    match error:
        case httpx.ConnectTimeout():
            return ProviderTimeout(f"{name} could not be reached in time.", retryable=True)
        case httpx.ConnectError() | httpx.ProxyError():
            return ProviderError(
                f"{name} cannot be reached.", code="provider_unreachable", retryable=True
            )
        case httpx.UnsupportedProtocol():
            return ProviderError(f"The address set for {name} is wrong.")
        case _:
            return ProviderError(
                f"{name} closed the connection without an answer.",
                code="provider_cut",
                retryable=True,
            )


def barred(name: str, why: str) -> ProviderError:
    """Tell that the proxy which the environment names for a provider is none."""
    return ProviderError(
        f"{name} cannot be reached: {why}.", code="provider_unreachable", retryable=True
    )


def encoded(name: str, how: str) -> ProviderError:
    """Tell that an answer is compressed in a way that is not undone."""
    return ProviderError(f"{name} sent a compressed answer: {how}.", retryable=True)


def cut(name: str) -> ProviderError:
    """Tell that an answer ended without its provider's end mark."""
    return ProviderError(f"{name} broke off its answer.", code="provider_cut", retryable=True)


def unreadable(name: str) -> ProviderError:
    """Tell that something came which is no answer in the provider's form."""
    return ProviderError(f"{name} sent an answer that cannot be read.", retryable=True)


def explain(
    name: str,
    status: int | None,
    error: Mapping[str, Any],
    headers: Mapping[str, str],
    model: str = "",
    pull: str = "",
) -> ProviderError:
    """
    Tell what an error means for the turn.

    Args:
        status: The response's; None for an error inside a stream, which may hold its own.
        error: As `error_object` reads it.
        headers: Of the response; looked up in lower case.
        model: The one that was asked for.
        pull: The command that gets a model that is not there, if there is one.
    """
    if status is None:
        status = status_in(error)
    said, text = words(error), sentence(error)
    unnamed = without_name(text, model)  # what a model is called says nothing of its provider
    wait = retry_after(headers, error, unnamed)
    waits = wait is not None or _is_a_whiles(error)
    code, told, retryable = _of_the_request(status, said, unnamed) or (
        _NO_CREDIT
        if account_is_empty(status, said, unnamed, waits=waits)
        else _no_model(model, pull)
        if model_is_missing(status, said, text, model)
        else _meaning(status, said)
    )
    return ProviderError(
        f"{name} {told} (status {status})." if status else f"{name} {told}.",
        code=code,
        retryable=retryable,
        upstream_status=status,
        retry_after=wait,
    )


def _is_a_whiles(error: Mapping[str, Any]) -> bool:
    return any(_WHILE.search(str(detail.get("violations"))) for detail in details(error))


_Meaning: TypeAlias = tuple[str, str, bool]
"""The code, the rest of the sentence, and whether asking again can help."""
_NO_CREDIT: Final[_Meaning] = (
    "provider_quota",
    "says that the server's account has no credit left",
    False,
)


def _of_the_request(status: int | None, said: frozenset[str], text: str) -> _Meaning | None:
    """Return what an error means that is about the very words of the request."""
    unclear = status in (None, 400, 422)
    if status == 413 or said & _CONTEXT_WORDS or (unclear and _CONTEXT_TEXT.search(text)):
        return "context_too_long", "takes no conversation as long as this", False
    if said & _POLICY_WORDS:
        return "content_refused", "refused the message for what it says", False
    return None


def _no_model(model: str, pull: str) -> _Meaning:
    sentence = f"has no model {model!r}" if model else "has no such model"
    if model and pull:
        sentence += f"; `{pull} {model}` gets it"
    return "model_not_found", sentence, False


def _meaning(status: int | None, said: frozenset[str]) -> _Meaning:
    if status in (401, 403) or said & _AUTH_WORDS:
        return "provider_auth", "refused the server's credentials", False
    if status == 429 or (status is None and said & _LIMIT_WORDS):
        return "provider_rate_limited", "is asked too often, or its quota is used up", True
    if status == 404:
        return "provider_error", "has nothing at the address that is set for it", False
    if status in _PERMANENT_STATUSES or (status is None and said & _REFUSAL_WORDS):
        return "provider_error", "refused the request", False
    return "provider_error", "failed", True


def without_end_mark() -> ProviderError:
    """Return what a clean end without the provider's own mark is: a cut."""
    return ProviderError(
        "The provider's stream ended without its end mark.", code="provider_cut", retryable=True
    )


def unforeseen() -> ProviderError:
    """Return what is told of an error that nobody foresaw; the log has the error itself."""
    return ProviderError("The provider's answer could not be read.", retryable=True)
