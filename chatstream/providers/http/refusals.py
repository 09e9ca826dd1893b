"""
Which field of a request a server refuses, from all the forms in which vendors tell it.

Servers that speak one protocol differ in which of its fields they take, and say so by a `param`, a
path to the field, or a sentence. `ways` has what is done about it. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from chatstream.errors import ProviderError
from chatstream.providers import ProviderRequest
from chatstream.providers.http.quotes import without_name, without_quotes, words_of

STATUSES: Final = frozenset((None, 400, 403, 422, 500, 501))
"""With which fields are refused; None within a stream, 500 by a chat template."""
_UNCLEAR: Final = (None, 403)
_MENDABLE: Final = frozenset(("stream_options", "max_tokens", "temperature", "system", "prefill"))

# What a field is called where it is named alone, by whichever vendor.
_NAMES: Final = {
    "stream_options": "stream_options include_usage",
    "max_tokens": "max_tokens max_completion_tokens max_output_tokens maxOutputTokens"
    " max_new_tokens num_predict",
    "temperature": "temperature",
    "system": "system system_instruction systemInstruction role",
    "prefill": "continue_final_message add_generation_prompt prefill",
    "stop": "stop stop_sequences stopSequences",
    "model": "model",
    "messages": "messages contents",
    "stream": "stream",
}
_FIELDS: Final = {name: field for field, names in _NAMES.items() for name in names.split()}
# How a sentence tells of one; looked for where the sentence is a refusal.
_SENTENCES: Final = {
    "stream_options": re.compile(r"stream_?options|include_usage"),
    "max_tokens": re.compile(r"\bmax_?(?:completion_?|output_?|new_?)?tokens\b|num_predict", re.I),
    "temperature": re.compile(r"\btemperature\b", re.I),
    "system": re.compile(
        r"\bsystem[ _]?(?:role|message|prompt|instruction)|\brole\b.{0,40}\bsystem\b"
        r"|['\"`]system\\*['\"`]"
        r"|developer instruction|only user(?: and|,) assistant",
        re.I,
    ),
    "prefill": re.compile(
        r"prefill|continue_final_message|add_generation_prompt|\bassistant\b.{0,40}\b(?:last|final)\b",
        re.I,
    ),
    "stop": re.compile(r"['\"`]stop['\"`]|\bstop_?sequences\b", re.I),
}
_REFUSED: Final = re.compile(
    r"(?:un|not )(?:supported|expected|recogni[sz]ed|known|permitted|allowed|enabled|accepted)"
    r"|(?:does not|doesn't|do not|don't|cannot|can't) (?:support|accept|allow|take|have|be used)"
    r"|\bextra(?:neous)?[ _]|forbidden|deprecated|cannot find field|no longer|additional propert"
    r"|(?:may|can|must) only be|only .{0,80}(?:supported|allowed|permitted|accepted)"
    r"|invalid (?:param|argument|field|key)"
    r"|must be removed|isn't supported",
    re.I,
)
# What a server would take instead, which is no refusal of it.
_TAKEN: Final = re.compile(
    r"\bexpected (?:one of|either|any of|[`'\"])[^.;]*"
    r"|\b(?:supported|allowed|valid|permitted|accepted|available|known|recognized)"
    r" (?:\w+ ){0,4}(?:are|include)\b[^.;]*"
    r"|\b(?:supported|allowed|valid|permitted|accepted|available|known|recognized)"
    r" (?:\w+ ){0,4}\w*:[^.;]*"
    r"|\b(?:choose from|must be one of|did you mean|instead of)\b[^.;]*",
    re.I,
)
# These need no other word: they say what the order of messages must be.
_ORDER: Final = (
    (
        "system",
        re.compile(r"(?<!optional system message, )conversation roles must alternate", re.I),
    ),
    (
        "prefill",
        re.compile(
            r"must end with a? ?['\"`]?user|(?:last|final) (?:message|role|turn)\b.{0,60}\buser"
            r"|expected last role user",
            re.I,
        ),
    ),
)
# A value that is out of bounds is no refusal of the field: the next request may have another.
_BOUNDS: Final = re.compile(
    r"less than|greater than|at most|at least|too (?:large|high|small|low|big)|exceed|between\b"
    r"|\brange\b|(?:max|min)imum (?:allowed|value)|must be (?:positive|a\b|an\b|in\b|>|<)|[<>]=?",
    re.I,
)


_HEADED: Final = re.compile(r"([\w.\[\]-]{1,80}): ")
"""Anthropic's sentences begin with the path."""


class FieldRefused(ProviderError):
    """
    The server refuses fields by name.

    Attributes:
        names: The fields, as `ways` and the settings call them.
        bounds: It is their values that are out of bounds: others would be taken.
        text: What it said.
    """

    def __init__(self, name: str, status: int | None, names: frozenset[str], text: str) -> None:
        self.names = names
        self.bounds = _BOUNDS.search(text) is not None
        self.text = text
        field = min(names)
        with_status = f" (status {status})" if status else ""
        super().__init__(
            f"{name} refused the field {field}{with_status}; {_SETTINGS[field]}.".replace(
                "NAME", name.upper()
            ),
            upstream_status=status,
        )


_SETTINGS: Final = {
    "stream_options": "it asks for the usage, and no setting leaves it out",
    "max_tokens": "it is the request's max_tokens",
    "temperature": "it is the request's temperature",
    "system": "it is CHATSTREAM_SYSTEM_PROMPT, or the request's system",
    "prefill": "it is the beginning of an answer to go on from, which OPENAI_PREFILL sends",
    "stop": "it is the request's stop",
    "model": "it is NAME_MODEL, or the request's model",
    "messages": "it is the conversation, of which CHATSTREAM_CONTEXT_MESSAGES are sent",
    "stream": "every answer is asked for as a stream",
    "anthropic-version": "it is ANTHROPIC_VERSION",
}


def refused(
    name: str, status: int | None, error: Mapping[str, Any], request: ProviderRequest
) -> FieldRefused | None:
    """
    Tell which fields of a request an error refuses; None where it refuses none by name.

    Args:
        name: The provider's.
        error: As `error_object` reads it.
        request: What was asked: none of its own words are taken for the server's.
    """
    if status not in STATUSES:
        return None

    def own(text: str) -> str:
        return without_name(without_quotes(text, asked), request.model)

    asked = words_of(request)
    places, text = list(_places(error, own)), own(" ".join(_sentences(error)))
    names = {_FIELDS[word] for place in places for word in place if word in _FIELDS}
    about = _TAKEN.sub("", text)
    told_of = {field for field, told in _SENTENCES.items() if told.search(about)}
    if _REFUSED.search(about):
        names |= told_of
    elif _BOUNDS.search(text):
        names |= told_of & {"temperature", "max_tokens"}
    names |= {field for field, told in _ORDER if told.search(text)}
    if re.search(r"anthropic[-_]version", text):
        names = {"anthropic-version"}
    if len(names) > 1:
        names -= {"messages", "model", "stream"}  # the path to another, or named in passing
    if status == 500:
        names &= {"system", "prefill"}  # a template's; else it is no refusal
    elif status in _UNCLEAR:
        names &= _MENDABLE  # it may be something else that is refused
    names = {field for field in names if _was_sent(field, request)}
    return FieldRefused(name, status, frozenset(names), text) if names else None


def _was_sent(field: str, request: ProviderRequest) -> bool:
    match field:
        case "temperature":
            return request.temperature is not None
        case "system":
            return bool(request.system)
        case "prefill":
            return request.messages[-1].role == "assistant"
        case "stop":
            return bool(request.stop)
    return True


def _places(error: Mapping[str, Any], own: Callable[[str], str]) -> Iterator[list[str]]:
    """Yield the words of each path to a field that an error holds."""
    for found in _within(error):
        message = found.get("message")
        headed = _HEADED.match(message) if isinstance(message, str) else None
        if headed and not _FIELDS.keys().isdisjoint(re.split(r"[^\w-]+", headed[1])):
            headed = _HEADED.match(own(headed.string))  # it may be a quote that stands there
        for place in (
            found.get("param"),
            found.get("field"),
            found.get("loc"),
            headed and headed[1],
        ):
            if isinstance(place, list | tuple):
                place = ".".join(map(str, place))
            if isinstance(place, str):
                words = re.split(r"[^\w-]+", place)
                if "role" in words and "0" not in words:
                    words.remove("role")  # of another message than the system prompt's
                yield words


def _sentences(error: Mapping[str, Any]) -> Iterator[str]:
    for found in _within(error):
        for key in ("message", "msg", "detail", "description", "code", "type", "raw"):
            if isinstance(text := found.get(key), str):
                yield text


def _within(value: object, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield an error's objects: itself, and those in it, not deeper than any vendor's lie."""
    if isinstance(value, Mapping):
        yield value
        inner = [value.get(key) for key in ("error", "message", "detail", "details", "errors")]
        inner += [value.get("fieldViolations"), value.get("field_violations")]
        inner.append(value.get("metadata"))  # OpenRouter's, of the provider that it asked
    else:
        inner = value[:20] if isinstance(value, list) else []
    for entry in inner if depth < 6 else ():
        if isinstance(entry, Mapping | list):
            yield from _within(entry, depth + 1)
